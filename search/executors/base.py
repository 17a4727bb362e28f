"""The protocol between the driver and where segments run. The contract kit is `search.testing.ExecutorContract`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from search.messages import Answer, Evaluate, Interrupt, Message, Probe, Probed, ProbeFailed, Segment, Verdict

Handle = Callable[[int, Message], None]
"""What an executor calls with (slot, message)."""


class Executor(Protocol):
    """Runs segments and harvests in slots numbered from 0.

    A slot has at most one of them. Whatever happens to it, the last word is one `SegmentEnded`, or one `Evaluated`, or one
    `Lost`; after it the slot is free, and ready for the next.
    """

    @property
    def slots(self) -> int:
        """How many segments run at once."""

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        """Probe a space, in slot 0, while nothing runs. Waits for the result."""

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        """Start a segment or a harvest in a free slot."""

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        """Say something to the worker in a slot. Of no effect where it has died."""

    def kill(self, slot: int, reason: str) -> None:
        """End the process of a slot, whatever it does; its last word is `Lost` for this reason. Of no effect where
        nothing runs there, or where it is the driver's own process that runs it."""

    def poll(self, handle: Handle, timeout: float) -> None:
        """Hand over what workers have said, waiting up to `timeout` seconds for the first word."""

    def close(self, *, now: bool = False) -> None:
        """End all workers; with `now`, without waiting for anything. May be called twice."""
