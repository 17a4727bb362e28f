"""Scenarios: the behaviour of simulated workers, in place of a user's space file and its training.

A scenario consists of functions. Its behaviour depends only on their arguments, so that every search can be repeated.
`search.executors.simulated` runs it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from search.space.domain import QUESTIONS, Condition, Parameter, Value
from search.space.hyperparameters import QuestionMethods
from search.study.trial import derive_seed

__all__ = ["Distribution", "Hp", "Params", "Run", "Scenario", "recorded"]

Params = Mapping[str, Value]
Ancestors = tuple[tuple[int, Params], ...]
"""The trainings that another one has continued, the first one first: each one's last epoch, and its values."""

Distribution = Callable[[random.Random], float]
"""A function that draws a number with a generator: `lambda rng: rng.lognormvariate(0, 0.3)`."""

MAX_CURVES = 2**14
"""Recorded curves to keep in memory, at most."""


class _Unanswered(Exception):
    """The end of a factory's call at a parameter without a value."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter


class Hp(QuestionMethods):
    """The `hp` of a scenario's factory. A parameter without a value ends the call, which is repeated with the answer.

    Args:
        values: the answers so far, by name.

    Attributes:
        used: the values that the factory has asked for, by name.

    Example:
        ::

            >>> from search.testing import Hp
            >>> hp = Hp({"layers": 2, "units_1": 16})
            >>> [hp.Int(f"units_{i}", 8, 64) for i in range(1, hp.Int("layers", 1, 3))]
            [16]
            >>> hp.used
            {'layers': 2, 'units_1': 16}
    """

    def __init__(self, values: Params) -> None:
        self.used: dict[str, Value] = {}
        self._values = values
        self._conditions: list[Condition] = []

    @contextmanager
    def when(self, name: str, *values: Value) -> Iterator[None]:
        """Return a context: parameters asked for within are active only if the parameter `name` has one of `values`."""
        self._conditions.append(Condition(name, values))
        yield
        self._conditions.pop()

    def _answer_question(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        if not all(self.used.get(condition.name) in condition.values for condition in self._conditions):
            return None
        if name not in self._values:
            domain = QUESTIONS[kind].declare(*args, **kwargs)
            raise _Unanswered(Parameter(name, domain, domain.at(0.0), tuple(self._conditions)))
        self.used[name] = self._values[name]
        return self.used[name]


class Run(dict[str, Value]):
    """The values of one execution of a trial, by name, with the execution's numbers and seed.

    Args:
        values: the values by name.

    Attributes:
        trial, execution: the numbers of the trial and of its execution.
        seed: the training seed, which follows from (study seed, trial, execution).
        ancestors: the trainings that this one has continued: a parent's, and before it the parent's parent's.

    Example:
        ::

            >>> from search.testing import Run
            >>> run = Run({"units": 48}, trial=3, seed=7)
            >>> run["units"], run.trial, run.random("noise", 1).random() == run.random("noise", 1).random()
            (48, 3, True)
    """

    __slots__ = ("ancestors", "execution", "seed", "trial")

    def __init__(self, values: Params, trial: int = 0, execution: int = 0, seed: int = 0) -> None:
        super().__init__(values)
        self.trial = trial
        self.execution = execution
        self.seed = seed
        self.ancestors: Ancestors = ()

    def values_at(self, epoch: int) -> Params:
        """Return the values that `epoch` (from 1) was trained with: an ancestor's, or this training's own."""
        return next((values for last, values in self.ancestors if epoch <= last), self)

    def random(self, *labels: int | str) -> random.Random:
        """Return a generator seeded by the training seed and `labels`, such as an epoch and the purpose of the draw."""
        return random.Random(derive_seed(self.seed, *labels))


def _never(*_: Any) -> None:
    return None


def _feasible(*_: Any) -> bool:
    return False


def _one(*_: Any) -> float:
    return 1.0


def _zero(*_: Any) -> float:
    return 0.0


def _no_bytes(*_: Any) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """The behaviour of simulated trials, in place of a user's space file and its training.

    The functions get the values as a `Run`, a dict that also has the trial, the execution and the training seed. Epochs
    are counted from 1, and times are virtual seconds.

    Attributes:
        ask: the factory. If it raises an exception, the trial fails.
        value: the objective, by (values, epoch). If trials have parents, `run.values_at` has the values of each epoch.
        infeasible: whether the factory refuses these values.
        fails: the epoch in which a trial with these values raises an exception, 0 for its build; None for never.
        finishes: the epoch after which a user's callback ends the training; None for never.
        dies: the epoch in which the worker's process dies, 0 for the build, by (trial, number of starts); None for
            never.
        seconds: the duration of an epoch.
        pace: a factor for `seconds`, by (values, epoch).
        build: the duration of a build without its questions.
        saving: the time until a checkpoint is on the disk, in which the worker does nothing else.
        latency: the travel time of a worker's n-th message in either direction, by (values, n). If it is 0, a worker
            continues as soon as the driver has its message.
        size: scalars in the model's weights.
        bytes: the size of a checkpoint.
        metric: the objective's name in an epoch's logs.

    Example:
        A space of one rate, whose best value is 0.01, and a fifth of whose trials fail::

            >>> import math
            >>> from search.testing import Scenario
            >>> def ask(hp):
            ...     hp.Float("rate", 1e-4, 1e-1, sampling="log")
            >>> def loss(run, epoch):
            ...     return abs(math.log10(run["rate"]) + 2) + 1 / epoch
            >>> scenario = Scenario(ask, loss).disturbed(failing=0.2, seed=1)
            >>> [parameter.name for parameter in scenario.parameters()]
            ['rate']
    """

    ask: Callable[[Hp], object]
    value: Callable[[Run, int], float]
    infeasible: Callable[[Run], bool] = _feasible
    fails: Callable[[Run], int | None] = _never
    finishes: Callable[[Run], int | None] = _never
    dies: Callable[[int, int], int | None] = _never
    seconds: Callable[[Run], float] = _one
    pace: Callable[[Run, int], float] = _one
    build: Callable[[Run], float] = _zero
    saving: Callable[[Run], float] = _zero
    latency: Callable[[Run, int], float] = _zero
    size: Callable[[Run], int] = len
    bytes: Callable[[Run], int] = _no_bytes
    metric: str = "val_loss"

    def question(self, values: Params) -> Parameter | None:
        """Return the parameter that the factory asks for next, given `values`; None if it has all of them."""
        try:
            self.ask(Hp(values))
        except _Unanswered as unanswered:
            return unanswered.parameter
        return None

    def used(self, values: Params) -> dict[str, Value]:
        """Return those of `values` that the factory asks for."""
        hp = Hp(values)
        self.ask(hp)
        return hp.used

    def parameters(self, values: Params | None = None) -> tuple[Parameter, ...]:
        """Return the parameters that a probe finds: those of a build with `values`, and defaults for the others."""
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
        infeasible: float = 0.0,
        failing: float = 0.0,
        dying: float = 0.0,
        seed: int = 0,
    ) -> Scenario:
        """Return this scenario with random noise, durations and failures.

        A draw depends on `seed`, the training seed (so on study, trial and execution), the epoch and its purpose.

        Args:
            noise: a term added to the objective of each epoch.
            pace: a factor for the seconds of each epoch, which makes stragglers.
            build, latency: replacements of the scenario's own.
            infeasible: the probability that the factory refuses a trial's values.
            failing: the probability that a build or an epoch raises an exception.
            dying: the probability that the process dies in a build or an epoch, drawn anew at each start.
            seed: the seed of the draws.
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
            changes["latency"] = lambda run, number: latency(run.random(seed, "latency", number))
        if infeasible > 0:
            changes["infeasible"] = lambda run: (
                random.Random(derive_seed(seed, "infeasible", run.trial)).random() < infeasible
            )
        if failing > 0:
            changes["fails"] = lambda run: _first(failing, run.random(seed, "fails"))
        if dying > 0:
            changes["dies"] = lambda trial, attempt: _first(
                dying, random.Random(derive_seed(seed, "dies", trial, attempt))
            )
        return replace(self, **changes)


def _first(probability: float, rng: random.Random) -> int:
    """Draw from the geometric distribution: the number of chances before the first event of `probability`."""
    return int(math.log1p(-rng.random()) / math.log1p(-probability)) if probability < 1 else 0


Curves = Mapping[frozenset[tuple[str, Value]], Sequence[float]] | Callable[[Params], Sequence[float]]


def recorded(ask: Callable[[Hp], object], curves: Curves, **others: Any) -> Scenario:
    """Return a scenario of recorded learning curves, or of a surrogate that was fitted to some.

    The search raises ValueError if it comes to a configuration that has no curve, or one that ends before the epoch at
    which a trial continues its parent.

    Args:
        ask: the factory, which asks for the parameters of a configuration.
        curves: the objectives of a configuration, epoch 1 first: by `frozenset(configuration.items())`, or a function
            of the configuration, which is called once for each. The end of a curve ends the training, as a callback
            would.
        others: other arguments of `Scenario`, such as `seconds` and `metric`.

    Example:
        ::

            >>> from search.testing import Run, recorded
            >>> curves = {frozenset({("units", 8)}): [0.7, 0.6], frozenset({("units", 16)}): [0.5, 0.4]}
            >>> scenario = recorded(lambda hp: hp.Choice("units", [8, 16]), curves)
            >>> scenario.value(Run({"units": 16}), 2)
            0.4
    """

    @functools.lru_cache(MAX_CURVES)
    def curve_of(items: frozenset[tuple[str, Value]]) -> Sequence[float]:
        curve = curves(dict(items)) if callable(curves) else curves.get(items, ())
        if len(curve) == 0:
            raise ValueError(f"no curve was recorded for {dict(items)}: let `ask` ask for the recorded parameters")
        return curve

    def value(run: Run, epoch: int) -> float:
        curve = curve_of(frozenset(run.items()))
        if epoch > len(curve):
            raise ValueError(
                f"the curve of {dict(run)} ends before epoch {epoch}, at which a trial continues its parent"
            )
        return float(curve[epoch - 1])

    def finishes(run: Run) -> int:
        return len(curve_of(frozenset(run.items())))

    return Scenario(ask, value, **{"finishes": finishes, **others})
