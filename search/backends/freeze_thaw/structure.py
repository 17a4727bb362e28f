"""Structure of a space: the parameters that a configuration has, learned from the trials that were asked.

A model factory asks for one parameter after another, and may ask for some only after certain answers: in a conditional
scope, which the parameter's conditions name, or in an `if` of the user's, which nobody sees. So each parameter that
some trials lack gets a decision tree over the answers before it (Breiman et al. 1984, "Classification and Regression
Trees", with Gini's impurity), which says if a configuration has it. A tree is grown again when a trial contradicts it.

A wrong guess costs little: the back end draws a parameter that was not foreseen, and ignores one that was not asked
for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.backends.freeze_thaw.coordinates import Coordinates

__all__ = ["Structure"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_ROWS = 500
"""The most trials from which a tree is grown."""


@dataclass(frozen=True, slots=True)
class _Split:
    """A test of one coordinate. `threshold` None: the parameter is asked for; else: its coordinate is at most that."""

    column: int
    threshold: float | None
    low: _Split | bool
    high: _Split | bool

    def decide(self, table: Array) -> Mask:
        low = _test(table, self.column, self.threshold)
        return np.where(low, _decide(self.low, table), _decide(self.high, table))


def _test(table: Array, column: int, threshold: float | None) -> Mask:
    u = table[:, column]
    return ~np.isnan(u) if threshold is None else np.nan_to_num(u, nan=2.0) <= threshold


def _decide(node: _Split | bool, table: Array) -> Mask:
    return np.full(len(table), node) if isinstance(node, bool) else node.decide(table)


class Structure:
    """The rules by which configurations have parameters.

    Args:
        coordinates: of the parameters seen so far; not changed here.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self._coordinates = coordinates
        self._trees: dict[str, _Split | bool] = {}

    def restrict(self, table: Array) -> Array:
        """Return `table` with NaN for each parameter that a configuration with the other values lacks.

        Args:
            table: shape (rows, parameters), without NaN.
        """
        table = table.copy()
        for place, key in enumerate(self._coordinates.names):
            table[~self._has(key, table), place] = np.nan
        return table

    def learn(self, rows: Callable[[], Sequence[Array]], row: Array) -> None:
        """Take in a trial whose model is built.

        Args:
            rows: returns the coordinates of trials that are built, NaN for parameters that they were not asked for.
            row: those of the new one, which is one of `rows`, too.
        """
        for place, key in enumerate(self._coordinates.names):
            asked = not np.isnan(row[place])
            if bool(self._has(key, row[None])[0]) != asked:
                table = np.array(rows())
                self._trees[key] = _grow(table, ~np.isnan(table[:, place]), place)

    def _has(self, key: str, table: Array) -> Mask:
        tree = self._trees.get(key)
        return self._meets_conditions(key, table) if tree is None else _decide(tree, table)

    def _meets_conditions(self, key: str, table: Array) -> Mask:
        found = np.ones(len(table), bool)
        for condition in self._coordinates.parameters[key].conditions:
            met = np.zeros(len(table), bool)
            fixed = True
            for place, parameter in enumerate(self._coordinates.parameters.values()):
                if parameter.name == condition.name:
                    fixed = False
                    units = [parameter.domain.unit(v) for v in condition.values if parameter.domain.contains(v)]
                    met |= np.isin(np.round(table[:, place], 12), np.round(units, 12))
            found &= met | fixed
        return found


def _grow(table: Array, asked: Mask, columns: int) -> _Split | bool:
    """Return a tree that separates the `asked` rows from the others by the first `columns` columns."""
    if asked.all() or not asked.any():
        return bool(asked[0])
    best: tuple[float, int, float | None] | None = None
    for column in range(columns):
        for threshold in _thresholds(table[:, column], asked):
            low = _test(table, column, threshold)
            impurity = _impurity(asked[low]) + _impurity(asked[~low])
            if low.any() and not low.all() and (best is None or impurity < best[0] - 1e-9):
                best = impurity, column, threshold
    if best is None or best[0] >= _impurity(asked) - 1e-9:
        return bool(asked.mean() >= 0.5)
    _, column, threshold = best
    low = _test(table, column, threshold)
    branches = [_grow(table[rows], asked[rows], columns) for rows in (low, ~low)]
    return _Split(column, threshold, *branches)


def _thresholds(u: Array, asked: Mask) -> list[float | None]:
    """Return the tests of a column to try: its presence, and the middles between neighbours of different classes."""
    present = ~np.isnan(u)
    order = np.argsort(u[present], kind="stable")
    values, classes = u[present][order], asked[present][order]
    steps = np.flatnonzero(values[1:] > values[:-1])
    # Equal values may have both classes: then each border of theirs is a candidate.
    changes = [i for i in steps if classes[i] != classes[i + 1] or _mixed(values, classes, i)]
    found: list[float | None] = [(values[i] + values[i + 1]) / 2 for i in changes]
    return found if present.all() else [None, *found]


def _mixed(values: Array, classes: Mask, i: np.intp) -> bool:
    """Return whether the rows with the value at `i`, or those with the next one, are of both classes."""
    left, right = classes[values == values[i]], classes[values == values[i + 1]]
    return bool(left.min() != left.max() or right.min() != right.max())


def _impurity(asked: Mask) -> float:
    """Return Gini's impurity, times the number of rows."""
    share = asked.mean() if len(asked) else 0.0
    return float(2 * share * (1 - share) * len(asked))
