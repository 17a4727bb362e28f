"""Studies from MLflow alone, in a process and a folder that know nothing of the search."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import forks
import pytest
from by_hand import SEARCH_ENDED, completed_trial, failed_trial, study_start
from stores import WriteStudy, local_address, make_runs

from search.errors import StudyError
from search.study.paths import StudyPaths, local_store
from search.tracking.mlflow import database, store
from search.tracking.mlflow.retrieve import (
    RemoteStudy,
    download_space,
    download_weights,
    find_remote_study,
    list_remote_studies,
    list_remote_trials,
    rank_remote_trials,
)
from search.tracking.mlflow.syncer import Syncer

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("unflushed")]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> Path:
    """Return a folder of studies with the study `digits` in MLflow, whose own folder is deleted. Tests only read it."""
    runs = make_runs(tmp_path_factory.mktemp("shipped") / "runs", pristine)
    paths = WriteStudy(runs)(
        [
            *study_start(),
            *completed_trial(0, [0.5, 0.7]),
            *failed_trial(1),
            *completed_trial(2, [0.9, 0.8]),
            *completed_trial(3, [0.7]),
            SEARCH_ENDED,
        ]
    )
    Syncer(paths, local_address(runs), keep_models=2, warn=pytest.fail).drain()
    shutil.rmtree(paths.folder)
    return runs


@pytest.fixture
def synced(shipped: Path, runs: Path) -> Path:
    """Return a copy of `shipped`, which a test may change."""
    shutil.copytree(shipped, runs, dirs_exist_ok=True)
    database.relocate(local_store(runs), store.artifact_root(local_store(runs)))
    return runs


def retrieved(runs: Path, name: str = "digits") -> RemoteStudy:
    return find_remote_study(store.connect(local_address(runs)), name)


def test_a_study_is_found_by_name_and_uid(shipped: Path) -> None:
    study = retrieved(shipped)
    assert study == retrieved(shipped, "0123456789abcdef")
    assert (study.name, study.user, study.backend, study.state) == ("digits", "me", "hyperband", "completed")
    assert (study.objective.name, study.objective.direction, study.best) == ("val_accuracy", "max", 0.9)
    assert study.is_local


def test_trials_have_typed_values_and_are_ranked(shipped: Path) -> None:
    study = retrieved(shipped)
    assert [(trial.number, trial.state) for trial in list_remote_trials(study)] == [
        (0, "completed"), (1, "failed"), (2, "completed"), (3, "completed"),
    ]  # fmt: skip
    best = rank_remote_trials(study)
    assert [(trial.number, trial.objective, trial.best_epoch, trial.epochs) for trial in best] == [
        (2, 0.9, 1, 2), (0, 0.7, 2, 2), (3, 0.7, 1, 1),
    ]  # fmt: skip
    assert [trial.params for trial in best[:2]] == [{"units": 10, "relu": True}, {"units": 8, "relu": True}]
    assert [trial.model_epoch for trial in best] == [1, 2, None]
    assert best[0].logs["loss"] == 0.5


def test_weights_and_space_are_downloaded(shipped: Path, tmp_path: Path) -> None:
    study = retrieved(shipped)
    weights, description = download_weights(study, rank_remote_trials(study)[0], tmp_path / "a")
    assert weights.read_bytes() == b"weights of 2/1"
    assert description["logs"] == {"loss": 1.0, "val_accuracy": 0.9}
    space = download_space(study, tmp_path / "b")
    assert space.name == "digits.py"
    assert (space.parent / "layers.py").read_text() == "WIDTH = 1\n"
    with pytest.raises(StudyError, match="no weights of trial 3"):
        download_weights(study, rank_remote_trials(study)[2], tmp_path / "c")


@pytest.mark.slow
def test_a_moved_store_works_in_another_process_in_another_folder(
    synced: Path, tmp_path: Path, templates: forks.Templates
) -> None:
    moved, elsewhere = tmp_path / "moved here", tmp_path / "elsewhere"
    synced.rename(moved)
    elsewhere.mkdir()
    code = (
        "import json, sys\n"
        "from search.tracking.mlflow import retrieve, store\n"
        "study = retrieve.find_remote_study(store.connect(store.resolve_uri(None, sys.argv[1])), 'digits')\n"
        "weights, description = retrieve.download_weights(study, retrieve.rank_remote_trials(study)[0], 'down')\n"
        "space = retrieve.download_space(study, 'down')\n"
        "print(json.dumps([weights.read_text(), description['params'], space.read_text()]))\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(moved)]
    with (tmp_path / "output.txt").open("w") as output:
        assert forks.start(templates.address("mlflow"), command, cwd=elsewhere, output=output.fileno()).wait() == 0
    said = json.loads((tmp_path / "output.txt").read_text())
    assert said == ["weights of 2/1", {"units": 10, "relu": True}, "import layers\n"]
    assert [path.name for path in elsewhere.iterdir()] == ["down"]
    assert not synced.exists()


def test_a_study_goes_on_in_a_moved_store(write: WriteStudy, runs: Path, tmp_path: Path) -> None:
    paths = write([*study_start(), *completed_trial(0, [0.5])])
    Syncer(paths, local_address(runs), warn=pytest.fail).drain()
    write([*completed_trial(1, [0.6]), SEARCH_ENDED])
    moved = tmp_path / "moved"
    runs.rename(moved)
    Syncer(StudyPaths.of(moved, "digits"), local_address(moved), warn=pytest.fail).drain()
    study = retrieved(moved)
    for trial, text in zip(rank_remote_trials(study), ["weights of 1/1", "weights of 0/1"], strict=True):
        assert download_weights(study, trial, tmp_path / f"down{trial.number}")[0].read_text() == text
    assert not runs.exists()


def test_the_error_for_an_unknown_or_ambiguous_name_lists_the_studies(synced: Path, write: WriteStudy) -> None:
    with pytest.raises(StudyError, match=r"no study 'digit': it has digits\. Did you mean 'digits'\?"):
        retrieved(synced, "digit")
    paths = write(study_start(uid="fedcba9876543210"))
    Syncer(paths, local_address(synced), warn=pytest.fail).drain()
    with pytest.raises(StudyError, match=r"2 studies 'digits'.*fedcba9876543210 \(by me, best none\)"):
        retrieved(synced)
    assert retrieved(synced, "digits-fedcba").uid == "fedcba9876543210"


def test_an_empty_store_is_reported(runs: Path) -> None:
    client = store.connect(local_address(runs))
    assert list_remote_studies(client) == []
    with pytest.raises(StudyError, match="none at all"):
        find_remote_study(client, "digits")


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "a/b.py", ".."])
def test_a_server_cannot_name_a_file_elsewhere(name: str, synced: Path, tmp_path: Path) -> None:
    study = retrieved(synced)
    (file,) = synced.rglob("study.json")
    data: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "space": name}))
    with pytest.raises(StudyError, match="no plain file name"):
        download_space(study, tmp_path / "down")
