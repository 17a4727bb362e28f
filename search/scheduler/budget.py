"""The budget of epochs: how many a search may still begin."""

from __future__ import annotations

from search.scheduler.events import StartSegment
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["EpochBudget"]


class EpochBudget:
    """A study's epochs against the most that it may have: trained ones, and those reserved for running segments.

    Args:
        study: the study whose trained epochs count.
        max_total_epochs: epochs to train, over all trials and resumes; None for any number.
    """

    def __init__(self, study: Study, max_total_epochs: int | None) -> None:
        self.max_total_epochs = max_total_epochs
        self._study = study
        self._reserved: dict[int, int] = {}
        self._sum = 0

    def allows(self, trial: Trial | None) -> bool:
        """Return whether `trial`, None for a new one, may be started. Training lost epochs again costs nothing."""
        left = self._left()
        return left is None or left > 0 or (trial is not None and _has_lost_epochs(trial))

    def cut(self, epochs: int, to_epoch: int) -> int:
        """Return the last epoch that a segment after `epochs` may train, `to_epoch` at most."""
        left = self._left()
        return to_epoch if left is None else min(to_epoch, epochs + max(0, left))

    def reserve(self, slot: int, start: StartSegment) -> None:
        """Reserve the epochs that the segment in `slot` may still train. Call at its start and after each epoch."""
        epochs = self._study.trials[start.trial].execution(start.execution).epochs
        self._set(slot, max(0, start.to_epoch - epochs))

    def release(self, slot: int) -> None:
        """Free the unused epochs of the segment in `slot`, which has ended."""
        self._set(slot, 0)

    @property
    def is_overdrawn(self) -> bool:
        """True if running segments may train more epochs than there are: the budget was made smaller."""
        left = self._left()
        return left is not None and left < 0

    def _left(self) -> int | None:
        return None if self.max_total_epochs is None else self.max_total_epochs - self._study.epochs - self._sum

    def _set(self, slot: int, epochs: int) -> None:
        self._sum += epochs - self._reserved.get(slot, 0)
        self._reserved[slot] = epochs


def _has_lost_epochs(trial: Trial) -> bool:
    """Return whether the journal has epochs that are in no checkpoint: the budget has paid for them already.

    Epochs of a dropped checkpoint are worth nothing alone: they are trained again for the sake of further ones.
    """
    return any(each.checkpoint < each.epochs and not each.dropped for each in trial.executions)
