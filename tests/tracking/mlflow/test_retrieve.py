"""Studies back from MLflow alone, in a process and a folder that have never seen the search."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import FINISHED, failed, opening, whole
from places import ROOT

from search.errors import StudyError
from search.study.paths import StudyPaths, local_store
from search.tracking.mlflow import store
from search.tracking.mlflow.retrieve import RemoteStudy, download, download_space, find_study, ranked, studies, trials
from search.tracking.mlflow.syncer import Syncer

Write = Callable[..., StudyPaths]


@pytest.fixture
def synced(write: Write, runs: Path) -> Path:
    """A `runs/` with the study `digits` in MLflow, and its folder gone."""
    paths = write([*opening(), *whole(0, [0.5, 0.7]), *failed(1), *whole(2, [0.9, 0.8]), *whole(3, [0.7]), FINISHED])
    Syncer(paths, f"sqlite:///{local_store(runs)}", keep_models=2, warn=pytest.fail).drain()
    shutil.rmtree(paths.folder)
    return runs


def found(runs: Path, name: str = "digits") -> RemoteStudy:
    return find_study(store.connect(f"sqlite:///{local_store(runs)}"), name)


def test_a_study_is_found_by_name_and_uid(synced: Path) -> None:
    study = found(synced)
    assert study == found(synced, "0123456789abcdef")
    assert (study.name, study.user, study.backend, study.state) == ("digits", "me", "hyperband", "completed")
    assert (study.objective.name, study.objective.direction, study.best) == ("val_accuracy", "max", 0.9)
    assert study.is_local


def test_trials_come_typed_and_ranked(synced: Path) -> None:
    study = found(synced)
    assert [(trial.number, trial.state) for trial in trials(study)] == [
        (0, "completed"), (1, "failed"), (2, "completed"), (3, "completed"),
    ]  # fmt: skip
    best = ranked(study)
    assert [(trial.number, trial.objective, trial.best_epoch, trial.epochs) for trial in best] == [
        (2, 0.9, 1, 2), (0, 0.7, 2, 2), (3, 0.7, 1, 1),
    ]  # fmt: skip
    assert [trial.params for trial in best[:2]] == [{"units": 10, "relu": True}, {"units": 8, "relu": True}]
    assert [trial.model_epoch for trial in best] == [1, 2, None]
    assert best[0].logs["loss"] == 0.5


def test_weights_and_space_come_back(synced: Path, tmp_path: Path) -> None:
    study = found(synced)
    weights, said = download(study, ranked(study)[0], tmp_path / "a")
    assert weights.read_bytes() == b"weights of 2/1"
    assert said["logs"] == {"loss": 1.0, "val_accuracy": 0.9}
    space = download_space(study, tmp_path / "b")
    assert space.name == "digits.py"
    assert (space.parent / "layers.py").read_text() == "WIDTH = 1\n"
    with pytest.raises(StudyError, match="no weights of trial 3"):
        download(study, ranked(study)[2], tmp_path / "c")


@pytest.mark.slow
def test_a_moved_store_works_in_a_fresh_process_in_another_folder(synced: Path, tmp_path: Path) -> None:
    moved, elsewhere = tmp_path / "moved here", tmp_path / "elsewhere"
    synced.rename(moved)
    elsewhere.mkdir()
    code = (
        "import json, sys\n"
        "from search.tracking.mlflow import retrieve, store\n"
        "study = retrieve.find_study(store.connect(store.resolve_uri(None, sys.argv[1])), 'digits')\n"
        "weights, said = retrieve.download(study, retrieve.ranked(study)[0], 'down')\n"
        "space = retrieve.download_space(study, 'down')\n"
        "print(json.dumps([weights.read_text(), said['params'], space.read_text()]))\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(moved)]
    out = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    assert json.loads(out.stdout) == ["weights of 2/1", {"units": 10, "relu": True}, "import layers\n"]
    assert [path.name for path in elsewhere.iterdir()] == ["down"]
    assert not synced.exists()


def test_a_study_goes_on_in_a_moved_store(write: Write, runs: Path, tmp_path: Path) -> None:
    paths = write([*opening(), *whole(0, [0.5])])
    Syncer(paths, f"sqlite:///{local_store(runs)}", warn=pytest.fail).drain()
    write([*whole(1, [0.6]), FINISHED])
    moved = tmp_path / "moved"
    runs.rename(moved)
    Syncer(StudyPaths.of(moved, "digits"), f"sqlite:///{local_store(moved)}", warn=pytest.fail).drain()
    study = found(moved)
    for trial, text in zip(ranked(study), ["weights of 1/1", "weights of 0/1"], strict=True):
        assert download(study, trial, tmp_path / f"down{trial.number}")[0].read_text() == text
    assert not runs.exists()


def test_an_unknown_or_ambiguous_name_lists_what_there_is(synced: Path, write: Write) -> None:
    with pytest.raises(StudyError, match=r"no study 'digit': it has digits\. Did you mean 'digits'\?"):
        found(synced, "digit")
    paths = write(opening(uid="fedcba9876543210"))
    Syncer(paths, f"sqlite:///{local_store(synced)}", warn=pytest.fail).drain()
    with pytest.raises(StudyError, match=r"2 studies 'digits'.*fedcba9876543210 \(by me, best none\)"):
        found(synced)
    assert found(synced, "digits-fedcba").uid == "fedcba9876543210"


def test_an_empty_store_says_so(runs: Path) -> None:
    client = store.connect(f"sqlite:///{local_store(runs)}")
    assert studies(client) == []
    with pytest.raises(StudyError, match="none at all"):
        find_study(client, "digits")


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "a/b.py", ".."])
def test_a_server_cannot_name_a_file_elsewhere(name: str, synced: Path, tmp_path: Path) -> None:
    study = found(synced)
    (file,) = synced.rglob("study.json")
    data: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "space": name}))
    with pytest.raises(StudyError, match="no plain file name"):
        download_space(study, tmp_path / "down")
