"""A back end with computations: random search in which every few results are averaged, as small as it can be."""

from __future__ import annotations

import random
import statistics
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from search.backends.base import draw_unexplored
from search.space.domain import Parameter, Value
from search.study.records import Computed, Record, ResultTold, SegmentRequested
from search.study.trial import Computation, Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.study.trials import Trial


class Averaging:
    """Random search whose draws depend on the last mean of the scores, to the last bit.

    Args:
        objective, seed: of the study.
        max_epochs: the epochs of each trial.
        every: results between two computations.
    """

    protocol = 1

    def __init__(self, objective: Objective, seed: int, *, max_epochs: int, every: int = 3) -> None:
        self._seed = seed
        self._max_epochs, self._every = max_epochs, every
        self._running: set[int] = set()
        self._scores: list[float | None] = []
        """The results in the order in which they came."""
        self._computed = 0
        self._mean: float | None = None
        self._means: dict[int, float | None] = {}
        """The mean that a trial's values are drawn with."""

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return a new trial, which remembers the mean as it is now. None begins while a mean is computed."""
        if not new:
            return Wait() if self._running else Done()
        if self.computation() is not None:
            return Wait()
        return Suggestion(None, 0, self._max_epochs, attributes={"mean": self._mean})

    def computation(self) -> Computation | None:
        """Return the mean of the scores so far, when there are `every` more than for the last one."""
        count = (self._computed + 1) * self._every
        if len(self._scores) < count:
            return None
        return Computation(self._computed, partial(mean, self._scores[:count]))

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value at random, another one for another mean."""

        def rng(attempt: int) -> random.Random:
            return random.Random(derive_seed(self._seed, trial, parameter.key, repr(self._means[trial]), attempt))

        domain = parameter.domain
        return Draw(draw_unexplored(lambda n: domain.at(rng(n).random()), domain, explored, lambda: rng(-1)))

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on."""
        return Decision()

    def apply(self, record: Record) -> Sequence[int]:
        """Take in results and means; return each trial that has its result."""
        match record:
            case SegmentRequested():
                self._running.add(record.trial)
                self._means[record.trial] = record.attributes["mean"]
            case ResultTold() if record.trial in self._running:
                self._running.discard(record.trial)
                self._scores.append(record.score)
                return [record.trial]
            case Computed():
                self._computed = record.number + 1
                if record.error is None:
                    self._mean = record.result["mean"]
        return []

    def learn(self, trials: Sequence[Trial]) -> None:
        """Learn nothing."""


def mean(scores: Sequence[float | None]) -> Mapping[str, Any]:
    """Return the mean of those that are known. StatisticsError if there are none."""
    return {"mean": statistics.fmean(score for score in scores if score is not None)}
