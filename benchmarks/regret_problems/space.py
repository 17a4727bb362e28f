"""Configurations of a space: asked for, drawn at random, and found in a pool."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from regret_problems.problem import Config, Problem
from search.space.domain import Domain, Parameter, Value


def is_active(parameter: Parameter, values: Config) -> bool:
    """Return whether `parameter` is asked for with these values of earlier parameters."""
    return all(
        condition.name in values and values[condition.name] in condition.values for condition in parameter.conditions
    )


def ask_for(parameters: Sequence[Parameter], hp: Any) -> dict[str, Value]:
    """Ask `hp` for a configuration as a define-by-run factory does, and return it."""
    values: dict[str, Value] = {}
    for parameter in parameters:
        if is_active(parameter, values):
            values[parameter.name] = ask_one(parameter, hp)
    return values


def ask_one(parameter: Parameter, hp: Any) -> Value:
    """Ask `hp` for one parameter by the method of its kind, as KerasTuner has it."""
    name, domain = parameter.name, parameter.domain
    match domain.kind:
        case "int":
            return hp.Int(name, domain.low, domain.high, **_steps(domain), sampling=domain.sampling)
        case "float":
            return hp.Float(name, domain.low, domain.high, **_steps(domain), sampling=domain.sampling)
        case "choice":
            return hp.Choice(name, list(domain.values), ordered=domain.ordered)
        case "boolean":
            return hp.Boolean(name)
    return hp.Fixed(name, domain.values[0])


def _steps(domain: Domain) -> dict[str, Any]:
    return {} if domain.step is None else {"step": domain.step}


def only_active(parameters: Sequence[Parameter], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values of those parameters that are active, in the order of `parameters`."""
    found: dict[str, Value] = {}
    for parameter in parameters:
        if is_active(parameter, found):
            found[parameter.name] = values[parameter.name]
    return found


def draw_config(parameters: Sequence[Parameter], rng: random.Random) -> dict[str, Value]:
    """Return a random configuration, uniform on the scales of the domains."""
    values: dict[str, Value] = {}
    for parameter in parameters:
        if is_active(parameter, values):
            values[parameter.name] = parameter.domain.at(rng.random())
    return values


def key_of(config: Config) -> frozenset[tuple[str, Value]]:
    """Return a key that is equal for equal configurations."""
    return frozenset(config.items())


# Choosing -------------------------------------------------------------------------------------------------------------


class Choices:
    """The configurations that one search may still try: all of the space, or the trials of a pool, each of them once.

    Args:
        problem: the space, and its pool if it has one.
    """

    def __init__(self, problem: Problem) -> None:
        self._parameters = problem.parameters
        self._configs = problem.configs
        if problem.configs is not None:
            self._points = np.array([self._point(config) for config in problem.configs])
            self._free = np.ones(len(problem.configs), bool)

    @property
    def left(self) -> bool:
        """True if there is a configuration left."""
        return self._configs is None or bool(self._free.any())

    def draw(self, rng: random.Random) -> Config:
        """Return a random configuration of those left, and take it."""
        if self._configs is None:
            return draw_config(self._parameters, rng)
        return self._take(rng.choice(np.flatnonzero(self._free).tolist()))

    def nearest(self, config: Config) -> Config:
        """Return the configuration left that is nearest to `config`, and take it.

        The distance is that of the unit cube of the domains. Two values of an unordered choice are 1 apart, and so are
        a value and no value.
        """
        if self._configs is None:
            return config
        squares = _squared_differences(self._points, self._point(config), self._unordered).sum(1)
        return self._take(int(np.argmin(np.where(self._free, squares, np.inf))))

    def _take(self, index: int) -> Config:
        assert self._configs is not None
        self._free[index] = False
        return self._configs[index]

    @functools.cached_property
    def _unordered(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        domains = [parameter.domain for parameter in self._parameters]
        return np.array([not domain.is_range and not domain.ordered for domain in domains])

    def _point(self, config: Config) -> list[float]:
        """Return the coordinates of `config` in the unit cube, NaN for inactive parameters."""
        return [
            parameter.domain.unit(config[parameter.name]) if parameter.name in config else np.nan
            for parameter in self._parameters
        ]


def _squared_differences(points: Any, point: Any, unordered: Any) -> Any:
    """Return (points, parameters): the squared difference of each coordinate of `points` and `point`."""
    differences = points - np.asarray(point)
    squares = np.where(unordered, differences != 0, differences**2)
    missing, lacks = np.isnan(points), np.isnan(np.asarray(point))
    return np.where(missing & lacks, 0.0, np.where(missing | lacks, 1.0, squares))


def walk_active(parameters: Sequence[Parameter], values: dict[str, Value]) -> Iterator[Parameter]:
    """Yield the parameters that are asked for, while the caller adds the value of each to `values`."""
    for parameter in parameters:
        if is_active(parameter, values):
            yield parameter
