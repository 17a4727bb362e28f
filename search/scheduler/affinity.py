"""Affinity of trials to slots: the worker that trained a trial last may have its model cached, built and traced.

Affinity is a guess, and a wrong one costs little: a worker that was replaced builds the model again, with the same
results. So a trial waits for a busy slot once at most, until some slot is free for the second time.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Affinity"]

MAX_TRIALS = 32
"""The most trials assigned to one slot: their models stay in its worker's memory."""


class Affinity:
    """The assigned slots of trials that may be trained further."""

    def __init__(self) -> None:
        self._slot_of: dict[int, int] = {}
        self._trials: dict[int, OrderedDict[int, None]] = {}
        self._waited: set[int] = set()

    def assign(self, trial: int, slot: int) -> None:
        """Assign `trial` to `slot`, where it is trained. Beyond `MAX_TRIALS`, the slot's oldest trial is released."""
        self.release(trial)
        self._slot_of[trial] = slot
        trials = self._trials.setdefault(slot, OrderedDict())
        trials[trial] = None
        if len(trials) > MAX_TRIALS:
            self.release(next(iter(trials)))

    def release(self, trial: int) -> None:
        """Forget the slot of `trial`, which will not be trained further."""
        self._waited.discard(trial)
        slot = self._slot_of.pop(trial, None)
        if slot is not None:
            del self._trials[slot][trial]

    def forget_slot(self, slot: int) -> None:
        """Forget the trials of `slot`, whose worker and cached models are gone."""
        for trial in self.trials_of(slot):
            self.release(trial)

    def may_wait(self, trial: int) -> bool:
        """Return whether `trial` may wait for its slot. True once per assignment: asking uses it up."""
        may = trial not in self._waited
        self._waited.add(trial)
        return may

    def slot_of(self, trial: int) -> int | None:
        """Return the slot of `trial`, None if it has none."""
        return self._slot_of.get(trial)

    def trials_of(self, slot: int) -> tuple[int, ...]:
        """Return the trials assigned to `slot`, the oldest first."""
        return tuple(self._trials.get(slot, ()))
