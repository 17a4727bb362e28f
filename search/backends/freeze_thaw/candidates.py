"""Candidates: whole configurations that a new trial might have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from search.backends.freeze_thaw.coordinates import Coordinates
from search.backends.freeze_thaw.memory import Memory
from search.space.domain import Value
from search.study.trial import derive_seed

__all__ = ["Candidates", "Pool", "Space"]

Array = NDArray[np.float64]
Score = Callable[[Array], Array]
"""Returns the scores, shape (rows,), of a table of configurations."""

UNIFORM, NEAR_BEST = 300, 300
"""The candidates all over the space, and around the best trials."""

BEST = 5
"""The best trials, around which candidates are drawn."""

STEPS = (0.02, 0.05, 0.1, 0.2)
"""The standard deviations of the changes that lead to candidates around a trial. Each candidate has one of them."""

REFINEMENTS = (0.1, 0.05, 0.025)
"""The standard deviations of the changes in each round of refinement."""

PARENTS, CHILDREN = 10, 100
"""The best candidates that a round of refinement begins with, and the ones that it makes of them."""

CHANGED = 0.5
"""The probability that a coordinate is changed."""


class Candidates(Protocol):
    """A source of configurations, as rows of unit coordinates that no trial has yet."""

    def first(self, number: int) -> Array | None:
        """Return the configuration of trial `number` of the first ones; None if there is none left."""

    def random(self, rng: np.random.Generator) -> Array | None:
        """Return a configuration drawn at random; None if there is none left."""

    def best(self, score: Score, rng: np.random.Generator) -> tuple[float, Array] | None:
        """Return the highest score that was found, and its configuration; None if there is none left."""

    def values(self, row: Array) -> Mapping[str, Value]:
        """Return the values by parameter key of a configuration that was returned."""


class Space:
    """The configurations of the whole space, as far as it is known.

    Args:
        memory: the trials; not changed here.
        seed: for the first configurations.
    """

    def __init__(self, memory: Memory, seed: int) -> None:
        self._memory = memory
        self._seed = seed

    @property
    def _coordinates(self) -> Coordinates:
        return self._memory.coordinates

    def first(self, number: int) -> Array | None:
        """Return point `number` of a scrambled Sobol sequence (Owen 1998)."""
        dimensions = len(self._coordinates.parameters)
        if not dimensions:
            return np.zeros(0)
        sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(derive_seed(self._seed, "first")))
        points = sobol.random_base2(max(number, 1).bit_length())
        row: Array = self._snapped(points[number : number + 1])[0]
        return row

    def random(self, rng: np.random.Generator) -> Array | None:
        """Return a configuration drawn from the prior. It may have been tried: the questions see to it that none is."""
        row: Array = self._snapped(rng.random((1, len(self._coordinates.parameters))))[0]
        return row

    def best(self, score: Score, rng: np.random.Generator) -> tuple[float, Array] | None:
        """Return the best of candidates all over the space and around the best trials, after rounds of refinement."""
        tried = self._memory.tried()

        def untried(table: Array) -> Array:
            return np.where([row.tobytes() in tried for row in table], -np.inf, score(table))

        uniform = rng.random((UNIFORM, len(self._coordinates.parameters)))
        trials = self._memory.table(self._memory.best_places(BEST))
        near = self._changed(trials[rng.integers(0, len(trials), NEAR_BEST)], rng.choice(STEPS, (NEAR_BEST, 1)), rng)
        table = self._snapped(np.vstack([uniform, near]))
        scores = untried(table)
        for sd in REFINEMENTS:
            parents = table[np.argsort(-scores, kind="stable")[:PARENTS]]
            children = self._snapped(self._changed(parents[rng.integers(0, len(parents), CHILDREN)], sd, rng))
            table, scores = np.vstack([table, children]), np.concatenate([scores, untried(children)])
        place = int(np.argmax(scores))
        return (float(scores[place]), table[place]) if np.isfinite(scores[place]) else None

    def values(self, row: Array) -> Mapping[str, Value]:
        """Return the values of a row."""
        return self._coordinates.values(row)

    def _snapped(self, table: Array) -> Array:
        return self._memory.structure.restrict(self._coordinates.snap(table))

    def _changed(self, table: Array, sd: float | Array, rng: np.random.Generator) -> Array:
        """Return `table` with each coordinate changed with probability `CHANGED`.

        A range changes by `sd`. A choice without order changes to any of its values, with a probability of 2·`sd`. A
        parameter that a configuration lacks is drawn: after other changes the configuration may have it.
        """
        table = np.where(np.isnan(table), rng.random(table.shape), table)
        step = rng.normal(size=table.shape) * sd
        changed = rng.random(table.shape) < CHANGED
        anywhere = changed & (rng.random(table.shape) < 2 * np.broadcast_to(sd, table.shape))
        ordered = self._coordinates.ordered[None, :]
        return np.where(ordered, table + step * changed, np.where(anywhere, rng.random(table.shape), table))


class Pool:
    """A list of configurations, each of which is tried once.

    Args:
        memory: the trials; not changed here.
        configurations: values by name.
        seed: for the first configurations.
    """

    def __init__(self, memory: Memory, configurations: Sequence[Mapping[str, Value]], seed: int) -> None:
        self._memory = memory
        self._configurations = configurations
        order = np.random.default_rng(derive_seed(seed, "first")).permutation(len(configurations))
        self._order = [int(index) for index in order]
        self._version = -1
        self._table = np.zeros((0, 0))

    def first(self, number: int) -> Array | None:
        """Return the next configuration in a random order."""
        left = set(self._left())
        return next((self._rows()[index] for index in self._order if index in left), None)

    def random(self, rng: np.random.Generator) -> Array | None:
        """Return one that is left, at random."""
        left = self._left()
        return self._rows()[left[int(rng.integers(len(left)))]] if left else None

    def best(self, score: Score, rng: np.random.Generator) -> tuple[float, Array] | None:
        """Return the best one that is left."""
        left = self._left()
        if not left:
            return None
        table = self._rows()[left]
        scores = score(table)
        place = int(np.argmax(scores))
        return float(scores[place]), table[place]

    def values(self, row: Array) -> Mapping[str, Value]:
        """Return the values by name of the first configuration that is left and has this row."""
        rows = self._rows()
        return next(self._configurations[i] for i in self._left() if np.array_equal(rows[i], row, equal_nan=True))

    def _left(self) -> list[int]:
        taken: Collection[object] = {tuple(sorted(trial.planned.items())) for trial in self._memory.trials}
        return [i for i, values in enumerate(self._configurations) if tuple(sorted(values.items())) not in taken]

    def _rows(self) -> Array:
        coordinates = self._memory.coordinates
        if self._version != coordinates.version:
            known = coordinates.parameters
            named = [{key: values.get(known[key].name) for key in known} for values in self._configurations]
            present = [{key: value for key, value in row.items() if value is not None} for row in named]
            self._table, self._version = np.array([coordinates.row(row) for row in present]), coordinates.version
        return self._table
