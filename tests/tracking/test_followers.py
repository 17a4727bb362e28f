"""Followers in threads of their own: they get everything, and harm nothing. The kit of followers, run on ours."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.driver.retention import Retention
from search.plugins.loading import FOLLOWERS
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.record_json import encode
from search.study.records import EpochDone, SearchEnded
from search.study.study import Study
from search.testing import FollowerContract
from search.tracking import followers
from search.tracking.followers import Follower, FollowerSetup, FollowerThread


class TestTensorBoard(FollowerContract):
    def make(self, setup: FollowerSetup) -> Follower:
        made: Follower = FOLLOWERS.load("tensorboard").make(setup)
        return made


class TestRetention(FollowerContract):
    def make(self, setup: FollowerSetup) -> Follower:
        study = Study()
        for entry in setup.entries:
            study.apply(entry.record, entry.time)
        return Applied(study, Retention(study, StudyPaths(setup.folder), 3))


class Applied:
    """A follower whose entries are applied to the study first, as the driver does."""

    protocol = 1

    def __init__(self, study: Study, follower: Follower) -> None:
        self._study, self._follower = study, follower
        self.flushed = follower.flushed

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._study.apply(entry.record, entry.time)
        self._follower.take(entries)


ENTRIES = [Entry(EpochDone(0, 0, epoch, {"loss": 1.0 / epoch}, 0.5), 1e9 + epoch, 0) for epoch in range(1, 6)]
LAST = Entry(SearchEnded("done", complete=True, exit_code=0), 2e9, 0)


class Notes:
    """A follower that notes what it is told, and may do harm."""

    protocol = 1

    def __init__(self, setup: FollowerSetup, harm: Any = None) -> None:
        self.told: list[Any] = [*setup.entries]
        self.harm = harm

    def take(self, entries: Sequence[Entry]) -> None:
        if self.harm is not None:
            self.harm(entries)
        self.told += entries

    def flushed(self) -> None:
        self.told.append("flushed")

    def close(self) -> None:
        self.told.append("closed")


class Started:
    """A follower's thread, with the lines and the tracebacks that it reported."""

    def __init__(self, folder: Path, harm: Any = None, *, copies: bool = True, make: Any = None) -> None:
        self.lines: list[tuple[str, str]] = []
        self.made: list[Notes] = []
        setup = FollowerSetup("study", folder, ENTRIES[:1], print)

        def make_notes(setup: FollowerSetup) -> Notes:
            self.made.append(Notes(setup, harm))
            return self.made[-1]

        def report(line: str, details: str) -> None:
            self.lines.append((line, details))

        self.thread = FollowerThread("notes", make or make_notes, setup, copies=copies, report=report)
        self.thread.start()

    def tell(self, *batches: Sequence[Entry]) -> None:
        for batch in batches:
            self.thread.take(batch)
            self.thread.flushed()

    @property
    def told(self) -> list[Any]:
        return self.made[0].told


@pytest.mark.parametrize("copies", [True, False])
def test_a_follower_is_told_everything_in_order(tmp_path: Path, copies: bool) -> None:
    started = Started(tmp_path, copies=copies)
    started.tell(ENTRIES[1:3], ENTRIES[3:])
    started.thread.flushed()
    started.thread.take([LAST])
    started.thread.close(60)
    assert [each for each in started.told if each != "flushed"] == [*ENTRIES, LAST, "closed"]
    assert started.told[started.told.index(ENTRIES[-1]) + 1] == "flushed"
    assert started.lines == []


def test_a_follower_gets_copies(tmp_path: Path) -> None:
    def change(entries: Sequence[Entry]) -> None:
        for entry in entries:
            entry.record.logs.clear()  # type: ignore[union-attr]

    before = [encode(entry.record) for entry in ENTRIES]
    started = Started(tmp_path, change)
    started.tell(ENTRIES)
    started.thread.close(60)
    assert [encode(entry.record) for entry in ENTRIES] == before
    assert started.told[-1] == "closed"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_follower_that_raises_is_told_no_more(tmp_path: Path, error: BaseException) -> None:
    def fail(entries: Sequence[Entry]) -> None:
        raise error

    started = Started(tmp_path, fail)
    started.tell(ENTRIES[1:2])
    started.thread.close(60)
    started.tell(ENTRIES[2:])
    [(line, details)] = started.lines
    assert line.startswith(f"follower notes failed ({type(error).__name__}")
    assert line.endswith("the search goes on")
    assert "in fail" in details
    assert started.told == ENTRIES[:1]


def test_a_follower_that_cannot_be_made_is_told_nothing(tmp_path: Path) -> None:
    started = Started(tmp_path, make=lambda setup: 1 / 0)
    started.tell(ENTRIES)
    started.thread.close(60)
    assert "ZeroDivisionError" in started.lines[0][0]


def test_a_follower_that_hangs_delays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "CAPACITY", 3)
    release = threading.Event()
    started = Started(tmp_path, lambda entries: release.wait())
    started.tell(*([entry] for entry in ENTRIES), *([entry] for entry in ENTRIES))
    [(line, _)] = started.lines
    assert "follower notes hangs, or is too slow" in line
    release.set()
    started.thread.close(60)
    assert len(started.lines) == 1


def test_the_end_does_not_wait_for_a_follower_that_hangs(tmp_path: Path) -> None:
    release = threading.Event()
    started = Started(tmp_path, lambda entries: release.wait())
    started.tell(ENTRIES)
    started.thread.close(0.01)
    assert started.lines == [("follower notes did not end in time, and may lack the last records", "")]
    release.set()
