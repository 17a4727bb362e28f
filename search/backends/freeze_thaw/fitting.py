"""Fits of the process's hyperparameters, made beside the search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from search.backends.freeze_thaw.surrogate import Hyperparameters, Observed, fit
from search.study.records import Computed
from search.study.trial import Computation

__all__ = ["Fits"]

GROWTH = 1.15
"""There is a new fit when there are so many times the points of the last one."""

FEWEST = 4
"""The fewest points to fit."""


class Fits:
    """The hyperparameters in use, and the fit under way.

    A fit begins when a segment begins, of the points so far, and counts from the next decision on. With one worker the
    search waits for it then, which is rare, as it is made while the segment is trained. So the search does not depend
    on the time that a fit takes. With several workers it counts from its record on.

    Attributes:
        due: the fit under way, as a computation; None if there is none.
        hyperparameters: those of the last fit; None before the first.
    """

    def __init__(self) -> None:
        self.due: Computation | None = None
        self.hyperparameters: Hyperparameters | None = None
        self._points = 0
        self._number = 0

    def note(self, points: int, observe: Callable[[], Observed | None]) -> None:
        """Begin a fit if there are enough new points and none is under way. Call when a segment begins.

        Args:
            points: their number so far.
            observe: returns the points to fit, as they are now.
        """
        enough = points >= max(FEWEST, GROWTH * self._points)
        if self.due is not None or not enough or (observed := observe()) is None:
            return
        self._points = points
        self.due = Computation(self._number, partial(fit, observed, self.hyperparameters))
        self._number += 1

    def apply(self, record: Computed) -> None:
        """Take in the end of the fit. If it failed, the hyperparameters stay."""
        self.due = None
        if record.error is None:
            self.hyperparameters = record.result
