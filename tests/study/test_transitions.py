"""The table of a trial's transitions, and the fold that keeps to it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from search.errors import JournalError
from search.study import records
from search.study.records import (
    BackendChanged,
    EpochDone,
    Exported,
    Header,
    Judged,
    Outcome,
    Record,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TimedOut,
    TrialEnded,
)
from search.study.records import ResultTold as Told
from search.study.study import Study
from search.study.transitions import ENDS, RUNNING, TRANSITIONS, VISIBLE, Event, Status, next_status
from search.study.trial import EndState, Objective, State

REQUESTED = SegmentRequested(0, 0, 9, None, None, True, 1)
STARTED = SegmentStarted(0, 0, 0, 0, 0, 9)


def study_of(*records: Record) -> Study:
    study = Study()
    for record in (BackendChanged("optuna", {}), *records):
        study.apply(record, 0.0)
    return study


def test_the_table_is_closed() -> None:
    statuses, events = set(get_args(Status)), set(get_args(Event))
    assert set(TRANSITIONS) == events
    assert set(VISIBLE) == statuses
    assert set(VISIBLE.values()) == set(get_args(State))
    reached = {status for moves in TRANSITIONS.values() for status in moves.values()}
    assert reached == statuses
    left = {status for moves in TRANSITIONS.values() for status in moves}
    assert left == statuses - ENDS
    assert set(get_args(EndState)) == ENDS
    # A process that dies leaves no trial running.
    assert set(TRANSITIONS["abandoned"]) == RUNNING
    assert RUNNING.isdisjoint(TRANSITIONS["abandoned"].values())


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_every_outcome_takes_a_trial_out_of_its_slot(outcome: Any) -> None:
    trial = study_of(REQUESTED, STARTED, SegmentEnded(0, 0, outcome, 0)).trials[0]
    assert trial.status not in RUNNING
    assert trial.resources.slot is None
    assert trial.failed == (outcome in ("failed", "fatal"))
    assert trial.infeasible == (outcome == "infeasible")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([STARTED], "trial 0 was started while it was running"),
        ([REQUESTED], "trial 0 was requested while it was running"),
        ([TrialEnded(0, "completed")], "trial 0 was completed while it was running"),
        ([SegmentEnded(0, 0, "reached", 9), SegmentEnded(0, 0, "reached", 9)], "was ended while it was requested"),
        ([SegmentEnded(0, 0, "reached", 9), TimedOut(0, "")], "was out of time while it was requested"),
        (
            [SegmentEnded(0, 0, "failed", 0), Told(0, 0, None, "failed"), TrialEnded(0, "failed"), STARTED],
            "was started while it was failed",
        ),
        ([SearchStarted("", 0, {}), SegmentEnded(0, 0, "reached", 9)], "was ended while it was requested"),
    ],
)
def test_a_record_that_does_not_fit_is_found(records: list[Record], words: str) -> None:
    with pytest.raises(JournalError, match=words):
        study_of(REQUESTED, STARTED, *records)


def test_an_event_that_cannot_happen_is_named() -> None:
    with pytest.raises(JournalError, match="trial 7 was told while it was running"):
        next_status(7, "running", "told")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (SegmentRequested(2, 0, 9, None, None, True, 1), "trial 2 begins, and trial 1 has not begun"),
        (SegmentRequested(1, 3, 9, None, None, True, 1, parent=5), "trial 5 has not begun"),
        (SegmentEnded(1, 0, "reached", 9), "trial 1 has not begun"),
        (EpochDone(0, 1, 1, {}, 0.5), "execution 1 of trial 0 has not begun"),
        (EpochDone(7, 0, 1, {}, 0.5), "trial 7 has not begun"),
        (Judged(7, 1, False), "trial 7 has not begun"),
        (records.Tested(0, 3, 1, {}), "execution 3 of trial 0 has not begun"),
        (Exported(4, 0, 1, {}, ()), "trial 4 has not begun"),
    ],
)
def test_a_record_of_a_trial_that_there_is_not_is_found(record: Record, words: str) -> None:
    with pytest.raises(JournalError, match=words):
        study_of(REQUESTED, STARTED, record)


def test_a_second_header_is_found() -> None:
    header = Header(8, "uid", "t", 0, (Objective("loss", "min"),), "", "", (), {})
    with pytest.raises(JournalError, match="the study has begun already"):
        study_of(header, header)


def test_an_execution_that_skips_one_is_found() -> None:
    ended = SegmentEnded(0, 0, "interrupted", 1)
    with pytest.raises(JournalError, match="execution 2 of trial 0 has not begun"):
        study_of(REQUESTED, STARTED, ended, SegmentStarted(0, 2, 0, 0, 0, 9))
