"""The contract of a follower, as tests to run on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from search.plugins.loading import FOLLOWERS
from search.scheduler.limits import Limits
from search.study.journal import Entry
from search.study.record_json import encode
from search.study.requests import (
    Action,
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    StopTrial,
)
from search.testing.backends import ROUGH, RandomSearch
from search.testing.simulation import Simulation
from search.tracking.followers import Follower, FollowerSetup

__all__ = ["FollowerContract"]


@cache
def _entries() -> tuple[Entry, ...]:
    """Return the journal of a search in which trials fail, and that is steered and resumed once."""
    limits = Limits(max_trials=6, max_consecutive_failures=1000)
    search = Simulation(ROUGH, lambda _: RandomSearch(), limits=limits, slots=2)
    actions: list[Action] = [
        StopTrial(0),
        PauseSearch(),
        ContinueSearch(),
        ChangeLimits({"max_trials": 8}),
        PauseSearch(),
    ]
    actions += [AddConfigurations(({ROUGH.parameters()[0].name: ROUGH.parameters()[0].default},)), ContinueSearch()]

    def steer() -> None:
        if actions and search.study.epochs > 5:
            search.steer(actions.pop(0))

    search.run(before_message=steer)
    return tuple(search.resume(len(search.entries) // 2).run().entries)


class FollowerContract:
    """The tests that every follower must pass.

    Subclass it with a name that begins with `Test`, and return a new follower from `make`. The tests show that a
    follower takes in any search, in batches of any size, from its beginning or from the middle, and that it changes no
    record.

    Example:
        ::

            from search.testing import FollowerContract

            class TestMine(FollowerContract):
                def make(self, setup):
                    return Mine(setup)
    """

    def make(self, setup: FollowerSetup) -> Follower:
        """Return a new follower for `setup`. Subclasses define this."""
        raise NotImplementedError

    def follow(self, folder: Path, earlier: Sequence[Entry], batches: Sequence[Sequence[Entry]]) -> Follower:
        """Return a follower in `folder` that was made after the `earlier` entries, and has taken in `batches`."""
        folder.mkdir(exist_ok=True)
        follower = self.make(FollowerSetup("simulated", folder, earlier, lambda line: None))
        for number, batch in enumerate(batches):
            assert follower.take(batch) is None  # type: ignore[func-returns-value]
            if number % 3 == 0:
                follower.flushed()
        follower.flushed()
        if hasattr(follower, "close"):
            follower.close()
        return follower

    def test_it_states_the_protocol(self, tmp_path: Path) -> None:
        follower = self.make(FollowerSetup("simulated", tmp_path, (), lambda line: None))
        assert type(follower).protocol == FOLLOWERS.protocol

    @pytest.mark.parametrize("size", [1, 7, 10_000])
    def test_it_takes_in_a_search_in_batches_of_any_size(self, tmp_path: Path, size: int) -> None:
        entries = _entries()
        self.follow(tmp_path, (), [entries[i : i + size] for i in range(0, len(entries), size)])

    def test_it_goes_on_in_a_later_process(self, tmp_path: Path) -> None:
        entries = _entries()
        for cut in (1, len(entries) // 3, len(entries) // 2, len(entries)):
            self.follow(tmp_path, entries[:cut], [entries[cut:]] if cut < len(entries) else [])

    def test_it_changes_no_record(self, tmp_path: Path) -> None:
        entries = _entries()
        before = repr([encode(entry.record) for entry in entries])
        self.follow(tmp_path, entries[:10], [entries[10:]])
        assert repr([encode(entry.record) for entry in entries]) == before

    def test_it_may_hear_of_the_disk_before_any_entry(self, tmp_path: Path) -> None:
        self.follow(tmp_path, (), [])
