"""Coordinates: configurations as rows of numbers in [0, 1], and as points between which the process has distances.

Each parameter that trials were asked for has a *unit coordinate*, the cumulative probability of its value
(`Domain.unit`): logarithmic if the range is, at the middle of its bin if there are finitely many values. It is NaN if
the configuration lacks the parameter. A table of configurations has shape (rows, parameters).

The process sees *encoded* points. A range, an ordered choice and a choice of two have one column each. Any other choice
has a column for each value, so that all its values are equally far apart. A parameter that two configurations lack adds
no distance between them; one that lacks it lies in the middle of the values of one that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.space.domain import Domain, Parameter, Value, compatible

__all__ = ["Coordinates"]

Array = NDArray[np.float64]

CHOICE_DISTANCE = 0.7
"""The distance between two values of an unordered choice, before it is divided by its length scale."""

LARGEST_TABLE = 4096
"""The most values of a domain whose unit coordinates are listed. A larger one counts as a continuum."""

DECIMALS = 9
"""The decimals of a unit coordinate: so rows of the same values are equal."""

_ALMOST_ONE = 1 - 2**-40


class Coordinates:
    """The parameters seen so far, in the order in which they were first asked for.

    Args:
        parameters: those that the probe saw.

    Attributes:
        parameters: by key, with the widest range that each was asked for with.
        version: rises whenever a table's columns or the encoding change.
    """

    def __init__(self, parameters: Sequence[Parameter] = ()) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.version = 0
        self._middles: list[Array | None] = []
        self._edges: list[Array | None] = []
        for parameter in parameters:
            self.note(parameter)

    @property
    def names(self) -> list[str]:
        """The parameters' keys, in order."""
        return list(self.parameters)

    def note(self, parameter: Parameter) -> None:
        """Take in a parameter that a factory asked for. One with a single value has no coordinate."""
        known = self.parameters.get(parameter.key)
        if parameter.domain.size == 1 and known is None:
            return
        if known is None:
            self.parameters[parameter.key] = parameter
        else:
            widest = _union(known.domain, parameter.domain)
            if widest == known.domain:
                return
            self.parameters[parameter.key] = Parameter(known.name, widest, known.default, known.conditions)
        self.version += 1
        tables = [_bins(parameter.domain) for parameter in self.parameters.values()]
        self._middles = [middles for middles, _ in tables]
        self._edges = [edges for _, edges in tables]

    # Rows -----------------------------------------------------------------------------------------------------------

    def row(self, values: Mapping[str, Value]) -> Array:
        """Return the unit coordinates, shape (parameters,), of values by key; NaN for a parameter without one."""
        found = np.full(len(self.parameters), np.nan)
        for place, (key, parameter) in enumerate(self.parameters.items()):
            if key in values and parameter.domain.contains(values[key]):
                found[place] = parameter.domain.unit(values[key])
        return found.round(DECIMALS)

    def values(self, row: Array) -> dict[str, Value]:
        """Return the values by key of a row, without those that are NaN."""
        return {
            key: parameter.domain.at(min(float(u), _ALMOST_ONE))
            for (key, parameter), u in zip(self.parameters.items(), row, strict=True)
            if not np.isnan(u)
        }

    def snap(self, table: Array) -> Array:
        """Return `table` in [0, 1], with each coordinate of a finite domain in the middle of its bin."""
        found = np.clip(table, 0.0, 1.0)
        for column, (middles, edges) in enumerate(zip(self._middles, self._edges, strict=True)):
            if middles is not None and edges is not None:
                present = ~np.isnan(found[:, column])
                found[present, column] = middles[np.searchsorted(edges, found[present, column], side="right")]
        return found.round(DECIMALS)

    @property
    def ordered(self) -> NDArray[np.bool_]:
        """True for each parameter whose neighbouring values are alike: ranges and ordered choices."""
        domains = [parameter.domain for parameter in self.parameters.values()]
        return np.array([domain.is_range or domain.ordered for domain in domains], dtype=bool)

    # Encoding -------------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> NDArray[np.int64]:
        """The parameter's number for each encoded column: the columns of a parameter share a length scale."""
        widths = [_width(parameter.domain) for parameter in self.parameters.values()]
        return np.repeat(np.arange(len(widths)), widths)

    def encode(self, table: Array) -> Array:
        """Return the encoded points, shape (rows, columns), of a table of snapped coordinates."""
        columns: list[Any] = []
        for place, parameter in enumerate(self.parameters.values()):
            u = table[:, place]
            width = _width(parameter.domain)
            if width == 1:
                columns.append(np.where(np.isnan(u), 0.5, u)[:, None])
                continue
            index = np.where(np.isnan(u), -1.0, np.floor(np.minimum(u, _ALMOST_ONE) * width))
            columns.append((index[:, None] == np.arange(width)) * (CHOICE_DISTANCE / np.sqrt(2.0)))
        return np.hstack(columns) if columns else np.zeros((len(table), 0))


def _width(domain: Domain) -> int:
    """Return the number of columns that encode a parameter."""
    if domain.is_range or domain.ordered or len(domain.values) <= 2:
        return 1
    return len(domain.values)


def _union(a: Domain, b: Domain) -> Domain:
    """Return the domain of both. Only ranges may differ: see `search.space.domain.compatible`."""
    if a == b or b.size == 1 or not (a.is_range and b.is_range and compatible(a, b)):
        return a
    if a.low <= b.low and b.high <= a.high:
        return a
    step = a.step if a.step == b.step else None
    return Domain(a.kind, min(a.low, b.low), max(a.high, b.high), step, a.sampling)


def _bins(domain: Domain) -> tuple[Array | None, Array | None]:
    """Return the unit coordinates of a finite domain's values, ascending, and the borders between their bins."""
    size = domain.size
    if size is None or size > LARGEST_TABLE:
        return None, None
    middles = np.array(sorted(domain.unit(domain.value(index)) for index in range(size)))
    return middles, (middles[1:] + middles[:-1]) / 2
