"""The pool of slots: which are free, and for which trials.

A trial that ran out of memory runs *alone* the next time: nothing else uses its device's memory meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from search.messages import SlotClosed, SlotOpened

__all__ = ["SlotPool"]


class SlotPool:
    """The slots of a search.

    Args:
        sharing: for each slot, the other slots that use the same memory: shares of one GPU.
        closed: the slots that take no work until they open.
    """

    def __init__(self, sharing: Sequence[Collection[int]], closed: Collection[int] = ()) -> None:
        self._sharing = [set(others) for others in sharing]
        self._closed = set(closed)
        self._free = dict.fromkeys(slot for slot in range(len(sharing) - 1, -1, -1) if slot not in self._closed)
        """The free slots. The last one is taken first. (A dict, as a list takes time for each slot that it has.)"""
        self._used: set[int] = set()
        self._alone: set[int] = set()
        """The slots in use whose trial runs alone."""
        self._clearing: int | None = None

    def take(self, *, alone: bool = False) -> int | None:
        """Take a free slot and return it; None if there is none for now.

        Args:
            alone: take a slot whose memory nothing else uses for as long as it is taken. If there is none, one is
                cleared: work beside it ends, and no other work begins there, until this is called again.
        """
        if alone:
            return self._take_alone()
        if self._clearing is None and not self._alone:
            return self._use(next(reversed(self._free))) if self._free else None
        return next((self._use(slot) for slot in reversed(self._free) if not self._is_reserved(slot)), None)

    @property
    def free(self) -> list[int]:
        """The open slots where nothing runs."""
        return list(self._free)

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
        self._used.remove(slot)
        self._alone.discard(slot)
        if slot not in self._closed:
            self._free[slot] = None

    def change(self, slot: int, message: SlotOpened | SlotClosed) -> None:
        """Open or close `slot`, as the executor says."""
        if isinstance(message, SlotOpened):
            self.open(slot, message.sharing)
        else:
            self.close(slot)

    def open(self, slot: int, sharing: Collection[int]) -> None:
        """Let `slot` take work. It may be a new one. New slots need not open in the order of their numbers.

        Args:
            sharing: the other slots that use the same memory now.
        """
        for new in range(len(self._sharing), slot + 1):
            self._sharing.append(set())
            self._closed.add(new)
        for other in self._sharing[slot]:
            self._sharing[other].discard(slot)
        self._sharing[slot] = {other for other in sharing if other < len(self._sharing)}
        for other in self._sharing[slot]:
            self._sharing[other].add(slot)
        if slot in self._closed:
            self._closed.discard(slot)
            if slot not in self._used:
                self._free[slot] = None

    def close(self, slot: int) -> None:
        """Let `slot` take no more work until it opens. Work that runs there is not affected."""
        self._closed.add(slot)
        self._free.pop(slot, None)
        if self._clearing == slot:
            self._clearing = None

    def stop_clearing(self) -> None:
        """Open the slot that is being cleared to all work: no trial waits for it."""
        self._clearing = None

    def _take_alone(self) -> int | None:
        for slot in reversed(self._free):
            if self._clearing in (None, slot) and not self._used_beside(slot):
                self._clearing = None
                return self._use(slot, alone=True)
        if self._clearing is None:
            slots = (slot for slot in range(len(self._sharing)) if slot not in self._closed)
            candidates = [slot for slot in slots if not self._is_reserved(slot)]
            # The slot with the least work to wait for.
            self._clearing = min(
                candidates, key=lambda slot: len(self._used_beside(slot)) + (slot in self._used), default=None
            )
        return None

    def _use(self, slot: int, *, alone: bool = False) -> int:
        del self._free[slot]
        self._used.add(slot)
        if alone:
            self._alone.add(slot)
        return slot

    def _used_beside(self, slot: int) -> list[int]:
        """Return the slots in use that share memory with `slot`."""
        return [other for other in self._sharing[slot] if other in self._used]

    def _is_reserved(self, slot: int) -> bool:
        """Return whether a trial runs alone in `slot` or beside it, or waits for it to be cleared."""
        clearing = self._clearing
        if clearing is not None and (slot == clearing or slot in self._sharing[clearing]):
            return True
        return slot in self._alone or not self._alone.isdisjoint(self._sharing[slot])
