"""A study at a glance: its best trial, lists that notebooks show as tables, and its curves."""

from __future__ import annotations

import copy
import math
import pickle
import time
from pathlib import Path

import pytest

from search.errors import NoResult
from search.results.frames import curves_frame
from search.results.study_results import StudyResults
from search.space.domain import Domain, Parameter
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import (
    Built,
    EpochDone,
    Header,
    ParameterSet,
    Record,
    ResultTold,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
)
from search.study.trial import Objective

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))


def records(scores: dict[int, list[float]]) -> list[Record]:
    """Return a study's records: for each trial the objective after each epoch, of which each is a rung of its own."""
    found: list[Record] = [Header(7, "uid", "study", 5, (Objective("val_loss", "min"),), "", "", (LR,), {})]
    for trial, values in scores.items():
        for epoch, value in enumerate(values, 1):
            found.append(SegmentRequested(trial, epoch - 1, epoch, 0, epoch - 1, False, trial))
            found.append(SegmentStarted(trial, 0, 0, 0, epoch - 1, epoch))
            if epoch == 1:
                found += [ParameterSet(trial, LR, 0.01 * (trial + 1)), Built(trial, 10, "fit")]
            found.append(EpochDone(trial, 0, epoch, {"loss": 2.0, "val_loss": value}, 0.5))
            found += [SegmentEnded(trial, 0, "reached", epoch), ResultTold(trial, epoch, value, "reached")]
    return found


def study_of(folder: Path, scores: dict[int, list[float]]) -> StudyResults:
    paths = StudyPaths(folder / "study")
    paths.folder.mkdir()
    held, journal = Lock(paths.lock), Journal(paths.journal)
    journal.append(records(scores), time.time())
    journal.close()
    held.release()
    return StudyResults(paths)


def test_the_best_trial_is_at_hand(tmp_path: Path) -> None:
    study = study_of(tmp_path, {0: [0.5, 0.4], 1: [0.3], 2: [0.9]})
    assert len(study) == 3
    assert study.best_trial is study.study.trials[1]
    assert (study.best_value, study.best_params) == (0.3, {"lr": 0.02})
    study.best_params["lr"] = 7.0
    assert study.best_params == {"lr": 0.02}
    assert repr(study) == (
        f"<study 'study' in {tmp_path}/study: 3 trials: 3 paused; best val_loss 0.3000 · trial 1 · epoch 1 · lr=0.02>"
    )


def test_without_a_result_there_is_no_best_trial(tmp_path: Path) -> None:
    study = study_of(tmp_path, {})
    assert len(study) == 0
    assert study
    for name in ("best_trial", "best_value", "best_params"):
        with pytest.raises(NoResult, match=r"no trial with an objective: see load_study\('study'\)\.trials") as error:
            getattr(study, name)
        assert "\n" not in str(error.value)
    assert "no trial has an objective" in repr(study)
    assert study.curves_dataframe().empty


def test_trials_are_a_list_that_a_notebook_shows_as_a_table(tmp_path: Path) -> None:
    study = study_of(tmp_path, {0: [0.5], 1: [0.3], 2: [0.9]})
    best = study.best_trials()
    assert isinstance(best, list)
    assert [trial.number for trial in best] == [1, 0, 2]
    assert best == [study.study.trials[number] for number in (1, 0, 2)]
    assert best[0] is study.best_trial
    assert [trial.number for trial in study.best_trials(1)] == [1]
    shown = study.trials[1:]
    assert "<table" in shown._repr_html_()
    assert shown._repr_html_().count("<tr>") == 3
    assert repr(shown[:1]).startswith("[<trial 1: paused, 1 epoch, objective 0.3000 at epoch 1, lr=0.02")
    for copied in (copy.copy(best), copy.deepcopy(best), pickle.loads(pickle.dumps(best))):
        assert copied == best
        assert copied._repr_html_() == best._repr_html_()
    assert "val_loss" in study._repr_html_()


def test_curves_have_a_row_for_each_epoch(tmp_path: Path) -> None:
    frame = study_of(tmp_path, {0: [0.5, 0.4], 1: [0.3]}).curves_dataframe()
    assert list(frame.columns) == ["trial", "execution", "epoch", "rung", "loss", "val_loss", "seconds"]
    assert frame.to_numpy().tolist() == [
        [0, 0, 1, 0, 2.0, 0.5, 0.5],
        [0, 0, 2, 1, 2.0, 0.4, 0.5],
        [1, 0, 1, 0, 2.0, 0.3, 0.5],
    ]


def test_a_metric_may_be_called_like_a_column_and_be_missing(tmp_path: Path) -> None:
    study = study_of(tmp_path, {0: [0.5]})
    study.study.apply(EpochDone(0, 0, 2, {"epoch": 7.0, "seconds": 8.0}, 0.25), time.time())
    frame = curves_frame(study.trials, [])
    assert list(frame.columns) == [
        "trial", "execution", "epoch", "loss", "val_loss", "logs_epoch", "logs_seconds", "seconds",
    ]  # fmt: skip
    assert frame.iloc[1][["epoch", "logs_epoch", "logs_seconds", "seconds"]].tolist() == [2, 7, 8, 0.25]
    assert math.isnan(frame.iloc[1]["val_loss"])
