"""The protocol between a search and what decides it.

A back end is pure: no clock, no files, no processes, no random state. It has three *questions*, which change nothing
that shows, and one method that takes in facts:

- `ask`: what to train next, and how far;
- `suggest`: the value of a hyperparameter that a trial's factory asks for now;
- `judge`: whether a trial may go on after the epoch it just reported;
- `apply`: a journal record. All state is the fold of records, so a replay is the same calls without the questions.

`learn` takes in trials that another back end, study or era has trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from search.space.domain import Domain, Parameter, Value
from search.study.records import Record
from search.study.study import Trial
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed

LEARNERS = ("tpe", "gp", "cmaes")
"""The samplers that learn from trials that they did not draw."""

ATTEMPTS = 16
"""How often a sampler may repeat itself before a value is drawn at random from those left."""


class BackEnd(Protocol):
    """Decides what to try and how far to train it. The contract kit is `search.testing.BackEndContract`."""

    name: str

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        """What to train next. With `new` false there are no new trials to be had: the space or the budget is spent."""

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """A value of `parameter` for `trial`, none of `explored` (below which there is nothing new left to try)."""

    def judge(self, trial: int, epoch: int) -> Decision:
        """May `trial` go on after `epoch` (1-based)? Asked after that epoch was applied, if its suggestion says so."""

    def apply(self, record: Record) -> Sequence[int]:
        """Take in a record; of trials this back end did not ask for it wants nothing.

        Returns:
            The trials that it will never ask for again, as of this record. One that failed is among them at once.
        """

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in trials that were trained elsewhere or before, when an era begins or later."""


def draw_untaken(
    draw: Callable[[int], Value], domain: Domain, explored: Collection[Value], rng: Callable[[], random.Random]
) -> Value:
    """The first of `draw(0)`, `draw(1)`, … that is not `explored`; after `ATTEMPTS`, one of those left, at random.

    `explored` holds values of a finite domain, and not all of them.
    """
    if not explored:
        return draw(0)
    for attempt in range(ATTEMPTS):
        value = draw(attempt)
        if value not in explored:
            return value
    size = domain.size
    assert size is not None, "only a finite domain can be exhausted"
    return rng().choice([value for value in map(domain.value, range(size)) if value not in explored])


def draw_uniformly(seed: int, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
    """A value at random, a function of (study seed, trial, parameter)."""

    def rng(attempt: int) -> random.Random:
        return random.Random(derive_seed(seed, "draw", trial, parameter.key, attempt))

    domain = parameter.domain
    return Draw(draw_untaken(lambda n: domain.at(rng(n).random()), domain, explored, lambda: rng(-1)))


def learns(sampler: str) -> bool:
    """Whether the sampler of this spec learns from trials that it did not draw."""
    return sampler.partition(":")[0] in LEARNERS


def fitting(trial: Trial, parameters: Sequence[Parameter]) -> list[tuple[Parameter, Value]] | None:
    """What a trial of another era or study says about a space whose probe was asked for `parameters`.

    Its values, each with the parameter as it is now; one that the probe did not meet may be asked for under conditions,
    and stays as it was. None where there is nothing to learn: the trial has neither a score nor failed, nothing of it
    is in the space, or it has a value that the space no longer holds: what came of that says nothing of what is left.
    A trial may lack parameters that are new; which samplers can use it then is theirs to know.
    """
    if trial.objective is None and not trial.failed:
        return None
    now = {parameter.key: parameter for parameter in parameters}
    found = []
    for before in trial.parameters:
        parameter, value = now.get(before.key, before), trial.params[before.name]
        if not parameter.domain.contains(value):
            return None
        if parameter.domain.size != 1:
            found.append((parameter, value))
    known = not parameters or any(parameter.key in now for parameter, _ in found)
    return found if found and known else None


def running_best(trial: Trial, objective: Objective) -> list[float | None]:
    """The best value of `trial` so far after each of its epochs; None before the first finite one."""
    best: float | None = None
    found: list[float | None] = []
    for epoch in trial.curve:
        found += [best] * (epoch.epoch - len(found) - 1)  # one record may stand for several epochs
        value = epoch.logs.get(objective.name)
        if value is not None and math.isfinite(value) and objective.better(value, best):
            best = value
        found.append(best)
    return found
