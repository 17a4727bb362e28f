"""`search ui`: the MLflow UI on a store, opened where a study's trials are compared."""

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

START_SECONDS = 180.0


def address(base: str, study: retrieve.RemoteStudy | None) -> str:
    """The page that compares a study's trials: their parameters and curves, best first.

    Where the experiment could not be given one, the UI's own charts of the trials, which it would else fold away.
    """
    base = base.rstrip("/")
    if study is None:
        return f"{base}/#/experiments"
    if retrieve.has_page(study):
        return f"{base}/{view.address(study.experiment_id, study.uid)}"
    query = {
        "workflowType": "machine_learning",
        "searchFilter": view.condition(study.uid),
        "orderByKey": "metrics.`objective`",
        "orderByAsc": str(study.objective.direction == "min").lower(),
        "compareRunsMode": "CHART",
    }
    return f"{base}/#/experiments/{study.experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def serve(
    name: str | None, *, runs: str | Path, tracking_uri: str | None, port: int, say: Callable[[str], None]
) -> None:
    """Serve the UI on localhost until Ctrl-C; for a server that runs elsewhere, only say its address.

    Args:
        name: the study to open; the newest by default.

    Raises:
        OptionError: the port is taken.
        StudyError: there is no such study.
    """
    uri = store.resolve_uri(tracking_uri, runs)
    client = store.connect(uri, create=False)
    study = retrieve.find_study(client, name) if name is not None else next(iter(retrieve.studies(client)), None)
    file = store.local_database(uri)
    if file is None:
        say(address(store.redact(uri), study))
        return
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", port)) == 0:
            raise OptionError(f"port {port} is taken: give another with --port")
    database.relocate(file, store.artifact_root(file))
    base = f"http://127.0.0.1:{port}"
    process = _start(uri, runs, port)
    try:
        say("starting the MLflow UI, which takes half a minute …")
        _wait(process, base)
        say(f"{address(base, study)}\nCtrl-C ends it")
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
        # A job queue for features that a search does not use; it doubles the time to start.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (Path(runs) / "mlflow-ui.log").open("ab")
    with log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _wait(process: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.3)
    raise SearchError("the MLflow UI did not start: see mlflow-ui.log in the runs folder")
