"""How many epochs a search may still begin."""

from __future__ import annotations

from search.scheduler.events import StartSegment
from search.study.study import Study, Trial

__all__ = ["Budget"]


class Budget:
    """A study's epochs, trained ones and those that running segments may still train, against the most it may have.

    Args:
        study: whose trained epochs count.
        most: epochs to train, over all trials and resumes; None for any number.
    """

    def __init__(self, study: Study, most: int | None) -> None:
        self.most = most
        self._study = study
        self._reserved: dict[int, int] = {}
        self._sum = 0

    def allows(self, trial: Trial | None) -> bool:
        """Whether `trial`, None for a new one, may be started: to train again what was lost takes nothing."""
        left = self._left()
        return left is None or left > 0 or (trial is not None and _untold(trial))

    def cut(self, epochs: int, to_epoch: int) -> int:
        """How far a segment may go that begins after `epochs` and wants to get to `to_epoch`."""
        left = self._left()
        return to_epoch if left is None else min(to_epoch, epochs + max(0, left))

    def reserve(self, slot: int, start: StartSegment) -> None:
        """Note the epochs that the segment in `slot` may still train: when it begins, and after each of its epochs."""
        epochs = self._study.trials[start.trial].execution(start.execution).epochs
        self._set(slot, max(0, start.to_epoch - epochs))

    def release(self, slot: int) -> None:
        """The segment in `slot` has ended."""
        self._set(slot, 0)

    def _left(self) -> int | None:
        return None if self.most is None else self.most - self._study.epochs - self._sum

    def _set(self, slot: int, epochs: int) -> None:
        self._sum += epochs - self._reserved.get(slot, 0)
        self._reserved[slot] = epochs


def _untold(trial: Trial) -> bool:
    """Whether epochs are in the journal that no checkpoint holds: to train them again takes nothing of the budget."""
    return any(execution.checkpoint < execution.epochs for execution in trial.executions)
