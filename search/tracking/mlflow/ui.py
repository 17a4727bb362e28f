"""`search ui`: the MLflow UI on a store, opened at the page that compares a study's trials."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlencode

from search.errors import OptionError, SearchError
from search.tracking.mlflow import database, retrieve, store, view

UI_START_SECONDS = 180.0
"""The longest time for the UI to start, in seconds."""


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


def serve_ui(
    name: str | None, *, runs: str | Path, tracking_uri: str | None, port: int, say: Callable[[str], None]
) -> None:
    """Serve the UI on localhost until Ctrl-C. If the store is a server, only print the study's address there.

    Args:
        name: the study to open; the newest by default.
        runs: the folder of the studies.
        tracking_uri: the store; see `store.resolve_uri`.
        port: the port on localhost.
        say: prints one line.

    Raises:
        OptionError: the port is taken.
        StudyError: there is no such study.
    """
    uri = store.resolve_uri(tracking_uri, runs)
    client = store.connect(uri, create=False)
    study: retrieve.RemoteStudy | None
    if name is not None:
        study = retrieve.find_remote_study(client, name)
    else:
        study = next(iter(retrieve.list_remote_studies(client)), None)
    file = store.local_database(uri)
    if file is None:
        say(study_address(store.redact(uri), study))
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise OptionError(f"port {port} is taken: give another with --port")
    database.relocate(file, store.artifact_root(file))
    base = f"http://127.0.0.1:{port}"
    process = _start(uri, runs, port)
    try:
        say("starting the MLflow UI, which takes half a minute …")
        _wait(process, base)
        say(f"{study_address(base, study)}\nCtrl-C ends it")
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)


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
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _wait(process: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + UI_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.3)
    raise SearchError("the MLflow UI did not start: see mlflow-ui.log in the runs folder")
