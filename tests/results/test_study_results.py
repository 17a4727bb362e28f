"""Results are the searched study's: after an overwrite, beside other studies, and with files missing."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from places import TINY

import search
from search import cli
from search.errors import StudyError
from search.space.file import SpaceRef, local_files, read_space
from search.study.lock import Lock
from search.worker import checkpoint

OPTIONS = {
    "backend": "hyperband",
    "max_epochs": 2,
    "seed": 0,
    "workers": 1,
    "progress": False,
    "objective": "val_loss",
}
LOGGER = """

def callbacks(hp):
    import search
    return [keras.callbacks.CSVLogger(search.trial_dir() / "curve.csv")]
"""


@pytest.fixture
def space(workplace: Path) -> Path:
    return Path(shutil.copy(TINY, workplace / "space.py"))


def test_a_callback_finds_the_trials_folder(space: Path) -> None:
    space.write_text(space.read_text() + LOGGER)
    study = search.run(space, max_trials=1, **OPTIONS)
    assert (study.paths.trial(0).folder / "curve.csv").read_text().startswith("epoch,accuracy,loss")
    assert len(study.get_best_models()) == 1


def test_a_study_that_is_not_there_is_refused_in_the_words_of_python(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no study 'digits': .* Another folder is given with runs=…$"):
        search.load_study("digits", tmp_path)


def test_after_an_overwrite_mlflow_gives_the_new_study(space: Path) -> None:
    search.run(space, study="t", max_trials=1, **OPTIONS)
    study = search.run(space, study="t", max_trials=2, **{**OPTIONS, "seed": 5}, overwrite=True)
    uri = f"sqlite:///{space.parent}/runs/mlflow.db"
    (ours,), (theirs,) = study.get_best_models(), search.get_best_models("t", tracking_uri=uri)
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True))


@pytest.mark.slow
def test_a_damaged_study_can_be_overwritten(space: Path) -> None:
    study = search.run(space, max_trials=1, **OPTIONS)
    lines = study.paths.journal.read_bytes().splitlines(keepends=True)
    study.paths.journal.write_bytes(b"".join([lines[0], b"?\n", *lines[2:]]))
    assert len(search.run(space, max_trials=1, overwrite=True, **OPTIONS).trials) == 1


def test_weights_of_another_epoch_than_the_best_are_announced(space: Path) -> None:
    study = search.run(space, max_trials=1, **OPTIONS)
    (model,) = study.get_best_models()
    best = study.best_trials()[0]
    assert best.best_epoch is not None
    checkpoint.save_weights(study.paths.trial(0).best(0), model.get_weights(), best.best_epoch + 7, 0.5)
    with pytest.warns(UserWarning, match=rf"of epoch {best.best_epoch + 7} \(0.5\), the best was {best.best_epoch}"):
        study.get_best_models()
    study.paths.trial(0).best(0).unlink()
    with pytest.raises(search.SearchError, match="has no weights in"):
        study.get_best_models()


def test_weights_of_another_trial_are_refused(space: Path) -> None:
    study = search.run(space, max_trials=2, **OPTIONS)
    first, second = (study.paths.trial(number).best(0) for number in (0, 1))
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)
    with pytest.raises(search.SearchError, match=r"best-0.npz has the weights of another trial \(it was copied"):
        study.get_best_models()
    assert cli.main(["export", study.name, "--to", "model.keras"]) == 2


@pytest.mark.slow
def test_a_checkpoint_of_another_trial_is_left_alone(space: Path) -> None:
    paused = {**OPTIONS, "max_epochs": 3, "max_total_epochs": 1}
    first = search.run(space, study="first", **paused)
    second = search.run(space, study="second", **{**paused, "seed": 9})
    shutil.copy(first.paths.trial(0).checkpoint(0), second.paths.trial(0).checkpoint(0))
    second.paths.journal.unlink()
    again = search.run(space, study="second", **{**paused, "seed": 9})
    assert [epoch.logs for epoch in again.trials[0].curve] == [epoch.logs for epoch in second.trials[0].curve]


def test_modules_of_one_study_do_not_reach_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "helper.py").write_text(f"WHO = {name!r}\n")
        code = "import helper\n\ndef build_model(hp):\n    return helper.WHO\n\ndef load_data():\n    return None\n"
        (folder / "space.py").write_text(code)
        path = list(sys.path)
        assert read_space(SpaceRef(path=str(folder / "space.py"))).build_model(None) == name
        assert [file for file, _ in local_files(folder / "space.py")] == ["helper.py", "space.py"]
        assert len(sys.path) <= len(path) + 1


def test_a_running_study_is_not_synced_by_another_process(space: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = search.run(space, max_trials=1, **OPTIONS)
    lock = Lock(study.paths.lock)
    assert cli.main(["sync", "space"]) == 2
    assert "is being run by process" in capfd.readouterr().err
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.main(["sync", "space"]) == 0
