"""Time limits of trials: how long one may run, and how long it may then take to end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from search.messages import Interrupt
from search.scheduler.events import Kill, StartEvaluation, StartSegment
from search.study.records import TimedOut
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["Timeouts"]

GRACE_SECONDS = 10.0
"""The minimum grace period after a timeout, in seconds: the time in which a trial must end its epoch."""

GRACE_EPOCHS = 3.0
"""The grace period in multiples of the trial's longest epoch, if that is longer than `GRACE_SECONDS`."""

CHECK_SECONDS = 0.5
"""The minimum time between two checks, in seconds."""


class Timeouts:
    """The deadlines of the trials and evaluations that run in each slot. All times are in seconds since the epoch.

    Args:
        limit: seconds that one trial may run, over all its segments; None for any time.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._deadline: dict[int, float] = {}
        self._checked_at = -math.inf

    def check(
        self,
        running: Mapping[int, StartSegment],
        evaluations: Mapping[int, tuple[StartEvaluation, float]],
        study: Study,
        now: float,
    ) -> Iterator[TimedOut | tuple[int, Interrupt | Kill]]:
        """Yield what follows for trials that have used up their time, and for those that do not end.

        Args:
            running: the segments by slot.
            evaluations: the evaluations by slot, and when each began.
            study: with the trials' times.
            now: the time.

        Yields:
            The record of a timeout, to be applied at once, or (slot, command).
        """
        if not self._is_due(now):
            return
        why = f"(--trial-timeout {self.limit:g}s)"
        for slot, start in running.items():
            trial = study.trials[start.trial]
            if self._has_expired(slot, trial, now):
                if trial.status != "expiring":
                    yield TimedOut(trial.number, f"it ran for longer than it may {why}")
                yield slot, Interrupt()
            elif self._is_overdue(slot, now):
                yield slot, Kill(f"its epoch came to no end: it hung? {why}")
        for slot, (_, since) in evaluations.items():
            self._limit_evaluation(slot, since)
            if self._is_overdue(slot, now):
                yield slot, Kill(f"no end in time {why}")

    def forget(self, slot: int) -> None:
        """Drop the deadline of `slot`, whose work has ended."""
        self._deadline.pop(slot, None)

    def _is_due(self, now: float) -> bool:
        """Return whether the slots are to be checked now; if so, the next check is due `CHECK_SECONDS` later."""
        if self.limit is None or 0 <= now - self._checked_at < CHECK_SECONDS:
            return False
        self._checked_at = now
        return True

    def _has_expired(self, slot: int, trial: Trial, now: float) -> bool:
        """Return whether the trial in `slot` has used up its time. True once, when its grace period begins."""
        if slot in self._deadline or self.limit is None or trial.running(now) < self.limit:
            return False
        longest = max((epoch.seconds for execution in trial.executions for epoch in execution.curve), default=0.0)
        self._deadline[slot] = now + max(GRACE_SECONDS, GRACE_EPOCHS * longest)
        return True

    def _limit_evaluation(self, slot: int, since: float) -> None:
        """Give an evaluation that began in `slot` at `since` as much time as a trial."""
        if self.limit is not None:
            self._deadline.setdefault(slot, since + self.limit)

    def _is_overdue(self, slot: int, now: float) -> bool:
        """Return whether the deadline of `slot` has passed. True once."""
        if now < self._deadline.get(slot, math.inf):
            return False
        self._deadline[slot] = math.inf
        return True
