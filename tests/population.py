"""A back end that names parents: population based training, as small as it can be.

Jaderberg et al. 2017, "Population Based Training of Neural Networks", arXiv:1711.09846, section 4.1, in generations:
when all members have been trained for some epochs, children of the best quarter take the places of the worst
("exploit"), with perturbed hyperparameters ("explore"). After its last generation, the next population begins.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence

from search.backends.base import draw_uniformly
from search.space.domain import Parameter, Value
from search.study.records import ParameterSet, Record, ResultTold, SegmentRequested
from search.study.study import Trial
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed

FACTORS = (0.8, 1.2)
"""The factors that a continuous value is multiplied by (appendix A.1)."""


class PopulationBased:
    """Population based training. A trial's bracket is the number of its population, its rung that of its generation.

    Args:
        objective, seed: of the study.
        max_epochs: the epochs of a member, its ancestors' included.
        size: members of a population.
        step: epochs of a generation.
    """

    protocol = 1

    def __init__(self, objective: Objective, seed: int, *, max_epochs: int, size: int = 4, step: int = 3) -> None:
        self._objective, self._seed = objective, seed
        self._max_epochs, self._size, self._step = max_epochs, size, step
        self._population = self._generation = 0
        self._founders = 0
        self._running: set[int] = set()
        self._results: dict[int, ResultTold] = {}
        """The results of this generation, by member."""
        self._earlier: dict[int, ResultTold] = {}
        """The results of the generation before."""
        self._queue: list[int] = []
        """Members that have not entered this generation yet, the worst first: a parent goes on after its children."""
        self._asked: dict[int, int] = {}
        self._values: dict[int, dict[Parameter, Value]] = defaultdict(dict)

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return a founder, a member to go on, or a child in a member's place."""
        if self._queue:
            return self._next_member(self._queue, self._earlier, self._generation, child=child)
        if new and self._generation == 0 and self._founders < self._size:
            return self._founder(self._population)
        if self._running:
            return Wait()
        if self._results and not self._is_last(self._generation):
            return self._next_member(self._ranking(self._results), self._results, self._generation + 1, child=child)
        return self._founder(self._population + 1) if new else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value at random."""
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on."""
        return Decision()

    def apply(self, record: Record) -> Sequence[int]:
        """Move members from generation to generation; return those that were replaced, failed or ended."""
        match record:
            case SegmentRequested():
                return self._enter(record)
            case ParameterSet():
                self._values[record.trial][record.parameter] = record.value
            case ResultTold() if record.trial in self._running:
                self._running.discard(record.trial)
                if record.score is None:
                    return [record.trial]
                self._results[record.trial] = record
                return [record.trial] if self._is_last(self._generation) else []
        return []

    def learn(self, trials: Sequence[Trial]) -> None:
        """Learn nothing."""

    def _founder(self, population: int) -> Suggestion:
        return Suggestion(None, 0, self._last_epoch(0), bracket=population, rung=0)

    def _next_member(
        self, queue: Sequence[int], results: dict[int, ResultTold], generation: int, *, child: bool
    ) -> Suggestion:
        member, last = queue[0], self._last_epoch(generation)
        place = len(results) - len(queue)
        if not child or len(results) == 1 or place >= max(1, len(results) // 4):
            return Suggestion(member, self._asked[member], last, self._population, generation)
        best = self._ranking(results)[-1 - place]
        rng = random.Random(derive_seed(self._seed, "explore", member, last))
        values = {parameter.name: _perturb(parameter, value, rng) for parameter, value in self._values[best].items()}
        return Suggestion(None, results[best].epoch, last, self._population, generation, parent=best, values=values)

    def _enter(self, record: SegmentRequested) -> Sequence[int]:
        assert record.bracket is not None
        assert record.rung is not None
        if record.bracket > self._population:
            self._population, self._generation, self._founders, self._results = record.bracket, 0, 0, {}
        if record.rung > self._generation:
            self._generation, self._earlier, self._results = record.rung, self._results, {}
            self._queue = self._ranking(self._earlier)
        self._running.add(record.trial)
        self._asked[record.trial] = record.to_epoch
        if record.rung == 0:
            self._founders += 1
            return []
        member = self._queue.pop(0)
        return [] if record.parent is None else [member]

    def _ranking(self, results: dict[int, ResultTold]) -> list[int]:
        """Return the members, the worst first."""
        return sorted(results, key=lambda trial: (self._objective.cost(results[trial].score), trial), reverse=True)

    def _last_epoch(self, generation: int) -> int:
        return min((generation + 1) * self._step, self._max_epochs)

    def _is_last(self, generation: int) -> bool:
        return self._last_epoch(generation) == self._max_epochs


def _perturb(parameter: Parameter, value: Value, rng: random.Random) -> Value:
    """Return a value near another one: a neighbour, or if there is a continuum, the value times a factor."""
    domain = parameter.domain
    if domain.size is not None:
        return domain.value(min(max(domain.index(value) + rng.choice((-1, 0, 1)), 0), domain.size - 1))
    assert isinstance(value, (int, float))
    return min(max(value * rng.choice(FACTORS), domain.low), domain.high)
