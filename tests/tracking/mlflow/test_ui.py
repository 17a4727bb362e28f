"""`search ui`: the studies that it opens, their address, and the end of its server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from by_hand import SEARCH_ENDED, completed_trial, study_start
from commands import Command
from stores import WriteStudy, local_address, sync

from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import SearchStarted
from search.tracking.mlflow import retrieve, store, ui
from search.tracking.mlflow.position import Position

pytestmark = pytest.mark.usefixtures("unflushed")

UIDS = {"digits": "0123456789abcdef", "other": "fedcba9876543210"}


def write_both(write: WriteStudy, **options: str) -> list[retrieve.RemoteStudy]:
    """Ship two studies. Return them as MLflow has them."""
    for name, uid in UIDS.items():
        paths = write([*study_start(name, uid), *completed_trial(0, [0.5]), SEARCH_ENDED], name)
        sync(paths, **options)
    client = store.connect(local_address(paths.folder.parent))
    return [retrieve.find_remote_study(client, name) for name in UIDS]


def query(address: str) -> tuple[str, dict[str, list[str]]]:
    """Return the path of an address of the UI, and its parameters."""
    parts = urlsplit(urlsplit(address).fragment)
    return parts.path, parse_qs(parts.query)


def test_studies_of_several_experiments_are_compared_on_one_page(write: WriteStudy) -> None:
    studies = write_both(write)
    path, values = query(ui.comparison_address("http://here/", studies))
    assert path == "/compare-experiments/s"
    assert json.loads(values["experiments"][0]) == [study.experiment_id for study in studies]
    assert values["workflowType"] == ["machine_learning"]
    assert values["orderByAsc"] == ["false"]
    found = store.connect(local_address(write([], "digits").folder.parent)).search_runs(
        [study.experiment_id for study in studies], values["searchFilter"][0]
    )
    assert sorted(run.data.tags["search.study"] for run in found) == ["digits", "other"]


def test_studies_of_one_experiment_are_compared_there(write: WriteStudy, runs: Path) -> None:
    store.connect(local_address(runs)).create_experiment("ours", str(runs / "mlartifacts"))
    studies = write_both(write, experiment="ours")
    path, _ = query(ui.comparison_address("http://here", studies))
    assert path == f"/experiments/{studies[0].experiment_id}/runs"


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", False), ({"DISPLAY": ""}, "linux", False), ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True), ({}, "darwin", True),
    ],
)  # fmt: skip
def test_a_browser_is_opened_only_with_a_display(environment: dict[str, str], platform: str, expected: bool) -> None:
    assert ui.has_display(environment, platform) == expected


def test_a_study_that_mlflow_lacks_is_sent_first(write: WriteStudy, runs: Path, command: Command) -> None:
    write(study_start(), "digits")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = command("ui", "digits", "--runs", runs, "--no-browser", "--port", str(port))
    assert outcome.code == 2
    assert f"port {port} is taken" in outcome.err  # so the study was found
    assert Position.load(StudyPaths.of(runs, "digits").tracking).offset > 0


def test_a_study_that_mlflow_lacks_is_named_by_its_name(write: WriteStudy, runs: Path, command: Command) -> None:
    lock = Lock(write(study_start(), "digits").lock)  # a search that runs has not sent it yet
    outcome = command("ui", "digits", "--runs", runs, "--no-browser")
    lock.release()
    assert outcome.code == 2
    assert "study 'digits' is not in MLflow" in outcome.err
    assert "search sync digits" in outcome.err
    outcome = command("ui", "only_there", "--runs", runs, "--no-browser")
    assert outcome.code == 2
    assert "has no study 'only_there'" in outcome.err


def test_studies_in_several_stores_are_not_compared(write: WriteStudy, runs: Path, command: Command) -> None:
    write(study_start(), "digits")
    begun = study_start("other", UIDS["other"])[:2]
    write([*begun, SearchStarted("host", 42, {"tracking_uri": "http://elsewhere"})], "other")
    outcome = command("ui", "digits", "other", "--runs", runs)
    assert outcome.code == 2
    assert "several MLflow stores" in outcome.err
    assert "other in http://elsewhere" in outcome.err


@pytest.mark.slow
def test_a_hangup_while_the_server_starts_leaves_no_process(write: WriteStudy, runs: Path) -> None:
    write_both(write)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from search.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "ui", *UIDS, "--runs", str(runs), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("starting the MLflow UI")
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    _, alive = psutil.wait_procs(children, timeout=1)
    assert alive == []
