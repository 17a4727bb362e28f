"""The protocol of peers, and the loop that runs one on virtual workers.

A peer decides for itself, by its own library. It says what to train next, and hears each epoch's value. A trial that
goes on is charged only the epochs after its last one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from regret_problems.problem import Config, Problem
from regret_problems.space import Choices


class Observation(NamedTuple):
    """An epoch of a search.

    Attributes:
        time: its end in virtual seconds since the start.
        config: the configuration.
        epoch: its number in the configuration's curve, from 1.
        value: the value that the search saw.
    """

    time: float
    config: Config
    epoch: int
    value: float


@dataclass(frozen=True, slots=True)
class Job:
    """A training that a peer asks for.

    Attributes:
        config: the configuration.
        from_epoch, to_epoch: the training goes from the end of the former to the end of the latter.
        trial: whatever the peer knows it by.
    """

    config: Config
    from_epoch: int
    to_epoch: int
    trial: Any


class Peer(Protocol):
    """A method of another package."""

    def ask(self) -> Job | None:
        """Return the next training for a free worker; None if there is none before a running one has ended."""

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        """Take in the value of an epoch, and return whether the training stops here."""

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        """Take in the end of a training after `epoch`; it failed if its last value was no number."""


def run_peer(
    make: Callable[[Choices], Peer], problem: Problem, seed: int, workers: int, horizon: int
) -> list[Observation]:
    """Return what a peer observed until `horizon`. An epoch takes one virtual second."""
    choices = Choices(problem)
    peer = make(choices)
    observations: list[Observation] = []
    numbers = itertools.count()
    # The time at which an epoch ends, a number that orders equal times, the job, the epoch, the values of all epochs.
    running: list[tuple[int, int, Job, int, Sequence[float]]] = []
    now, free = 0, workers
    while True:
        while free and (job := peer.ask()) is not None:
            free -= 1
            curve = problem.curve(job.config, seed).observed
            heapq.heappush(running, (now + 1, next(numbers), job, job.from_epoch + 1, curve))
        if not running or running[0][0] > horizon:
            return observations
        now, _, job, epoch, curve = heapq.heappop(running)
        # A recorded training that a callback ended early stops at once, with its last value, if it is to go on.
        known = min(epoch, len(curve))
        value = curve[known - 1]
        observations.append(Observation(now, job.config, known, value))
        failed = math.isnan(value)
        stops = failed or peer.tell(job, epoch, value) or epoch >= min(job.to_epoch, len(curve))
        if not stops:
            heapq.heappush(running, (now + 1, next(numbers), job, epoch + 1, curve))
            continue
        peer.end(job, epoch, failed=failed)
        free += 1
