"""How long a trial may run, and how long it may take to end when it should."""

from __future__ import annotations

import math

from search.study.study import Trial

__all__ = ["Timeouts"]

GRACE_SECONDS = 10.0
"""How long a trial that has had its time may take to end its epoch, where no epoch of its took longer."""

GRACE_EPOCHS = 3.0
"""How often as long as its longest epoch, where that is more."""

CHECK_SECONDS = 0.5
"""How often anybody needs to look."""


class Timeouts:
    """Until when what runs in each slot is waited for.

    Args:
        limit: seconds that one trial may run, over all its segments; None for any time.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._until: dict[int, float] = {}
        self._looked = -math.inf

    def is_due(self, now: float) -> bool:
        """Whether it is time to look at the slots."""
        if self.limit is None or 0 <= now - self._looked < CHECK_SECONDS:
            return False
        self._looked = now
        return True

    def has_expired(self, slot: int, trial: Trial, now: float) -> bool:
        """Whether the trial in `slot` has had its time, which is said once: from now on its end is waited for."""
        if slot in self._until or self.limit is None or trial.running(now) < self.limit:
            return False
        longest = max((epoch.seconds for execution in trial.executions for epoch in execution.curve), default=0.0)
        self._until[slot] = now + max(GRACE_SECONDS, GRACE_EPOCHS * longest)
        return True

    def wait(self, slot: int, since: float) -> None:
        """What began in `slot` at `since`, and is no trial, may take as long as one."""
        if self.limit is not None:
            self._until.setdefault(slot, since + self.limit)

    def is_over(self, slot: int, now: float) -> bool:
        """Whether what runs in `slot` is waited for no longer, which is said once."""
        if now < self._until.get(slot, math.inf):
            return False
        self._until[slot] = math.inf
        return True

    def forget(self, slot: int) -> None:
        """What ran in `slot` has ended."""
        self._until.pop(slot, None)
