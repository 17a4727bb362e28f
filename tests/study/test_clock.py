"""Clocks that are set, and processes that are stopped: neither counts as training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from search.scheduler.events import StartSegment
from search.scheduler.stopping import Timeout
from search.scheduler.timeouts import Timeouts
from search.study.clock import RunningClock, SearchClock, present
from search.study.records import (
    FORMAT,
    BackendChanged,
    EpochDone,
    Header,
    Record,
    SearchEnded,
    SearchStarted,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
)
from search.study.study import Study
from search.study.trial import Objective

NOON = 1_700_000_000.0


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.system, self.steady, self.used = NOON, 50.0, 1.0

    def run(self, seconds: float, *, busy: float = 0.0) -> None:
        """Let time pass, of which a process uses the share `busy`."""
        self.system, self.steady, self.used = self.system + seconds, self.steady + seconds, self.used + busy * seconds

    def watch(self, seconds: float, clock: Any) -> None:
        """Let time pass while a driver looks at its clock every tenth of a second."""
        for _ in range(round(10 * seconds)):
            self.run(0.1, busy=0.01)
            clock()

    def clock(self, last: float = 0.0, *, watched: bool = True) -> SearchClock:
        running = RunningClock(lambda: self.steady, lambda: self.used)
        return SearchClock(last, watched=watched, system=lambda: self.system, running=running)


def test_a_clock_that_is_set_changes_no_time_of_a_process() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.watch(10, clock)
    machine.system -= 3600
    machine.watch(10, clock)
    machine.system += 86400
    machine.watch(10, clock)
    assert clock() == pytest.approx(NOON + 30)


def test_a_process_that_is_stopped_has_no_time() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.watch(10, clock)
    machine.run(3600)
    machine.watch(10, clock)
    assert clock() == pytest.approx(NOON + 20)


def test_a_driver_that_computes_for_long_is_not_stopped() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.run(60, busy=0.9)
    assert clock() == pytest.approx(NOON + 54)
    machine.run(60, busy=3)  # in several threads
    assert clock() == pytest.approx(NOON + 114)
    machine.run(4)  # a slow disk
    assert clock() == pytest.approx(NOON + 118)


def test_a_driver_that_trains_itself_may_wait_for_a_gpu() -> None:
    machine = Machine()
    clock = machine.clock(watched=False)
    machine.run(600)
    assert clock() == pytest.approx(NOON + 600)


def test_a_process_begins_no_earlier_than_the_last_record() -> None:
    machine = Machine()
    assert machine.clock(NOON + 3600)() == pytest.approx(NOON + 3600)
    assert machine.clock(NOON - 3600)() == pytest.approx(NOON)


def test_another_process_reads_the_searchs_present_from_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    os.utime(journal, (NOON, NOON))
    # The search was stopped for an hour, so its clock lags behind the system's.
    assert present(journal, NOON - 3600, lambda: NOON + 2) == NOON - 3598
    assert present(journal, NOON - 3600, lambda: NOON - 86400) == NOON - 3600
    assert present(tmp_path / "none", NOON, lambda: NOON + 5) == NOON


# The limits of time ---------------------------------------------------------------------------------------------------

HEADER = Header(FORMAT, "0", "study", 7, (Objective("val_loss", "min"),), "", "", (), {})
REQUESTED = SegmentRequested(0, 0, 9, None, None, judged=False, seed=1)
STARTED = SearchStarted("here", 0, {})


def study_of(*records: tuple[float, Record]) -> Study:
    study = Study()
    for time, record in records:
        study.apply(record, time)
    return study


def test_neither_limit_of_time_counts_a_stop_or_a_clock_that_is_set() -> None:
    machine = Machine()
    clock = machine.clock()
    study = study_of((NOON, HEADER), (NOON, STARTED), (NOON, REQUESTED), (NOON, SegmentStarted(0, 0, 1, 0, 0, 9)))
    machine.watch(10, clock)
    machine.run(3600)
    machine.system -= 7200
    machine.watch(10, clock)
    machine.system += 86400
    assert Timeout(60).check(study, clock()) is None
    assert study.trials[0].running(clock()) == pytest.approx(20, abs=0.2)
    running = {0: StartSegment(0, 0, 9, judged=False)}
    assert list(Timeouts(60).check(running, {}, study, clock())) == []
    machine.watch(41, clock)
    assert Timeout(60).check(study, clock()) is not None


@pytest.mark.parametrize("first", [BackendChanged("asha", {}), SpaceChanged("other", ())])
def test_the_night_between_two_processes_is_not_counted_whatever_the_second_begins_with(first: Record) -> None:
    study = study_of(
        (NOON, HEADER),
        (NOON, BackendChanged("hyperband", {})),
        (NOON, STARTED),
        (NOON, REQUESTED),
        (NOON + 1, SegmentStarted(0, 0, 1, 0, 0, 9)),
        (NOON + 5, EpochDone(0, 0, 1, {}, 4.0)),
    )
    # The process was killed. The next one has another back end or space.
    for record in (first, STARTED):
        study.apply(record, NOON + 80_000)
    study.apply(SearchEnded("", True, 0), NOON + 80_010)
    assert study.seconds() == pytest.approx(15)
    assert study.trials[0].resources.busy == pytest.approx(4)
