"""A back end's computations, made beside the loop: each in a thread of its own, so that no worker waits for one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from search.scheduler.events import ComputationEnded
from search.space.file import describe_error
from search.study.trial import Computation

if TYPE_CHECKING:
    from search.executors.simulated import SimulatedExecutor

__all__ = ["Computations", "Threads", "VirtualComputations", "compute"]


class Computations(Protocol):
    """Makes computations beside the driver's loop."""

    @property
    def under_way(self) -> bool:
        """True if a computation was started whose end `ended` has not returned yet."""

    def start(self, computation: Computation) -> None:
        """Start a computation. Return at once."""

    def ended(self) -> Sequence[ComputationEnded]:
        """Return the computations that have ended since the last call."""


class Threads:
    """Computations in threads. A process that ends waits for none of them."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[ComputationEnded] = SimpleQueue()
        self._count = 0

    @property
    def under_way(self) -> bool:
        return self._count > 0

    def start(self, computation: Computation) -> None:
        self._count += 1
        name = f"computation {computation.number}"
        threading.Thread(target=lambda: self._ended.put(compute(computation)), name=name, daemon=True).start()

    def ended(self) -> Sequence[ComputationEnded]:
        found = []
        while self._count and not self._ended.empty():
            found.append(self._ended.get())
            self._count -= 1
        return found


class VirtualComputations:
    """Computations that take virtual time. Each is made when its time is over, while the driver waits.

    Args:
        executor: has the clock.
        seconds: the duration of each, in virtual seconds.
    """

    def __init__(self, executor: SimulatedExecutor, seconds: float) -> None:
        self._executor = executor
        self._seconds = seconds
        self._running: tuple[float, Computation] | None = None

    @property
    def under_way(self) -> bool:
        return self._running is not None

    def start(self, computation: Computation) -> None:
        assert self._running is None, "two computations at once"
        self._running = self._executor.now() + self._seconds, computation
        self._executor.wake_at(self._running[0])

    def ended(self) -> Sequence[ComputationEnded]:
        if self._running is None or self._executor.now() < self._running[0]:
            return []
        computation, self._running = self._running[1], None
        return [compute(computation)]


def compute(computation: Computation) -> ComputationEnded:
    """Make a computation, and return its result as a reader of the journal has it, or the line that says why not."""
    try:
        result: object = computation.run()
    except BaseException as error:  # a `sys.exit`, too: nobody would ever hear of it
        return ComputationEnded(computation.number, {}, describe_error(error))
    if not isinstance(result, Mapping):
        return ComputationEnded(computation.number, {}, f"it returned a {type(result).__name__}, not a JSON object")
    try:
        text = json.dumps(dict(result), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return ComputationEnded(computation.number, {}, f"it returned what JSON cannot hold: {error}")
    return ComputationEnded(computation.number, json.loads(text))
