"""Clusters on this machine, and an executor on one that tests can watch."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from search.executors.base import ExecutorSetup
from search.executors.ray.executor import RayExecutor
from search.executors.ray.links import OwnerLink, Times
from search.executors.ray.plan import Wanted
from search.messages import Evaluate, Message, Segment
from search.options import Options

TIMEOUT = 240.0

_ids = itertools.count(1)

Event = tuple[int, int, Message]


@contextmanager
def started(head_cpus: int = 0, **head: Any) -> Iterator[Cluster]:
    """Start a cluster whose head has no processors to give away, and end it."""
    visible = os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # it bounds the number of GPUs that a node can invent
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False, **head})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


class Bench:
    """A `RayExecutor` with the messages that it has passed on."""

    def __init__(self, cluster: Cluster, folder: Path, wanted: Wanted, **options: Any) -> None:
        opts = Options(executor="ray", ray_address=cluster.address, workers=wanted.workers)
        slots = RayExecutor.find_slots(opts)
        setup = ExecutorSetup(slots, folder / "search.log", options=opts)
        from search.executors.ray.cluster import connect

        times = options.pop("times", Times(idle=None, place=60, lease=4))
        self.executor = RayExecutor(connect(opts), slots, wanted, setup, times=times, **options)
        self.events: list[Event] = []

    def start(self, slot: int, work: Segment | Evaluate) -> int:
        """Start work, and return its id."""
        number = next(_ids)
        self.executor.start(slot, replace(work, id=number))
        return number

    def until(self, found: Callable[[Event], bool]) -> Event:
        """Wait for an event, drop those of the same slot before it, and return it."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            for index, event in enumerate(self.events):
                if found(event):
                    later = self.events[index + 1 :]
                    self.events = [each for each in self.events[:index] if each[0] != event[0]] + later
                    return event
            assert time.monotonic() < deadline, f"it has not come; so far: {self.events[-20:]}"
            self.executor.poll(lambda *event: self.events.append(event), 0.1)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for a state of the executor."""
        deadline = time.monotonic() + TIMEOUT
        while not holds():
            assert time.monotonic() < deadline, "it has not come"
            self.executor.poll(lambda *event: self.events.append(event), 0.1)

    def until_message(self, slot: int, kind: type[Any]) -> Any:
        """Wait for a message of a slot, and return it."""
        return self.until(lambda event: event[0] == slot and isinstance(event[2], kind))[2]

    def link(self, slot: int) -> OwnerLink:
        """Return the owner of the node of a slot."""
        return self.executor._links[str(self.executor._slots[slot].node)]

    def close(self) -> None:
        self.executor.close()
