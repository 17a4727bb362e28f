"""The interface of an executor. Its contract kit is `search.testing.ExecutorContract`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from search.messages import Answer, Evaluate, Interrupt, Message, Probe, Probed, ProbeFailed, Segment, Verdict

Handle = Callable[[int, Message], None]
"""A function that an executor calls with (slot, message)."""


def tell_user(text: str) -> None:
    """Show a worker's text while a probe goes on: the driver, which shows texts otherwise, waits for the probe."""
    print(text, file=sys.stderr, flush=True)


class Executor(Protocol):
    """Runs segments and final evaluations in slots, which are numbered from 0.

    A slot runs at most one of them at a time. Whatever happens, its last message is one `SegmentEnded`, one `Evaluated`
    or one `Lost`. After that the slot is free and ready for the next.
    """

    @property
    def slots(self) -> int:
        """Number of slots."""

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        """Probe a space in slot 0 while nothing runs, and wait for the result."""

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        """Start a segment or a final evaluation in a free slot."""

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        """Send a command to the worker in a slot. This has no effect if the worker has died."""

    def kill(self, slot: int, reason: str) -> None:
        """End the process of a slot, whatever it is doing. Its last message is `Lost` with this reason.

        This has no effect if nothing runs there, or if the slot runs in the driver's own process.
        """

    def poll(self, handle: Handle, timeout: float) -> None:
        """Pass the workers' messages to `handle`, waiting up to `timeout` seconds for the first one."""

    def close(self, *, now: bool = False) -> None:
        """End all workers; with `now`, without waiting for anything. A second call has no effect."""
