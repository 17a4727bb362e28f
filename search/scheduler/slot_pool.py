"""Which slots are free, and for whom: a trial that ran out of memory gets its device to itself the next time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["SlotPool"]


class SlotPool:
    """The slots of a search.

    Args:
        sharing: for each slot, the others that take of the same memory: shares of one GPU.
    """

    def __init__(self, sharing: Sequence[Collection[int]]) -> None:
        self._sharing = sharing
        self._free = list(range(len(sharing) - 1, -1, -1))
        self._taken: dict[int, bool] = {}
        self._clearing: int | None = None

    def take(self, *, alone: bool = False) -> int | None:
        """A free slot; None where there is none for now.

        Args:
            alone: one with whose memory nothing else is done for as long as it is taken. Where there is none, one is
                cleared: what runs beside it ends, and nothing else is begun there, until this is asked again.
        """
        if alone:
            return self._take_alone()
        if self._clearing is None and not any(self._taken.values()):
            return self._give(self._free[-1]) if self._free else None
        return next((self._give(slot) for slot in reversed(self._free) if not self._is_closed(slot)), None)

    def is_free(self, slot: int) -> bool:
        return slot in self._free

    def swap(self, slot: int, wanted: int | None) -> int:
        """Give `slot`, taken just now, for the one that is `wanted`, if that is free. Returns the one taken then."""
        if wanted not in self._free or self._is_closed(wanted):
            return slot
        self.release(slot)
        return self._give(wanted)

    def release(self, slot: int) -> None:
        """What ran in `slot` has ended."""
        del self._taken[slot]
        self._free.append(slot)

    def reopen(self) -> None:
        """Nobody waits for the slot that is being cleared."""
        self._clearing = None

    def _take_alone(self) -> int | None:
        for slot in reversed(self._free):
            if self._clearing in (None, slot) and not self._beside(slot):
                self._clearing = None
                return self._give(slot, alone=True)
        if self._clearing is None:
            open_ = [slot for slot in range(len(self._sharing)) if not self._is_closed(slot)]
            self._clearing = min(open_, key=lambda slot: len(self._beside(slot)) + (slot in self._taken), default=None)
        return None

    def _give(self, slot: int, *, alone: bool = False) -> int:
        self._free.remove(slot)
        self._taken[slot] = alone
        return slot

    def _beside(self, slot: int) -> list[int]:
        """The taken slots that share memory with `slot`."""
        return [other for other in self._sharing[slot] if other in self._taken]

    def _is_closed(self, slot: int) -> bool:
        """Whether `slot` is kept free for one that is to be alone beside it, or is."""
        clearing = self._clearing
        if clearing is not None and (slot == clearing or slot in self._sharing[clearing]):
            return True
        return self._taken.get(slot, False) or any(self._taken.get(other, False) for other in self._sharing[slot])
