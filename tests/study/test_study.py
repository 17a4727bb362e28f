"""The fold of a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.errors import JournalError
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter
from search.study.journal import Entry, Journal
from search.study.records import (
    FORMAT,
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    ParameterSet,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.study import Study, fold, read_study
from search.study.trial import Objective
from search.testing import Simulation
from search.testing.backends import ROUGH

HEADER = Header(FORMAT, "f00", "digits", 7, (Objective("acc", "max"),), "", "d", (), {})


def study_of(*records: Record, times: Any = None) -> Study:
    return fold(Entry(record, time, 0) for record, time in zip(records, times or range(len(records)), strict=True))


def trial_of(number: int, *curve: float, end: Any = None) -> list[Record]:
    records: list[Record] = [SegmentRequested(number, 0, 9, 1, 0, False, 42), SegmentStarted(number, 0, 0, 3, 0, 9)]
    records += [EpochDone(number, 0, epoch, {"acc": value}, 2.0) for epoch, value in enumerate(curve, 1)]
    outcome: Any = "failed" if end == "failed" else "interrupted"
    return [*records, *([SegmentEnded(number, 0, outcome, len(curve)), TrialEnded(number, end)] if end else [])]


def test_a_trial_is_the_fold_of_its_records() -> None:
    parameter = Parameter("x", Domain("int", 1, 9))
    study = study_of(
        HEADER,
        BackendChanged("optuna", {}),
        SearchStarted("", 0, {}),
        *trial_of(0, 0.5, 0.9, 0.7),
        ParameterSet(0, parameter, 4),
        Built(0, 1000, "fused"),
        Checkpointed(0, 0, 2, 2),
    )
    trial = study.trials[0]
    assert (trial.objective, trial.best_epoch, trial.epochs, trial.progress.trained) == (0.9, 2, 3, 3)
    assert (trial.params, trial.parameters) == ({"x": 4}, [parameter])
    assert (trial.weight_count, trial.runner) == (1000, "fused")
    assert (trial.state, trial.resources.slot, trial.seed, trial.progress.bracket, trial.phase) == (
        "running",
        3,
        42,
        1,
        0,
    )
    assert (trial.best_execution.checkpoint, trial.best_execution.saved_epoch, trial.seconds) == (2, 2, 6.0)
    assert (study.name, study.seed, study.epochs, study.best) == ("digits", 7, 3, trial)


def test_states() -> None:
    begun = [HEADER, SearchStarted("", 0, {}), *trial_of(0, 0.5)]
    assert study_of(*begun).trials[0].state == "running"
    assert study_of(*begun, SegmentEnded(0, 0, "interrupted", 1)).trials[0].state == "paused"
    assert study_of(*begun, SearchStarted("", 0, {})).trials[0].state == "paused"
    assert study_of(*begun, SegmentEnded(0, 0, "reached", 1), TrialEnded(0, "stopped")).trials[0].state == "stopped"


def test_a_value_that_is_not_finite_is_no_objective() -> None:
    study = study_of(HEADER, *trial_of(0, float("nan"), 0.3, float("inf")), *trial_of(1, float("nan")))
    assert (study.trials[0].objective, study.trials[0].best_epoch) == (0.3, 2)
    assert study.trials[1].objective is None
    assert study.ranked() == [study.trials[0]]


def test_the_best_come_first_and_the_older_of_equals() -> None:
    study = study_of(
        HEADER, *trial_of(0, 0.5), *trial_of(1, 0.8), *trial_of(2, 0.8), *trial_of(3, 0.9, end="failed"), *trial_of(4)
    )
    assert [trial.number for trial in study.ranked()] == [1, 2, 0]
    assert study.best is study.trials[1]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_best_is_the_first_of_the_ranking_at_every_record(direction: Any) -> None:
    from search.backends.hyperband import Hyperband
    from search.study.trial import Objective

    objective = Objective("val_loss", direction)
    search = Simulation(ROUGH, lambda s: Hyperband(objective, s.seed, max_epochs=9), objective=objective, slots=3)
    study = Study()
    for entry in search.run().entries:
        study.apply(entry.record, entry.time)
        ranked = study.ranked()
        assert study.best is (ranked[0] if ranked else None) or study.best.objective == ranked[0].objective  # type: ignore[union-attr]
    assert any(trial.state == "failed" and trial.objective is not None for trial in study.trials.values())


def test_seconds_count_while_a_process_lives() -> None:
    records = [
        HEADER,
        SearchStarted("", 0, {}),
        *trial_of(0, 0.5),
        SearchStarted("", 0, {}),
        SearchEnded("", True, 0),
        SearchStarted("", 0, {}),
    ]
    times = [0.0, 10.0, 11.0, 12.0, 20.0, 100.0, 105.0, 200.0]
    assert study_of(*records[:5], times=times[:5]).seconds() == 10
    assert study_of(*records[:5], times=times[:5]).seconds(40.0) == 30
    assert study_of(*records[:6], times=times[:6]).seconds() == 10  # the first process was killed at 20
    assert study_of(*records[:7], times=times[:7]).seconds(1000.0) == 15
    assert study_of(*records, times=times).seconds(207.0) == 22


def test_a_success_forgets_errors_of_lost_processes() -> None:
    lost = [HEADER, *trial_of(0, 0.5), SegmentEnded(0, 0, "lost", 1, "killed")]
    assert study_of(*lost).trials[0].error == "killed"
    assert study_of(*lost).trials[0].resources.lost == 1
    assert study_of(*lost, EpochDone(0, 0, 2, {"acc": 0.1}, 1.0)).trials[0].resources.lost == 0
    assert study_of(*lost, ResultTold(0, 1, 0.5, "reached")).trials[0].error is None
    assert study_of(*lost, ResultTold(0, 1, None, "failed")).trials[0].error == "killed"


def test_a_study_is_read_from_its_journal(tmp_path: Path) -> None:
    from search.backends.hyperband import Hyperband

    path = tmp_path / "journal.jsonl"
    search = Simulation(
        ROUGH, lambda s: Hyperband(s.objective, s.seed, max_epochs=9), limits=Limits(max_trials=9), slots=2
    ).run()
    journal = Journal(path)
    for entry in search.entries:
        journal.append([entry.record], entry.time)
    journal.close()
    loaded = read_study(path)
    assert loaded.trials.keys() == search.study.trials.keys()
    for trial, theirs in zip(loaded.trials.values(), search.trials, strict=True):
        trial.began_at, trial.end.at = theirs.began_at, theirs.end.at  # the journal rounds them
        assert trial == theirs
    assert loaded.epochs == search.study.epochs


def test_an_empty_journal_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.touch()
    with pytest.raises(JournalError, match=r"empty.*delete"):
        read_study(path)


def test_a_trial_has_the_largest_peak_of_its_segments_and_the_median_time_of_its_epochs() -> None:
    request, start, *epochs = trial_of(0, 0.5, 0.9, 0.7)
    ended = [SegmentEnded(0, 0, "lost", 1, peak_device_memory=peak) for peak in (None, 700, None, 500)]
    trial = study_of(HEADER, request).trials[0]
    assert (trial.seconds_per_epoch, trial.peak_device_memory) == (None, None)
    segments = [record for end in ended for record in (start, end)]
    slow = EpochDone(0, 0, 2, {"acc": 0.5}, 90.0)
    trial = study_of(HEADER, request, *segments, start, *epochs[:1], slow).trials[0]
    assert (trial.seconds_per_epoch, trial.peak_device_memory) == (2.0, 700)
