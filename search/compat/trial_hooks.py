"""A tuner's `on_trial_begin`, `on_trial_end` and `pre_create_trial`: a follower of the search calls them.

They are called in the script's process, in the follower's thread, in the order of the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from search.compat.original import oracles
from search.compat.trials import convert_trial
from search.study.journal import Entry
from search.study.records import SegmentRequested, TrialEnded
from search.study.study import Study
from search.tracking.followers import FollowerSetup

__all__ = ["FOLLOWER", "TrialHooks"]

FOLLOWER = f"{__name__}:TrialHooks"
"""The name of the follower, for the option `follow`."""


class TrialHooks:
    """The follower. In a process without the tuner's script, it does nothing.

    Args:
        setup: the search.
    """

    protocol = 1
    _tuners: ClassVar[list[Any]] = []

    def __init__(self, setup: FollowerSetup) -> None:
        self._tuner: Any = self._tuners[-1] if self._tuners else None
        self._study = Study()
        for entry in setup.entries:
            self._study.apply(entry.record, entry.time)

    @classmethod
    @contextmanager
    def calling(cls, tuner: Any) -> Iterator[None]:
        """Have the followers made within the context call the hooks of `tuner`."""
        cls._tuners.append(tuner)
        try:
            yield
        finally:
            cls._tuners.remove(tuner)

    def take(self, entries: Sequence[Entry]) -> None:
        """Call the hooks of the trials that have begun or ended in `entries`."""
        for entry in entries:
            record = entry.record
            known = isinstance(record, SegmentRequested) and record.trial in self._study.trials
            self._study.apply(record, entry.time)
            if self._tuner is None:
                continue
            if isinstance(record, SegmentRequested) and not known:
                self._tuner.pre_create_trial()
                self._tuner.on_trial_begin(self._trial(record.trial))
            elif isinstance(record, TrialEnded):
                self._tuner.on_trial_end(self._trial(record.trial))

    def _trial(self, number: int) -> Any:
        oracle = self._tuner.oracle
        hyperband = isinstance(oracle, oracles.HyperbandOracle)
        return convert_trial(self._study.trials[number], self._study.objective, oracle.max_trials, hyperband=hyperband)

    def flushed(self) -> None:
        """Do nothing: the hooks have been called."""
