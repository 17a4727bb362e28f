"""The sampler `grid`: every combination of the values of a space, also of one that shows itself while it is searched.

A grid has no list of combinations. `search.scheduler.deduplication` knows the values below which all was tried, so the
first value that is not among them leads to the next combination. A range without a step has `POINTS` values here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from search.space.domain import Domain, Parameter, Value

NAME = "grid"
"""The name of the sampler."""

POINTS = 11
"""The values of a range without a step, evenly on its scale, both ends included."""


def is_grid(options: Mapping[str, Any]) -> bool:
    """Return whether the options of a back end name this sampler."""
    return str(options.get("sampler")).partition(":")[0] == NAME


def listed_domain(parameter: Parameter) -> Domain:
    """Return the values of `parameter` that a grid tries, a finite domain.

    A range of more than `POINTS` values without a step has so many, and the parameter's default.
    """
    domain = parameter.domain
    size = domain.size
    if not domain.is_range or domain.step is not None or (size is not None and size <= POINTS):
        return domain
    values = [domain.convert_default(domain.at(index / (POINTS - 1))) for index in range(POINTS)]
    own = [parameter.default] if domain.contains(parameter.default) else []
    return Domain("choice", values=tuple(dict.fromkeys([*values, *own])))


def next_value(parameter: Parameter, explored: Collection[Value]) -> Value:
    """Return the first value of `parameter` in a grid that is not in `explored`: the default, then all in order."""
    return next(value for value in _in_order(parameter) if value not in explored)


def _in_order(parameter: Parameter) -> Iterator[Value]:
    domain = listed_domain(parameter)
    if domain.contains(parameter.default):
        yield parameter.default
    assert domain.size is not None, "a grid's domain is finite"
    yield from map(domain.value, range(domain.size))
