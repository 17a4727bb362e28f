"""Where trials are at home: the slot whose worker trained one last may still hold its model, built and traced.

That is a guess that costs little when it is wrong: a worker that was replaced builds anew, with the same results. So a
trial that goes on waits for a busy home, but only until some slot is free for the second time.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Affinity"]

MOST = 32
"""Trials at home in one slot: their models stay in its memory."""


class Affinity:
    """The slots of trials that may be trained on."""

    def __init__(self) -> None:
        self._slot: dict[int, int] = {}
        self._trials: dict[int, OrderedDict[int, None]] = {}
        self._waited: set[int] = set()

    def settle(self, trial: int, slot: int) -> None:
        """`trial` is trained in `slot`. Where too many are at home there, the one that came first no longer is."""
        self.leave(trial)
        self._slot[trial] = slot
        trials = self._trials.setdefault(slot, OrderedDict())
        trials[trial] = None
        if len(trials) > MOST:
            self.leave(next(iter(trials)))

    def leave(self, trial: int) -> None:
        """`trial` will not be trained on."""
        self._waited.discard(trial)
        slot = self._slot.pop(trial, None)
        if slot is not None:
            del self._trials[slot][trial]

    def wait(self, trial: int) -> bool:
        """Whether `trial` may wait for its home to be free: not if it has before."""
        may = trial not in self._waited
        self._waited.add(trial)
        return may

    def of(self, trial: int) -> int | None:
        return self._slot.get(trial)

    def trials(self, slot: int) -> tuple[int, ...]:
        """Those at home in `slot`."""
        return tuple(self._trials.get(slot, ()))
