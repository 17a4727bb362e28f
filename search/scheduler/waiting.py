"""The trials that wait for a slot: those whose segment was interrupted or lost, and those of an earlier process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from search.scheduler.affinity import Affinity
from search.scheduler.slot_pool import SlotPool
from search.study.trials import Trial

__all__ = ["WaitingTrials"]


class WaitingTrials:
    """Two queues: trials that run beside others, and trials that ran out of memory and run alone.

    Args:
        tell_result: tells the back end the result of a trial if there is nothing more to train for it, and returns
            whether it did.
        affinity: the slots where trials have their models cached.
        slots: the slots.
    """

    def __init__(self, tell_result: Callable[[Trial], bool], affinity: Affinity, slots: SlotPool) -> None:
        self._tell_result = tell_result
        self._affinity = affinity
        self._slots = slots
        self._queue: deque[Trial] = deque()
        self._alone: deque[Trial] = deque()

    def add(self, trial: Trial) -> None:
        """Let `trial` go on when there is a slot: its process died, or was interrupted."""
        (self._alone if trial.resources.alone else self._queue).append(trial)

    def settle(self, trial: Trial) -> None:
        """Tell the result of `trial` now, if it waits and there is nothing more to train for it."""
        for queue in (self._queue, self._alone):
            if any(other is trial for other in queue) and trial.unfinished is None:
                queue.remove(trial)
                self._tell_result(trial)

    def first(self, *, alone: bool = False) -> Trial | None:
        """Return the first trial that has more to train, None if there is none. Those before it are told and removed.

        Args:
            alone: of the trials that run alone.
        """
        queue = self._alone if alone else self._queue
        while queue and self._tell_result(queue[0]):
            queue.popleft()
        return queue[0] if queue else None

    def pop(self, *, alone: bool = False) -> Trial:
        """Remove the first trial, and return it."""
        return (self._alone if alone else self._queue).popleft()

    def prefer(self, slot: int) -> None:
        """Put the first trial whose model is cached in `slot` before the others."""
        cached = next((trial for trial in self._queue if self._affinity.slot_of(trial.number) == slot), None)
        if cached is not None:
            self._queue.remove(cached)
            self._queue.appendleft(cached)

    def choose(self, slot: int, candidate: Callable[[int], Trial | None]) -> Trial | None:
        """Return the next trial for `slot`, None if there is none for now. A trial may wait once for its own slot.

        Args:
            slot: a slot taken just now.
            candidate: removes and returns the first trial to go on or to begin in a slot.
        """
        waiting: list[Trial] = []
        while (trial := candidate(slot)) is not None and self._waits_for_its_slot(trial, slot):
            waiting.append(trial)
        if trial is None and waiting:
            trial = waiting.pop(0)
        self._queue.extendleft(reversed(waiting))
        return trial

    def _waits_for_its_slot(self, trial: Trial, slot: int) -> bool:
        """Return whether `trial` lets others go first, once: the worker that has its model cached is busy."""
        assigned = self._affinity.slot_of(trial.number)
        busy = assigned is not None and assigned != slot and not self._slots.is_free(assigned)
        return busy and not trial.resources.alone and self._affinity.may_wait(trial.number)
