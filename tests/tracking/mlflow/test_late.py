"""Studies that MLflow gets after the script that ran them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import forks
import pytest
from by_hand import SEARCH_ENDED, completed_trial, study_start
from stores import WriteStudy, local_address, wait_until

from search.options import Options
from search.study.lock import Lock
from search.study.paths import StudyPaths, local_store
from search.tracking.mlflow import late, late_child, store
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.retrieve import find_remote_study, rank_remote_trials
from search.tracking.mlflow.sending import send_if_behind
from search.tracking.mlflow.syncer import Syncer

RECORDS = [*study_start(), *completed_trial(0, [0.5]), *completed_trial(1, [0.75]), SEARCH_ENDED]


def is_sent(paths: StudyPaths) -> bool:
    return Position.load(paths.tracking).offset == paths.journal.stat().st_size


def trials_in_mlflow(paths: StudyPaths) -> int:
    client = store.connect(local_address(paths.folder.parent), create=False)
    return len(rank_remote_trials(find_remote_study(client, paths.folder.name)))


# The decision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, True),
        ({"uri": "http://tracking:5000"}, False),
        ({"interactive": True}, False),
        ({"modules": {"mlflow": None}}, False),
        ({"environment": {"CI": "true"}}, False),
        ({"environment": {"SLURM_JOB_ID": "7"}}, False),
        ({"process": 1}, False),
        ({"opts": Options(require=("val_loss<1",))}, False),
        ({"opts": Options(parent_run="a" * 32)}, False),
    ],
)
def test_only_a_script_that_does_not_look_is_sent_late(other: dict[str, Any], expected: bool) -> None:
    script: dict[str, Any] = {
        "opts": Options(),
        "uri": "sqlite:////runs/mlflow.db",
        "interactive": False,
        "modules": {},
        "environment": {},
        "process": 4711,
    }
    given = script | other
    assert late.may_be_late(given.pop("opts"), given.pop("uri"), **given) is expected


# The syncer's rest ----------------------------------------------------------------------------------------------------


def test_a_search_that_ends_within_the_rest_is_left(write: WriteStudy, runs: Path) -> None:
    paths = write(RECORDS)
    syncer = Syncer(paths, local_address(runs), rest=60.0, warn=pytest.fail)
    syncer.start()
    assert not syncer.finish(10.0)
    assert syncer.left
    assert not paths.tracking.exists()


def test_a_search_that_goes_on_after_the_rest_is_sent(write: WriteStudy, runs: Path) -> None:
    paths = write(RECORDS)
    syncer = Syncer(paths, local_address(runs), rest=0.05, warn=pytest.fail)
    syncer.start()
    wait_until(lambda: is_sent(paths))
    assert syncer.finish(60.0)
    assert not syncer.left


# The process ----------------------------------------------------------------------------------------------------------


def run_child(monkeypatch: pytest.MonkeyPatch, *studies: StudyPaths) -> int:
    waiting = {str(paths.folder): local_address(paths.folder.parent) for paths in studies}
    monkeypatch.setattr(sys, "argv", ["late_child", json.dumps(waiting)])
    monkeypatch.setattr(late_child, "NICENESS", 0)
    return late_child.main()


def test_the_process_sends_each_study(write: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(RECORDS)
    assert run_child(monkeypatch, paths) == 0
    assert is_sent(paths)
    assert trials_in_mlflow(paths) == 2


def test_a_study_that_is_gone_is_not_made_again(write: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(RECORDS)
    shutil.rmtree(paths.folder.parent)
    assert run_child(monkeypatch, paths) == 0
    assert not paths.folder.parent.exists()


def test_a_study_that_runs_again_sends_itself(write: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(RECORDS)
    lock = Lock(paths.lock)
    try:
        assert run_child(monkeypatch, paths) == 1
        send_if_behind(paths, local_address(paths.folder.parent), pytest.fail)
    finally:
        lock.release()
    assert not paths.tracking.exists()
    assert "is being run by process" in paths.log.read_text()


def test_whoever_looks_first_sends_what_is_missing(write: WriteStudy, runs: Path) -> None:
    paths = write(RECORDS)
    send_if_behind(paths, "http://127.0.0.1:9", pytest.fail)  # a server is not asked
    assert not paths.tracking.exists()
    send_if_behind(paths, local_address(runs), pytest.fail)
    assert is_sent(paths)
    assert trials_in_mlflow(paths) == 2


# Scripts --------------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import keras, numpy as np
import search

def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
data = (x[:48], x[:48].sum(axis=1)), (x[48:], x[48:].sum(axis=1))
options = {"max_trials": 2, "max_epochs": 1, "backend": "optuna", "pruner": "none", "seed": 0, "report": False}
search.run(build_model, data, progress=False, study="s", **options)
told = {"mlflow": "mlflow" in sys.modules}
if "look" in sys.argv:
    models = search.get_best_models("s", 2, tracking_uri="sqlite:///runs/mlflow.db")
    told["models"] = len(models)
open("told", "w").write(json.dumps(told))
"""


def run_script(templates: forks.Templates, folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Run the script in `folder`. Return what it tells, and its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "SLURM_JOB_ID")}
    with (folder / "output").open("w") as output:
        command = ["python", "-c", SCRIPT, *arguments]
        address = templates.address("keras")
        process = forks.start(address, command, env=environment, cwd=folder, output=output.fileno())
        assert process.wait(240) == 0, (folder / "output").read_text()
    return json.loads((folder / "told").read_text()), (folder / "output").read_text()


@pytest.mark.slow
def test_a_short_search_is_sent_after_its_script(templates: forks.Templates, tmp_path: Path) -> None:
    told, output = run_script(templates, tmp_path)
    assert told == {"mlflow": False}
    assert "MLflow gets this study when the script has ended; `search sync s` sends it at once" in output
    paths = StudyPaths.of(tmp_path / "runs", "s")
    wait_until(lambda: is_sent(paths) and Position.load(paths.tracking).winner != "", 120)
    assert trials_in_mlflow(paths) == 2


@pytest.mark.slow
def test_a_script_that_asks_mlflow_gets_its_search(templates: forks.Templates, tmp_path: Path) -> None:
    told, _ = run_script(templates, tmp_path, "look")
    assert told == {"mlflow": False, "models": 2}
    assert local_store(tmp_path / "runs").exists()
