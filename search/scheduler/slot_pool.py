"""The pool of slots: which are free, and for which trials.

A trial that ran out of memory runs *alone* the next time: nothing else uses its device's memory meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["SlotPool"]


class SlotPool:
    """The slots of a search.

    Args:
        sharing: for each slot, the other slots that use the same memory: shares of one GPU.
    """

    def __init__(self, sharing: Sequence[Collection[int]]) -> None:
        self._sharing = sharing
        self._free = list(range(len(sharing) - 1, -1, -1))
        self._alone: dict[int, bool] = {}
        """For each slot in use, whether its trial runs alone."""
        self._clearing: int | None = None

    def take(self, *, alone: bool = False) -> int | None:
        """Take a free slot and return it; None if there is none for now.

        Args:
            alone: take a slot whose memory nothing else uses for as long as it is taken. If there is none, one is
                cleared: work beside it ends, and no other work begins there, until this is called again.
        """
        if alone:
            return self._take_alone()
        if self._clearing is None and not any(self._alone.values()):
            return self._use(self._free[-1]) if self._free else None
        return next((self._use(slot) for slot in reversed(self._free) if not self._is_reserved(slot)), None)

    def is_free(self, slot: int) -> bool:
        """Return whether nothing runs in `slot`."""
        return slot in self._free

    def swap(self, slot: int, wanted: int | None) -> int:
        """Exchange `slot`, taken just now, for the slot `wanted` if that can be had. Return the slot taken now."""
        if wanted not in self._free or self._is_reserved(wanted):
            return slot
        self.release(slot)
        return self._use(wanted)

    def release(self, slot: int) -> None:
        """Free `slot`, whose work has ended."""
        del self._alone[slot]
        self._free.append(slot)

    def stop_clearing(self) -> None:
        """Open the slot that is being cleared to all work: no trial waits for it."""
        self._clearing = None

    def _take_alone(self) -> int | None:
        for slot in reversed(self._free):
            if self._clearing in (None, slot) and not self._used_beside(slot):
                self._clearing = None
                return self._use(slot, alone=True)
        if self._clearing is None:
            candidates = [slot for slot in range(len(self._sharing)) if not self._is_reserved(slot)]
            # The slot with the least work to wait for.
            self._clearing = min(
                candidates, key=lambda slot: len(self._used_beside(slot)) + (slot in self._alone), default=None
            )
        return None

    def _use(self, slot: int, *, alone: bool = False) -> int:
        self._free.remove(slot)
        self._alone[slot] = alone
        return slot

    def _used_beside(self, slot: int) -> list[int]:
        """Return the slots in use that share memory with `slot`."""
        return [other for other in self._sharing[slot] if other in self._alone]

    def _is_reserved(self, slot: int) -> bool:
        """Return whether a trial runs alone in `slot` or beside it, or waits for it to be cleared."""
        clearing = self._clearing
        if clearing is not None and (slot == clearing or slot in self._sharing[clearing]):
            return True
        return self._alone.get(slot, False) or any(self._alone.get(other, False) for other in self._sharing[slot])
