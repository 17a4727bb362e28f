"""The room that checkpoints take on the disk, and the trials whose checkpoints are dropped.

A back end that pauses many trials, and needs few of them again, ranks them in `expendable`. Beyond the limit, the
checkpoints of those least likely to go on are dropped. Such a trial is trained again from its seed if it goes on after
all.

The limit is one for paused trials: those that the back end was told a result of, and has not asked for again. The
checkpoints of the others, which workers write at any time, come on top. So the dropped ones follow from the decisions
of the search, and not from the clock. They are dropped when a result is told, before the back end is asked again: if
the search is stopped there and goes on later, they are the same.
"""

from __future__ import annotations

from typing import TypeGuard

from search.backends.base import BackEnd, RankingBackEnd
from search.study.records import (
    CheckpointDropped,
    Checkpointed,
    Record,
    ResultTold,
    SearchEnded,
    SegmentRequested,
    TrialEnded,
)
from search.study.study import Study
from search.wording import format_bytes

__all__ = ["CheckpointSpace"]


class CheckpointSpace:
    """The sizes of the checkpoints on the disk, and the limit for those of paused trials.

    This is a stop rule, too: it ends the search when the checkpoints of a single trial take more than the limit.

    Args:
        limit: in bytes; None for any number.
    """

    protocol = 1

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._sizes: dict[int, dict[int, int]] = {}
        """By trial, the size of the checkpoint of each execution."""
        self._paused: dict[int, int] = {}
        """The size of all checkpoints of each paused trial. Old journals lack sizes: such a trial is left out."""
        self._total = 0
        self._too_large: int | None = None
        """The trial whose checkpoints alone take more than the limit; None if there is none."""

    def apply(self, record: Record, study: Study) -> None:
        """Take in one record."""
        match record:
            case Checkpointed():
                self._sizes.setdefault(record.trial, {})[record.execution] = record.bytes
                if self._limit is not None and self._size(record.trial) > self._limit:
                    self._too_large = record.trial
            case ResultTold() if size := self._size(record.trial):
                self._paused[record.trial] = size
                self._total += size
            case SegmentRequested():
                self._total -= self._paused.pop(record.trial, 0)
            case CheckpointDropped() | TrialEnded():
                self._total -= self._paused.pop(record.trial, 0)
                self._sizes.pop(record.trial, None)
                if record.trial == self._too_large:
                    self._too_large = None

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """End the search if one trial has no room."""
        if self._limit is None or self._too_large is None:
            return None
        taken, room = format_bytes(self._size(self._too_large)), format_bytes(self._limit)
        reason = (
            f"the checkpoint of trial {self._too_large} takes {taken}, and --disk is {room}: resume with a larger one"
        )
        return SearchEnded(reason, complete=False, exit_code=2)

    def choose_dropped(self, backend: BackEnd | None) -> list[int]:
        """Return the trials whose checkpoints are to be dropped now, the one least likely to go on first."""
        if self._limit is None or self._total <= self._limit or not _ranks(backend):
            return []
        chosen, excess, sizes = [], self._total - self._limit, dict(self._paused)
        for trial in backend.expendable(sorted(sizes)):
            if excess > 0 and trial in sizes:
                chosen.append(trial)
                excess -= sizes.pop(trial)
        return chosen

    def _size(self, trial: int) -> int:
        return sum(self._sizes.get(trial, {}).values())


def _ranks(backend: BackEnd | None) -> TypeGuard[RankingBackEnd]:
    """Return whether a back end ranks its paused trials."""
    return hasattr(backend, "expendable")
