"""The hyperparameters that change shapes, as builds show them. `test_keras_backends.py` has real builds on JAX."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from search.errors import Infeasible
from search.space.domain import Value
from search.worker.hp import LazyHyperParameters
from search.worker.shapes import MAX_BUILDS, MAX_SECONDS, Built, find_shape_parameters

Factory = Callable[[Any], Any]


def found(factory: Factory, clock: Callable[[], float] = lambda: 0.0) -> list[str]:
    """Return the names of the hyperparameters by which the shapes change that `factory` returns."""

    def build(values: Mapping[str, Value]) -> Built | None:
        hp = LazyHyperParameters(values=values)
        try:
            shapes = str(factory(hp))
        except Infeasible:
            return None
        return Built(hp.parameters, hp.used_values, shapes)

    return [parameter.name for parameter in find_shape_parameters(build, {}, clock)]


def widths(hp: Any) -> Any:
    rates = [hp.Float("rate", 1e-4, 1e-1, sampling="log"), hp.Float("dropout", 0.0, 0.5)]
    noise = (2,) if rates[1] else None  # a dropout of rate 0 has no random state
    return [hp.Int(f"units_{i}", 16, 256, sampling="log") for i in range(hp.Int("layers", 1, 3))], noise


def test_hyperparameters_are_found_by_shapes_and_not_by_names() -> None:
    assert sorted(found(widths)) == ["units_0", "units_1", "units_2"]
    assert found(lambda hp: (hp.Int("units", 16, 256) // 32, hp.Int("seed", 0, 1000) * 0)) == []  # 9 shapes, and one
    assert found(lambda hp: int(hp.Float("width", 16, 256))) == ["width"]
    assert found(lambda hp: round(hp.Float("width", 1, 4))) == []
    assert found(lambda hp: hp.Choice("width", list(range(8, 20)))) == ["width"]


def test_few_values_are_not_worth_a_word() -> None:
    assert found(lambda hp: (hp.Int("units", 16, 128, step=16), hp.Choice("k", [1, 2]), hp.Boolean("b"))) == []


def test_hyperparameters_of_some_branches_only_are_found() -> None:
    def factory(hp: Any) -> Any:
        if hp.Choice("kind", ["linear", "deep"]) == "linear":
            return ()
        if hp.Boolean("wide"):
            return hp.Int("wide_units", 100, 1000)
        with hp.conditional_scope("kind", ["deep"]):
            return hp.Int("units", 8, 64)

    assert sorted(found(factory)) == ["units", "wide_units"]


def test_values_that_are_rejected_say_nothing() -> None:
    def factory(hp: Any) -> Any:
        units, depth = hp.Int("units", 16, 256), hp.Int("depth", 1, 100)
        if 100 < units < 200:
            raise Infeasible
        return units, depth

    assert found(factory) == ["depth"]


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_builds_are_limited_in_number_and_in_time(seconds: float) -> None:
    builds = []

    def endless(hp: Any) -> Any:
        builds.append(1)
        return [hp.Int(f"units_{i}", 16, 256) for i in range(40)]

    times = itertools.count(0.0, seconds)
    names = found(endless, lambda: next(times))
    assert names == [f"units_{i}" for i in range(len(names))]
    assert len(builds) == (MAX_BUILDS if not seconds else 1 + MAX_SECONDS / seconds)
    assert 3 * len(names) + 1 <= len(builds)
