"""Computations in threads: the real loop and the real threads, with simulated workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from averaging import Averaging

from search.driver.computations import compute
from search.driver.loop import Driver
from search.executors.simulated import SimulatedExecutor
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.limits import Limits
from search.space.file import SpaceRef
from search.study.journal import Entry, Journal, read
from search.study.paths import StudyPaths
from search.study.records import (
    FORMAT,
    BackendChanged,
    Computed,
    EpochDone,
    Header,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
)
from search.study.study import Study
from search.study.trial import Computation, Objective
from search.testing.backends import SMOOTH

PATIENCE = 60.0
"""Seconds after which a computation that waits for the test gives up."""


class Calling(Averaging):
    """The back end, whose computations call `before` first, with their number."""

    before: Callable[[int], object]

    def computation(self) -> Computation | None:
        found = super().computation()
        return found and Computation(found.number, partial(self._run, found))

    def _run(self, computation: Computation) -> Mapping[str, Any]:
        self.before(computation.number)
        return computation.run()


class Watching:
    """A view that keeps the lines said, and a follower that calls `see` with each record."""

    def __init__(self, see: Callable[[Record], object]) -> None:
        self.lines: list[str] = []
        self._see = see

    def say(self, line: str) -> None:
        self.lines.append(line)

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._see(entry.record)

    def update(self, now: float) -> None:
        pass

    def flushed(self) -> None:
        pass

    def name_slot(self, slot: int, label: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class Loop:
    """A search of a new study in `folder`.

    Args:
        before: called in each computation's thread, with its number.
        see: called with each record that was journaled.
    """

    def __init__(
        self,
        folder: Path,
        before: Callable[[int], object],
        see: Callable[[Record], object] = lambda _: None,
        *,
        slots: int = 1,
        limits: Limits | None = None,
    ) -> None:
        paths = StudyPaths.of(folder, "study")
        paths.folder.mkdir()
        self.journal = paths.journal
        self.watching = Watching(see)
        # The virtual clock waits for the threads: a poll takes no longer than its timeout says.
        executor = SimulatedExecutor(SMOOTH, slots, leap=False)
        controller = Controller(Study(), self._make, limits or Limits(max_trials=8), slots, 3)
        self._before = before
        self.driver = Driver(
            controller,
            Journal(paths.journal),
            executor,
            SpaceRef(),
            paths,
            Options(),
            followers=[self.watching],
            view=self.watching,
            now=executor.now,
        )

    def _make(self, _: BackendChanged) -> Calling:
        made = Calling(OBJECTIVE, 7, max_epochs=3)
        made.before = self._before
        return made

    def run(self) -> SearchEnded:
        header = Header(FORMAT, "0", "study", 7, (OBJECTIVE,), "", "", SMOOTH.parameters(), {})
        return self.driver.run([header, BackendChanged("averaging", {}), SearchStarted("here", 0, {})])

    @property
    def computed(self) -> list[Computed]:
        return [entry.record for entry in read(self.journal) if isinstance(entry.record, Computed)]


OBJECTIVE = Objective("val_loss", "min")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Return an event that computations wait for; it happens at the test's end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_messages_go_on_while_a_computation_runs(tmp_path: Path, release: threading.Event) -> None:
    """The computation ends only after six further epochs of other workers, so it cannot have held them up."""
    began = threading.Event()
    epochs_meanwhile = 0

    def before(number: int) -> None:
        began.set()
        assert release.wait(PATIENCE)

    def see(record: Record) -> None:
        nonlocal epochs_meanwhile
        if began.is_set() and isinstance(record, EpochDone):
            epochs_meanwhile += 1
            if epochs_meanwhile == 6:
                release.set()

    loop = Loop(tmp_path, before, see, slots=4)
    assert loop.run().complete
    assert loop.computed
    assert all(record.error is None for record in loop.computed)
    assert epochs_meanwhile >= 6


def test_one_worker_waits_for_each_result(tmp_path: Path) -> None:
    threads = []
    loop = Loop(tmp_path, lambda number: threads.append(threading.current_thread()))
    assert loop.run().complete
    assert [record.number for record in loop.computed] == [0, 1]
    assert all(thread.daemon for thread in threads)
    assert {thread.name for thread in threads} == {"computation 0", "computation 1"}


def test_a_computation_that_raises_is_one_line_for_the_user(tmp_path: Path) -> None:
    def before(number: int) -> None:
        raise np.linalg.LinAlgError("the matrix is\nnot positive definite")

    loop = Loop(tmp_path, before)
    assert loop.run().complete
    (line,) = [line for line in loop.watching.lines if "back end" in line]
    assert line.startswith("a computation of back end averaging failed, and the search goes on: ")
    assert line.endswith("LinAlgError: the matrix is not positive definite")
    assert [(record.number, record.result) for record in loop.computed] == [(0, {}), (1, {})]


@pytest.mark.parametrize(("limits", "reason"), [(Limits(timeout=60.0), "the time is up"), (Limits(), "stopped by")])
def test_neither_a_limit_nor_the_user_waits_for_a_computation(
    tmp_path: Path, release: threading.Event, limits: Limits, reason: str
) -> None:
    results = 0

    def see(record: Record) -> None:
        nonlocal results
        results += isinstance(record, ResultTold)
        if results == 3 and reason == "stopped by":
            loop.driver.stop()

    loop = Loop(tmp_path, lambda number: release.wait(PATIENCE), see, limits=limits)
    assert loop.run().reason.startswith(reason)
    assert not release.is_set()
    assert loop.computed == []


def test_the_loop_looks_often_while_a_computation_runs(
    tmp_path: Path, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = polls = 0
    timeouts: dict[bool, set[float]] = {False: set(), True: set()}

    def see(record: Record) -> None:
        nonlocal results
        results += isinstance(record, ResultTold)

    def poll(handle: Any, timeout: float) -> None:
        nonlocal polls
        computing = results == 3 and not loop.computed
        timeouts[computing].add(timeout)
        polls += computing
        if polls == 20:
            release.set()
        SimulatedExecutor.poll(executor, handle, timeout)

    loop = Loop(tmp_path, lambda number: release.wait(PATIENCE), see, limits=Limits(max_trials=5))
    executor = loop.driver._executor
    assert isinstance(executor, SimulatedExecutor)
    monkeypatch.setattr(executor, "poll", poll)
    assert loop.run().complete
    assert timeouts == {False: {0.1}, True: {0.005}}


# Results --------------------------------------------------------------------------------------------------------------


def test_a_result_is_what_the_journal_gives_back() -> None:
    found = compute(Computation(3, lambda: {"a": (1, np.float64(0.1) + 0.2), "b": {4: None}}))
    assert (found.number, found.result, found.error) == (3, {"a": [1, 0.1 + 0.2], "b": {"4": None}}, None)
    assert type(found.result["a"][1]) is float


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([1, 2], "it returned a list, not a JSON object"),
        (None, "it returned a NoneType, not a JSON object"),
        ({"a": float("nan")}, "it returned what JSON cannot hold: Out of range float values"),
        ({"a": np.zeros(2)}, "it returned what JSON cannot hold: Object of type ndarray"),
        ({(1, 2): 3}, "it returned what JSON cannot hold: keys must be"),
    ],
)
def test_a_result_that_is_no_json_object_is_an_error(result: Any, words: str) -> None:
    found = compute(Computation(0, lambda: result))
    assert found.result == {}
    assert found.error is not None
    assert found.error.startswith(words)
    assert "\n" not in found.error


def test_a_computation_that_ends_its_thread_is_an_error() -> None:
    def run() -> Mapping[str, Any]:
        raise SystemExit(3)

    found = compute(Computation(0, run))
    assert found.error is not None
    assert "sys.exit(3) was called" in found.error
