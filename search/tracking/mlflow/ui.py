"""`search ui`: the MLflow UI on a store, opened at the page that compares trials of one study, or of several."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from search.errors import OptionError, SearchError, StudyError
from search.tracking.mlflow import database, retrieve, store, view

UI_START_SECONDS = 180.0
"""The longest time for the UI to start, in seconds."""

STOP_SECONDS = 5.0
"""Seconds for the server's processes to end, before they are killed."""

SWITCH = 'trials are in the UI\'s mode "Model training": if a page lacks them, choose it at the top left, not "GenAI"'


# Addresses ------------------------------------------------------------------------------------------------------------


def study_address(base: str, study: retrieve.RemoteStudy | None) -> str:
    """Return the address of the page that compares a study's trials; without a study, of the list of experiments.

    If the experiment has no such page, the address is that of the UI's own charts of the trials, unfolded.

    Args:
        base: the server's address.
    """
    base = base.rstrip("/")
    if study is None:
        return f"{base}/#/experiments"
    if retrieve.has_page(study):
        return f"{base}/{view.page_address(study.experiment_id, study.uid)}"
    query = {
        "workflowType": "machine_learning",
        "searchFilter": view.trials_filter(study.uid),
        "orderByKey": "metrics.`objective`",
        "orderByAsc": str(study.objective.direction == "min").lower(),
        "compareRunsMode": "CHART",
    }
    return f"{base}/#/experiments/{study.experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def comparison_address(base: str, studies: Sequence[retrieve.RemoteStudy]) -> str:
    """Return the address of the page that shows the trials of several studies together, best first.

    MLflow's filters have no "or": trials of further studies in the same experiments are shown, too.

    Args:
        base: the server's address.
        studies: at least two.
    """
    ids = list(dict.fromkeys(study.experiment_id for study in studies))
    query = {
        "workflowType": "machine_learning",
        "searchFilter": "tags.`search.kind` = 'trial'",
        "orderByKey": "metrics.`objective`",
        "orderByAsc": str(studies[0].objective.direction == "min").lower(),
        "compareRunsMode": "CHART",
    }
    if len(ids) > 1:
        query = {"experiments": json.dumps(ids, separators=(",", ":")), **query}
    path = "compare-experiments/s" if len(ids) > 1 else f"experiments/{ids[0]}/runs"
    return f"{base.rstrip('/')}/#/{path}?{urlencode(query, quote_via=quote)}"


def has_display(environment: Mapping[str, str], platform: str) -> bool:
    """Return whether a browser can open a window.

    Args:
        platform: as `sys.platform`.
    """
    return platform == "darwin" or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


# The server -----------------------------------------------------------------------------------------------------------


def serve_ui(
    names: Mapping[str, str],
    *,
    runs: str | Path,
    tracking_uri: str | None,
    port: int,
    say: Callable[[str], None],
    browse: bool = False,
) -> None:
    """Serve the UI on localhost until Ctrl-C. If the store is a server, only print the address there.

    Args:
        names: the studies to open, each by its uid or another name that MLflow has, with the name that the user gave;
            none for the newest, several to compare them.
        runs: the folder of the studies.
        tracking_uri: the store; see `store.resolve_uri`.
        port: the port on localhost.
        say: prints one line.
        browse: open the address in a browser.

    Raises:
        OptionError: the port is taken.
        StudyError: there is no such study.
    """
    uri = store.resolve_uri(tracking_uri, runs)
    client = store.connect(uri, create=False)
    studies = [_find(client, *each) for each in names.items()]
    if not names:
        studies = retrieve.list_remote_studies(client)[:1]
    file = store.local_database(uri)
    if file is None:
        _show(_address(store.redact(uri), studies), say, browse=browse)
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise OptionError(f"port {port} is taken: give another with --port")
    database.relocate(file, store.artifact_root(file))
    base = f"http://127.0.0.1:{port}"
    with _served(uri, runs, port) as process:
        say("starting the MLflow UI, which takes half a minute …")
        _wait(process, base)
        _show(_address(base, studies), say, browse=browse)
        say("Ctrl-C ends it")
        process.wait()


def _find(client: Any, key: str, name: str) -> retrieve.RemoteStudy:
    try:
        return retrieve.find_remote_study(client, key)
    except StudyError:
        if key == name:
            raise
        uri = store.redact(client.tracking_uri)
        raise StudyError(f"study {name!r} is not in MLflow at {uri}: send it there with search sync {name}") from None


def _address(base: str, studies: Sequence[retrieve.RemoteStudy]) -> str:
    if len(studies) > 1:
        return comparison_address(base, studies)
    return study_address(base, studies[0] if studies else None)


def _show(address: str, say: Callable[[str], None], *, browse: bool) -> None:
    say(address)
    say(SWITCH)
    if browse:
        with suppress(webbrowser.Error):
            webbrowser.open(address)


@contextmanager
def _served(uri: str, runs: str | Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server, and end all its processes when the block ends, also by KeyboardInterrupt, which ends here."""
    process = _start(uri, runs, port)
    try:
        yield process
    except KeyboardInterrupt:
        pass
    finally:
        _end(process)


def _start(uri: str, runs: str | Path, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # The job queue is for features that a search does not use, and doubles the time to start.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (Path(runs) / "mlflow-ui.log").open("ab")
    with log:
        # A group of its own: MLflow's command starts the server proper as another process.
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End every process of the server's group. A second signal meanwhile must not leave one behind."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while _signal(process, 0) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.05)
        _signal(process, signal.SIGKILL)
        process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the server's group. Return whether the group has a process."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _wait(process: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + UI_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.3)
    raise SearchError("the MLflow UI did not start: see mlflow-ui.log in the runs folder")
