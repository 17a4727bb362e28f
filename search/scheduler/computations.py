"""The computations that a back end has made beside the search: one at a time, each to its record."""

from __future__ import annotations

from collections.abc import Callable

from search.backends.base import BackEnd
from search.scheduler.events import ComputationEnded
from search.study.records import Computed
from search.study.trial import Computation

__all__ = ["Computations"]


def _no_computation() -> None:
    return None


class Computations:
    """The computations of the back end in charge."""

    def __init__(self) -> None:
        self._next: Callable[[], Computation | None] = _no_computation
        self._started: int | None = None

    @property
    def under_way(self) -> bool:
        """True from a computation's start to its record."""
        return self._started is not None

    def begin_phase(self, backend: BackEnd) -> None:
        """Let another back end take over. Nobody waits for the computation of the one before."""
        self._next = getattr(backend, "computation", _no_computation)
        self._started = None

    def start(self) -> Computation | None:
        """Return the computation to start now; None if there is none, or one is under way."""
        if self._started is not None:
            return None
        computation = self._next()
        self._started = None if computation is None else computation.number
        return computation

    def end(self, event: ComputationEnded) -> Computed | None:
        """Return the record of a computation that ended; None if it is not the one that is under way."""
        if self._started is None or event.number != self._started:
            return None
        self._started = None
        return Computed(event.number, event.result, event.error)
