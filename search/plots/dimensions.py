"""Hyperparameters as axes: numbers in linear or log scale, everything else as categories with labelled ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.plots.figures import short_number
from search.plots.text import label, value_label
from search.space.domain import Domain, Value
from search.study.trials import Trial

__all__ = ["Dimension", "dimension", "log_ticks", "varied_names"]

MAX_CATEGORIES = 12
"""The most categories whose ticks are labelled."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """An axis of one hyperparameter.

    Attributes:
        name: the hyperparameter's name, as the user wrote it.
        kind: `linear`, `log`, `whole` (linear, whole numbers) or `category`.
        categories: the values of a `category`, in order; a value's coordinate is its place.
        low, high: the range of the trials' coordinates; in log, of their base-10 logarithms.
    """

    name: str
    kind: str
    categories: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def label(self) -> str:
        """The name as a label."""
        return label(self.name)

    def coordinates(self, values: Iterable[Value]) -> list[float]:
        """Return the places of `values`: themselves, their base-10 logarithms, or their categories' numbers."""
        if self.kind == "category":
            places = {_identity(value): float(place) for place, value in enumerate(self.categories)}
            return [places[_identity(value)] for value in values]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        return [math.log10(value) for value in numbers] if self.kind == "log" else numbers

    def enclosing(self) -> Dimension:
        """Return the axis with its range widened to round values, for parallel coordinates, which end at a tick."""
        if self.kind != "log":
            return self
        low, high = _round_log(self.low, down=True), _round_log(self.high, down=False)
        return replace(self, low=low, high=high)

    def ticks(self, write: Callable[[Value], str] = value_label) -> dict[str, Any]:
        """Return Plotly's settings of the ticks, in real values; {} if its own are right.

        Args:
            write: returns the label of a category.
        """
        if self.kind == "log":
            values = log_ticks(self.low, self.high)
            places, texts = [math.log10(value) for value in values], [short_number(value) for value in values]
        elif self.kind == "category":
            shown = range(0, len(self.categories), math.ceil(len(self.categories) / MAX_CATEGORIES))
            places, texts = (
                [float(place) for place in shown],
                [value_label(self.categories[place], 16) for place in shown],
            )
        elif self.kind == "whole" and self.high - self.low <= MAX_CATEGORIES:
            whole = range(int(self.low), int(self.high) + 1)
            places, texts = [float(value) for value in whole], [str(value) for value in whole]
        else:
            return {}
        return {"tickvals": places, "ticktext": texts}


def _identity(value: Value) -> tuple[str, Value]:
    return type(value).__name__, value  # True is not 1


def varied_names(trials: Iterable[Trial]) -> list[str]:
    """Return the hyperparameters that have two values or more among `trials`, in the order of their appearance."""
    first: dict[str, tuple[str, Value]] = {}
    found: dict[str, bool] = {}
    for trial in trials:
        for name, value in trial.params.items():
            identity = _identity(value)
            found[name] = found.get(name, False) or first.setdefault(name, identity) != identity
    return [name for name, varied in found.items() if varied]


def dimension(name: str, trials: Iterable[Trial]) -> Dimension:
    """Return the axis of the hyperparameter `name` for `trials`. Those that do not use it are left out."""
    values: list[Value] = []
    domains: dict[Domain, None] = {}
    for trial in trials:
        if name in trial.params:
            values.append(trial.params[name])
            domains.update({each.domain: None for each in trial.parameters if each.name == name})
    ranges = [domain for domain in domains if domain.is_range]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if not ranges or len(numbers) < len(values):
        return Dimension(name, "category", _categories(values, domains), 0.0, 0.0)
    low, high = min(numbers), max(numbers)
    if low > 0 and all(domain.sampling == "log" for domain in ranges):
        return Dimension(name, "log", (), math.log10(low), math.log10(high))
    return Dimension(name, "whole" if all(type(value) is int for value in values) else "linear", (), low, high)


def _categories(values: Sequence[Value], domains: Iterable[Domain]) -> tuple[Value, ...]:
    """Return the different `values`: numbers by size, others in the order of the domains."""
    used = {_identity(value): value for value in values}
    found = list(used.values())
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found):
        return tuple(sorted(found, key=lambda value: float(value or 0)))
    listed = [_identity(value) for domain in domains for value in domain.values]
    order = {identity: place for place, identity in enumerate(dict.fromkeys(listed))}
    return tuple(sorted(found, key=lambda value: order.get(_identity(value), len(listed))))


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values from 10**low to 10**high: powers of ten, or also 3, or 2 and 5 times them."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [float(f"{factor}e{power}") for power in powers for factor in factors]
        found = [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / MOST_TICKS)]
    return found if len(found) >= 2 else [10.0**low, 10.0**high] if high > low else [10.0**low]


MOST_TICKS = 7
"""The most ticks of a log axis."""


def _round_log(value: float, *, down: bool) -> float:
    """Return the base-10 logarithm of the next 1, 2 or 5 times a power of ten below or above 10**value."""
    power = math.floor(value)
    steps = [math.log10(factor) + power for factor in (1, 2, 5, 10)]
    near = [step for step in steps if (step <= value + 1e-9 if down else step >= value - 1e-9)]
    return max(near) if down else min(near)
