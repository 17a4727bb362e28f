"""The surrogate: the process conditioned on a search's trials, and its predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.backends.freeze_thaw import gaussian_process
from search.backends.freeze_thaw.gaussian_process import Points, Posterior
from search.backends.freeze_thaw.memory import Memory
from search.backends.freeze_thaw.observations import Warp, choose_points, powers_of_two

__all__ = ["Hyperparameters", "Observed", "Surrogate", "fit", "observe"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

NEW = -1
"""The place of a trial that has not begun."""

MAX_FAILED = 50
"""The most failed trials that the process sees."""

Hyperparameters = Mapping[str, Any]
"""The logarithms of the process's hyperparameters, as a JSON object: `lengths` by parameter key, `others` a list."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The points of a search's trials.

    Attributes:
        warp: the scale of their values.
        points: for the process; a trial is known by its place in the memory.
        names: the parameters' keys.
        groups: the parameter's number in `names` for each encoded column.
    """

    warp: Warp
    points: Points
    names: Sequence[str]
    groups: Indices


def observe(memory: Memory, max_epochs: int, rng: np.random.Generator) -> Observed | None:
    """Return the points of the trials in `memory`; None if no trial has a value.

    A trial that a callback has ended has its best value after the last epoch, too. A failed one has the worst value
    seen there.
    """
    curves = memory.curves
    places, epochs = choose_points(curves, powers_of_two(max_epochs), rng)
    if not len(places):
        return None
    values = np.array([curves[place].values[epoch - 1] for place, epoch in zip(places, epochs, strict=True)])
    failed = np.array([place for place, curve in enumerate(curves) if curve.failed], dtype=np.int64)
    if len(failed) > MAX_FAILED:
        failed = np.sort(rng.choice(failed, MAX_FAILED, replace=False))
    ended = [place for place in np.unique(places) if curves[place].exhausted and curves[place].epochs < max_epochs]
    best = [curves[place].best for place in ended]
    warp = Warp.of(curves, values)
    z = warp(np.concatenate([values, best, np.full(len(failed), values.min())]))
    places = np.concatenate([places, np.array(ended, dtype=np.int64), failed])
    epochs = np.concatenate([epochs, np.full(len(places) - len(epochs), max_epochs)])
    points = Points(_encoded(memory, places), places, epochs.astype(float), z, np.zeros(len(z)))
    return Observed(warp, points, memory.coordinates.names, memory.coordinates.groups)


def _encoded(memory: Memory, places: Indices) -> Array:
    different, inverse = np.unique(places, return_inverse=True)
    return memory.coordinates.encode(memory.table(different.tolist()))[inverse]


def fit(observed: Observed, start: Hyperparameters | None) -> Hyperparameters:
    """Return the hyperparameters that fit the points; `start`: those of an earlier fit."""
    warm = None if start is None else _to_array(start, observed.names)
    theta = gaussian_process.fit(observed.points, observed.groups, warm)
    lengths = dict(zip(observed.names, map(float, theta), strict=False))
    return {"lengths": lengths, "others": [float(value) for value in theta[len(lengths) :]]}


def _to_array(found: Hyperparameters, names: Sequence[str]) -> Array:
    """Return the hyperparameters for the parameters `names`. One that no fit has seen has its prior's median."""
    unknown = 0.5 * math.log(max(len(names), 1))
    return np.array([*(found["lengths"].get(name, unknown) for name in names), *found["others"]])


class Surrogate:
    """The process, conditioned on the points of a search's trials.

    A running trial counts as if it had reached its last epoch with the value that is predicted, which is at most the
    best one seen: so no two workers are sent the same way (Ginsbourger, Le Riche and Carraro 2010, "Kriging is
    well-suited to parallelize optimization", the kriging believer).

    Args:
        memory: the trials; not changed here.
        observed: their points.
        found: the hyperparameters; None for the medians of their priors.
    """

    def __init__(self, memory: Memory, observed: Observed, found: Hyperparameters | None) -> None:
        self._memory = memory
        self.threshold = observed.warp.threshold
        groups = observed.groups
        if found is None:
            self._h = gaussian_process.default_hyperparameters(groups)
        else:
            self._h = gaussian_process.unpack(_to_array(found, observed.names), groups)
        self._posterior = Posterior(observed.points, self._h)
        running = np.array([i for i, trial in enumerate(memory.trials) if trial.open], dtype=np.int64)
        if len(running):
            self._posterior = Posterior(self._believed(observed.points, running), self._h)

    def predict(self, table: Array, places: Indices, epochs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of z after `epochs`.

        Args:
            table: shape (m, parameters).
            places: shape (m,), the trials' places in the memory, `NEW` for new ones.
            epochs: shape (m,).
        """
        return self._posterior.predict(self._memory.coordinates.encode(table), places, epochs)

    def _believed(self, points: Points, running: Indices) -> Points:
        x = _encoded(self._memory, running)
        targets = np.array([self._memory.trials[place].to_epoch for place in running], dtype=float)
        mean, _ = self._posterior.predict(x, running, targets)
        return Points(
            np.vstack([points.x, x]),
            np.concatenate([points.trial, running]),
            np.concatenate([points.epoch, targets]),
            np.concatenate([points.z, np.minimum(mean, self.threshold)]),
            np.concatenate([points.noise, np.zeros(len(running))]),
        )
