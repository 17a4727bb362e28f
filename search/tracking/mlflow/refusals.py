"""Changes of runs that MLflow refuses: they are sent again, and what is refused for good is named and counted.

A refusal need not be final: a server that restarts, or a proxy before it, answers some requests with 400. So a change
is tried `TRIES` times, the last time in pieces, so that one bad value keeps no other from arriving. What is refused
then is noted in the position. The next process sends the changes of such runs again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from search.tracking.mlflow.changes import Change
from search.tracking.mlflow.layout import PARENT, RunKey
from search.tracking.mlflow.position import Position
from search.wording import pluralize

__all__ = ["REFUSED_SECONDS", "Refusal", "Refusals"]

TRIES = 3
"""Attempts of a process to send a change, at most."""

REFUSED_SECONDS = 1.0
"""Seconds between two tries, at least."""

_NAMED = 5
"""The most runs that a message names."""

_PARENT_NUMBER = -1
"""The parent run's number in the position, whose keys are numbers."""


@dataclass(slots=True)
class Refusal:
    """The part of a change that MLflow has refused.

    Attributes:
        change, reason: the part, and MLflow's words.
        deleted: the run's user has deleted it, so nothing of it is missing.
    """

    change: Change
    reason: str
    deleted: bool = False


@dataclass(slots=True)
class _Refused:
    change: Change
    reason: str
    tries: int
    tried_at: float


class Refusals:
    """The refused changes of all runs.

    Args:
        position: the counts are noted there.
        now: a clock that nobody sets, in seconds.
    """

    def __init__(self, position: Position, now: Callable[[], float] = time.monotonic) -> None:
        self._position = position
        self._now = now
        self._refused: dict[RunKey, _Refused] = {}

    def add(self, run: RunKey, refusal: Refusal) -> None:
        """Note a first refusal."""
        known = self._refused.get(run)
        if known is None:
            known = self._refused[run] = _Refused(Change(), "", 0, 0.0)
        known.change.merge(refusal.change)
        known.change.time = refusal.change.time
        known.reason, known.tries, known.tried_at = refusal.reason, 1, self._now()
        self._count(run, known.change)

    def outdate(self, run: RunKey, later: Change) -> None:
        """Drop what a later change of `run` replaces: a tag or a status of before must not come after it."""
        if (known := self._refused.get(run)) is not None:
            known.change.outdate(later)
            self._count(run, known.change)

    def due(self) -> Iterator[tuple[RunKey, Change, bool]]:
        """Yield the runs whose changes are to be tried again now, each with the change, and whether it is the last try.

        Call `settle` with each result.
        """
        for run, refused in list(self._refused.items()):
            if refused.tries < TRIES and self._now() - refused.tried_at >= REFUSED_SECONDS:
                yield run, refused.change, refused.tries == TRIES - 1

    def settle(self, run: RunKey, refusal: Refusal | None) -> str:
        """Note the result of another try. Return a line for the user if a change is refused for good, else ""."""
        if refusal is None or refusal.deleted:
            del self._refused[run]
            self._count(run, Change())
            return ""
        known = self._refused[run]
        known.change, known.reason, known.tried_at = refusal.change, refusal.reason, self._now()
        known.tries += 1
        self._count(run, known.change)
        return f"MLflow refuses {self._describe(run)}" if known.tries == TRIES else ""

    @property
    def tries_left(self) -> bool:
        """True while a change will be tried again."""
        return any(refused.tries < TRIES for refused in self._refused.values())

    def describe(self) -> str:
        """Return the refused values in words; "" if there are none."""
        names = [self._describe(run) for run in list(self._refused)[:_NAMED]]
        more = len(self._refused) - len(names)
        return ", ".join(names) + (f" and values of {pluralize(more, 'more run')}" if more else "")

    def _describe(self, run: RunKey) -> str:
        refused = self._refused[run]
        what = "the study" if run is PARENT else f"trial {run}"
        return f"{pluralize(refused.change.size, 'value')} of {what} ({refused.reason})"

    def _count(self, run: RunKey, change: Change) -> None:
        number = _PARENT_NUMBER if run is PARENT else run
        assert number is not None
        if change.size:
            self._position.refused[number] = change.size
        else:
            self._position.refused.pop(number, None)
            self._refused.pop(run, None)


def refused_runs(position: Position) -> set[RunKey]:
    """Return the runs of which earlier processes could not send everything."""
    return {PARENT if number == _PARENT_NUMBER else number for number in position.refused}
