"""What happens in a simulated worker in the place of a user's space file and its training; see
`search.executors.simulated`.

A scenario is made of functions, and everything it does follows from their arguments, so that any search repeats.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from search.space.domain import Condition, Domain, Parameter, Sampling, Value
from search.study.trial import derive_seed

__all__ = ["Distribution", "Hp", "Params", "Run", "Scenario", "recorded"]

Params = Mapping[str, Value]
Distribution = Callable[[random.Random], float]
"""A number drawn with a generator: `lambda rng: rng.lognormvariate(0, 0.3)`."""

CURVES_KEPT = 2**14


class _Unanswered(Exception):
    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter


class Hp:
    """A stand-in for the `hp` of a factory. What lacks a value ends the call; with the answer, it is made again."""

    def __init__(self, values: Params) -> None:
        self.used: dict[str, Value] = {}
        self._values = values
        self._conditions: list[Condition] = []

    def Int(self, name: str, low: int, high: int, step: int | None = None, sampling: Sampling = "linear") -> Any:
        return self._value(name, Domain("int", low, high, step, sampling))

    def Float(
        self, name: str, low: float, high: float, step: float | None = None, sampling: Sampling = "linear"
    ) -> Any:
        return self._value(name, Domain("float", low, high, step, sampling))

    def Choice(self, name: str, values: Sequence[Value], ordered: bool = False) -> Any:
        return self._value(name, Domain("choice", values=tuple(values), ordered=ordered))

    def Boolean(self, name: str) -> Any:
        return self._value(name, Domain("boolean", values=(True, False)))

    def Fixed(self, name: str, value: Value) -> Any:
        return self._value(name, Domain("fixed", values=(value,)))

    @contextmanager
    def when(self, name: str, *values: Value) -> Iterator[None]:
        """What is asked for here is active only where the parameter `name` has one of `values`; else it is None."""
        self._conditions.append(Condition(name, values))
        yield
        self._conditions.pop()

    def _value(self, name: str, domain: Domain) -> Value:
        if not all(self.used.get(condition.name) in condition.values for condition in self._conditions):
            return None
        if name not in self._values:
            raise _Unanswered(Parameter(name, domain, domain.at(0.0), tuple(self._conditions)))
        self.used[name] = self._values[name]
        return self.used[name]


class Run(dict[str, Value]):
    """The values of one execution of a trial, by name; and whose they are, for what is not to follow from the values.

    Attributes:
        trial, execution: whose values they are.
        seed: of the training; it follows from (study seed, trial, execution).
    """

    __slots__ = ("execution", "seed", "trial")

    def __init__(self, values: Params, trial: int = 0, execution: int = 0, seed: int = 0) -> None:
        super().__init__(values)
        self.trial = trial
        self.execution = execution
        self.seed = seed

    def random(self, *labels: int | str) -> random.Random:
        """A generator that follows from the training seed and `labels`: an epoch, what is drawn."""
        return random.Random(derive_seed(self.seed, *labels))


def _never(*_: Any) -> None:
    return None


def _one(*_: Any) -> float:
    return 1.0


def _zero(*_: Any) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in the place of a user's space file and its training.

    The functions are given the values as a `Run`: a dict that also knows trial, execution and training seed. Epochs
    are counted from 1, times are virtual seconds.

    Attributes:
        ask: the factory. An exception of its own fails the trial.
        value: the objective of (values, epoch).
        fails: the epoch in which a trial with these values raises an exception, 0 for its build; None for never.
        finishes: the epoch after which a callback of the user's ends the training.
        dies: the epoch in which the worker's process is lost, 0 for the build, by (trial, how often it was started).
        seconds: how long an epoch takes.
        pace: what `seconds` is multiplied by in (values, epoch).
        build: how long a build takes, its questions apart.
        latency: how long the n-th word of (values, n) is on its way, be it of the worker or to it. With 0, a worker
            goes on when it was heard.
        size: scalars in the model's weights.
        metric: the objective's name in an epoch's logs.
    """

    ask: Callable[[Hp], object]
    value: Callable[[Run, int], float]
    fails: Callable[[Run], int | None] = _never
    finishes: Callable[[Run], int | None] = _never
    dies: Callable[[int, int], int | None] = _never
    seconds: Callable[[Run], float] = _one
    pace: Callable[[Run, int], float] = _one
    build: Callable[[Run], float] = _zero
    latency: Callable[[Run, int], float] = _zero
    size: Callable[[Run], int] = len
    metric: str = "val_loss"

    def question(self, values: Params) -> Parameter | None:
        """What the factory asks for next; None when it is built."""
        try:
            self.ask(Hp(values))
        except _Unanswered as unanswered:
            return unanswered.parameter
        return None

    def used(self, values: Params) -> dict[str, Value]:
        """Those of `values` that the factory asks for."""
        hp = Hp(values)
        self.ask(hp)
        return hp.used

    def parameters(self, values: Params | None = None) -> tuple[Parameter, ...]:
        """What a probe sees: the questions of a build with `values`, and defaults for the others."""
        known = dict(values or {})
        found = []
        while (parameter := self.question(known)) is not None:
            found.append(parameter)
            known[parameter.name] = parameter.default
        return tuple(found)

    def disturbed(
        self,
        *,
        noise: Distribution | None = None,
        pace: Distribution | None = None,
        build: Distribution | None = None,
        latency: Distribution | None = None,
        failing: float = 0.0,
        dying: float = 0.0,
        seed: int = 0,
    ) -> Scenario:
        """This scenario, with what differs from one training to the next drawn from distributions.

        A draw follows from `seed`, the training seed (so from study, trial, execution), the epoch, and what is drawn.

        Args:
            noise: is added to the objective of each epoch.
            pace: multiplies the seconds of each epoch: stragglers.
            build, latency: in the place of the scenario's own.
            failing: the probability that a build, or an epoch, raises an exception.
            dying: the probability that a build, or an epoch, loses its process; drawn anew when it is started again.
            seed: with another one, the same search is disturbed in another way.
        """
        value = self.value
        changes: dict[str, Any] = {}
        if noise is not None:
            changes["value"] = lambda run, epoch: value(run, epoch) + noise(run.random(seed, "noise", epoch))
        if pace is not None:
            changes["pace"] = lambda run, epoch: pace(run.random(seed, "pace", epoch))
        if build is not None:
            changes["build"] = lambda run: build(run.random(seed, "build"))
        if latency is not None:
            changes["latency"] = lambda run, word: latency(run.random(seed, "latency", word))
        if failing > 0:
            changes["fails"] = lambda run: _first(failing, run.random(seed, "fails"))
        if dying > 0:
            changes["dies"] = lambda trial, attempt: _first(
                dying, random.Random(derive_seed(seed, "dies", trial, attempt))
            )
        return replace(self, **changes)


def _first(probability: float, rng: random.Random) -> int:
    """How many happen before the first of events of `probability`: of the geometric distribution."""
    return int(math.log1p(-rng.random()) / math.log1p(-probability)) if probability < 1 else 0


Curves = Mapping[frozenset[tuple[str, Value]], Sequence[float]] | Callable[[Params], Sequence[float]]


def recorded(ask: Callable[[Hp], object], curves: Curves, **others: Any) -> Scenario:
    """A scenario of recorded learning curves, or of a surrogate that was fitted to some.

    Args:
        ask: the factory: it asks for what tells one configuration from another.
        curves: the objectives of a configuration, epoch 1 first: by `frozenset(configuration.items())`, or a function
            of the configuration, which is called once for each. Where a curve ends, its training does, as if a
            callback had ended it.
        others: as in `Scenario`: `seconds`, `metric`, …

    Raises:
        ValueError: when the search comes to a configuration that has no curve.
    """

    @functools.lru_cache(CURVES_KEPT)
    def of(items: frozenset[tuple[str, Value]]) -> Sequence[float]:
        curve = curves(dict(items)) if callable(curves) else curves.get(items, ())
        if len(curve) == 0:
            raise ValueError(f"no curve was recorded for {dict(items)}: let `ask` ask for what was recorded")
        return curve

    def value(run: Run, epoch: int) -> float:
        return float(of(frozenset(run.items()))[epoch - 1])

    def finishes(run: Run) -> int:
        return len(of(frozenset(run.items())))

    return Scenario(ask, value, **{"finishes": finishes, **others})
