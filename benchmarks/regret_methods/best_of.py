"""The best of N random configurations after some epochs is trained to the end; then again, with N others."""

from __future__ import annotations

import random

from regret_problems.problem import Problem
from regret_problems.space import Choices

from regret_methods.peer import Job
from search.errors import OptionError


class _Round:
    """N configurations, of which the best goes on."""

    def __init__(self) -> None:
        self.begun = 0
        self.values: list[tuple[float, int, Job]] = []


class BestOf:
    """A peer without a library.

    Args:
        problem: the problem.
        seed: of the search.
        choices: the configurations that are left.
        n: the configurations of a round; with 1, each is trained to the end.
        epochs: the epochs after which they are compared.
    """

    def __init__(self, problem: Problem, seed: int, choices: Choices, *, n: int = 26, epochs: int = 2) -> None:
        self._problem, self._choices = problem, choices
        self._n, self._epochs = n, min(epochs, problem.max_epochs)
        self._rng = random.Random(seed)
        self._round = _Round()
        self._promoted: list[Job] = []
        self._last: dict[int, float] = {}

    @staticmethod
    def check(*, n: int = 26, epochs: int = 2) -> None:
        """Raise OptionError if the arguments are no counts."""
        if not all(type(number) is int and number > 0 for number in (n, epochs)):
            raise OptionError("--methods best-of: n and epochs are whole numbers of at least 1")

    def ask(self) -> Job | None:
        """Return the best of a round that is complete, else a new configuration; none wait for a slow round."""
        if self._promoted:
            return self._promoted.pop()
        if not self._choices.left:
            return None
        if self._round.begun == self._n:
            self._round = _Round()
        self._round.begun += 1
        return Job(self._choices.draw(self._rng), 0, self._epochs, self._round)

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        """Note the value."""
        self._last[id(job)] = value
        return False

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        """Promote the best of a round when its last training has ended."""
        value = self._last.pop(id(job), None)
        if job.from_epoch:
            return
        cost = self._problem.objective.cost(None if failed else value)
        job.trial.values.append((cost, len(job.trial.values), job))
        if len(job.trial.values) == self._n and self._epochs < self._problem.max_epochs:
            best = min(job.trial.values)[2]
            self._promoted.append(Job(best.config, self._epochs, self._problem.max_epochs, None))
