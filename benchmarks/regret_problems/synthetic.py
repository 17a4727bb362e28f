"""Synthetic curves: spaces whose optimum is known, with curves that mislead in one way each.

- `crossing`: the better a configuration is, the slower it learns, so that ranks at early epochs are wrong.
- `late`: a curve stays low until its configuration's own epoch, and then rises; the best rise late.
- `flat`: the first epoch says nearly all.
"""

from __future__ import annotations

import functools
import math
import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from regret_problems.problem import Config, Curve, Problem, digest
from regret_problems.space import draw_config
from search.space.domain import Condition, Domain, Parameter, Value
from search.study.trial import Objective, derive_seed

MAX_EPOCHS = 27
NOISE = 0.005
"""Standard deviation of the noise of an observed value; values lie between 0 and 1."""

SCALE_CONFIGS = 10_000
SYNTHETIC = tuple(f"{family}-{size}d" for family in ("crossing", "late", "flat") for size in (2, 8))
"""The default problems."""


def crossing(quality: float, epoch: int) -> float:
    """Return the value of a curve that reaches `quality` the later, the better it is."""
    return quality * (1 - math.exp(-epoch / (1 + 14 * quality**3)))


def late(quality: float, epoch: int, start: float) -> float:
    """Return the value of a curve that rises to `quality` around the epoch `start`."""
    return 0.05 + 0.95 * quality / (1 + math.exp(-(epoch - start) / 1.5))


def flat(quality: float, epoch: int) -> float:
    """Return the value of a curve that hardly rises."""
    return quality * (0.97 + 0.03 * epoch / MAX_EPOCHS)


@functools.cache
def _optimum(parameter: Parameter, *labels: str) -> float:
    """Return a coordinate at which a value of the domain lies, drawn with the name and `labels`."""
    raw = random.Random(derive_seed("optimum", parameter.name, *labels)).uniform(0.15, 0.85)
    return parameter.domain.unit(parameter.domain.at(raw))


class SyntheticProblem(Problem):
    """A space with a function for its curves. Subclasses define `true_value`, and `best`, its greatest final value."""

    max_epochs = MAX_EPOCHS
    trainings = (2, 4, 8, 16)
    data = digest(Path(__file__))
    best: float

    @abstractmethod
    def true_value(self, config: Config, epoch: int) -> float:
        """Return the value without noise."""

    def curve(self, config: Config, seed: int) -> Curve:
        true = [self.true_value(config, epoch) for epoch in range(1, MAX_EPOCHS + 1)]
        rng = np.random.default_rng(derive_seed("noise", self.name, seed, repr(sorted(config.items()))))
        return Curve((np.array(true) + NOISE * rng.standard_normal(MAX_EPOCHS)).tolist(), true)

    def find_scale(self) -> tuple[float, float]:
        """Return the best final value that there is, and the median of random configurations."""
        rng = random.Random(12345)
        configs = (draw_config(self.parameters, rng) for _ in range(SCALE_CONFIGS))
        return self.best, float(np.median([self.true_value(config, MAX_EPOCHS) for config in configs]))


class Synthetic(SyntheticProblem):
    """Numbers only: half of them on a logarithmic scale, each less important than the one before.

    Args:
        name: `crossing`, `late` or `flat`, and the number of parameters: `crossing-8d`.
    """

    objective = Objective("val_accuracy", "max")

    def __init__(self, name: str) -> None:
        self.name = name
        self._family, _, size = name.removesuffix("d").partition("-")
        domains = Domain("float", 1e-4, 1e-1, None, "log"), Domain("float", 0.0, 1.0)
        self.parameters = [
            Parameter(f"x{index}", domains[index % 2], domains[index % 2].low) for index in range(int(size))
        ]
        self._optima = [_optimum(parameter, self._family) for parameter in self.parameters]
        self.best = self._value(self._optima, MAX_EPOCHS)

    def true_value(self, config: Config, epoch: int) -> float:
        return self._value([each.domain.unit(config[each.name]) for each in self.parameters], epoch)

    def _value(self, point: Sequence[float], epoch: int) -> float:
        pairs = zip(point, self._optima, strict=True)
        loss = sum((at - optimum) ** 2 / (index + 1) for index, (at, optimum) in enumerate(pairs))
        quality = math.exp(-3 * loss)
        if self._family == "late":
            # The first parameter decides how early a curve rises, and its optimum is on the late side.
            start = 2 + 14 * (1 - abs(point[0] - self._optima[0]))
            return late(quality, epoch, start)
        curve: Callable[[float, int], float] = crossing if self._family == "crossing" else flat
        return curve(quality, epoch)


SHARES = {"sgd": 1.0, "adam": 0.95, "constant": 0.9, "cosine": 1.0, "step": 0.97, "dense": 0.9, "conv": 1.0}
"""The share of the quality that is left, by the choices of the conditional space."""


class Conditional(SyntheticProblem):
    """Nested choices: an optimizer, a schedule and a network, each with parameters of its own, and crossing curves.

    The objective is a loss. The rate's optimum depends on the optimizer.
    """

    name = "nested"
    objective = Objective("val_loss", "min")

    def __init__(self) -> None:
        def when(name: str, *values: Value) -> tuple[Condition, ...]:
            return (Condition(name, values),)

        described: list[tuple[str, Domain, tuple[Condition, ...]]] = [
            ("optimizer", Domain("choice", values=("sgd", "adam")), ()),
            ("rate", Domain("float", 1e-4, 1.0, None, "log"), ()),
            ("momentum", Domain("float", 0.0, 0.99), when("optimizer", "sgd")),
            ("nesterov", Domain("boolean", values=(True, False)), when("optimizer", "sgd")),
            ("epsilon", Domain("float", 1e-8, 1e-1, None, "log"), when("optimizer", "adam")),
            ("schedule", Domain("choice", values=("constant", "cosine", "step")), ()),
            ("warm_up", Domain("int", 0, 5), when("schedule", "cosine")),
            ("drop", Domain("float", 0.05, 0.9), when("schedule", "step")),
            ("every", Domain("int", 1, 9), when("schedule", "step")),
            ("network", Domain("choice", values=("dense", "conv")), ()),
            ("filters", Domain("int", 4, 128, None, "log"), when("network", "conv")),
            ("kernel", Domain("choice", values=(3, 5, 7), ordered=True), when("network", "conv")),
            ("layers", Domain("int", 1, 3), when("network", "dense")),
            *(
                (f"units_{index}", Domain("int", 8, 512, None, "log"), when("layers", *range(index + 1, 4)))
                for index in range(3)
            ),
        ]
        self.parameters = [Parameter(name, domain, domain.at(0.0), active) for name, domain, active in described]
        self.best = 1 - crossing(1.0, MAX_EPOCHS)

    def true_value(self, config: Config, epoch: int) -> float:
        loss, quality = 0.0, 1.0
        for parameter in self.parameters:
            if parameter.name not in config:
                continue
            value = config[parameter.name]
            if isinstance(value, str):
                quality *= SHARES[value]
            else:
                label = str(config["optimizer"]) if parameter.name == "rate" else ""
                loss += (parameter.domain.unit(value) - _optimum(parameter, label)) ** 2
        return 1 - crossing(quality * math.exp(-2 * loss), epoch)
