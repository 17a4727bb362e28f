"""The cost of training a trial to its end, in the time of a usual epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.backends.freeze_thaw.memory import Known, Memory
from search.backends.freeze_thaw.surrogate import NEW

__all__ = ["Costs"]

Array = NDArray[np.float64]

BASE = 2.0
"""A cost that every training has, in epochs, so that the last epoch of a trial is not nearly free."""

MAX_TRIALS = 300
"""The most trials from which the seconds of an epoch are learned: the last ones."""

RIDGE = 1.0
"""The weight of the penalty on the coefficients of the regression."""

CACHED_TRIALS, CACHED_SCALARS = 32, 64 << 20
"""The models that a worker keeps, in number and in scalars; with its optimizer a model has about three times its
weights. See `search.scheduler.affinity` and `search.worker.model_cache`."""

READ_BYTES = 200e6
"""The bytes of a checkpoint that are read in a second, from a slow disk. A weight takes 12: four, and eight for the
optimizer."""


class Costs:
    """Predicted costs of trainings.

    The seconds of an epoch are learned by ridge regression of their logarithm on the configuration.

    Args:
        memory: the trials; not changed here.
        max_epochs: R, the epochs of a whole training.
        by_seconds: False if all epochs count the same, and a model's build nothing.
    """

    def __init__(self, memory: Memory, max_epochs: int, *, by_seconds: bool) -> None:
        self._memory = memory
        self._max_epochs = max_epochs
        timed = [trial for trial in memory.trials if trial.timed][-MAX_TRIALS:] if by_seconds else []
        self._usual = float(np.median([trial.epoch_seconds for trial in timed])) if timed else 0.0
        self._coefficients: Array | None = None
        if self._usual > 0 and len(timed) > 2:
            self._learn(timed)

    def of(self, table: Array, places: Sequence[int]) -> Array:
        """Return the costs of training trials from where they are to epoch R, shape (rows,).

        Args:
            table: shape (rows, parameters).
            places: the trials' places in the memory, `NEW` for new ones.
        """
        known = [None if place == NEW else self._memory.trials[place] for place in places]
        left = np.array([self._max_epochs - self._saved_epochs(trial) for trial in known], dtype=float)
        overhead = np.array([self._build(trial) for trial in known])
        costs: Array = left * self.paces(table, places) + overhead + BASE
        return costs

    def paces(self, table: Array, places: Sequence[int]) -> Array:
        """Return the seconds of an epoch of each training, in those of a usual one; arguments as in `of`."""
        paces = self._predicted_paces(table)
        for row, place in enumerate(places):
            if place != NEW and self._usual > 0 and (trial := self._memory.trials[place]).timed:
                paces[row] = trial.epoch_seconds / self._usual
        return paces

    def _saved_epochs(self, trial: Known | None) -> int:
        return 0 if trial is None or not trial.saved or self._memory.whole else trial.curve.epochs

    def _predicted_paces(self, table: Array) -> Array:
        if self._coefficients is None:
            return np.ones(len(table))
        x = self._memory.coordinates.encode(table) - self._center
        paces: Array = np.exp(np.clip(x @ self._coefficients + self._offset, self._low, self._high))
        return paces

    def _build(self, trial: Known | None) -> float:
        """Return the time to build the trial's model and to read its checkpoint; 0 if a worker may have it cached."""
        if self._usual <= 0 or trial is None or not trial.build_seconds:
            return 0.0
        segments = self._memory.segments - trial.used_at
        cached = segments < CACHED_TRIALS and 3 * trial.weight_count * (segments + 1) <= CACHED_SCALARS
        reading = 12 * trial.weight_count / READ_BYTES if trial.saved else 0.0
        return 0.0 if cached else (trial.build_seconds + reading) / self._usual

    def _learn(self, timed: Sequence[Known]) -> None:
        x = self._memory.coordinates.encode(np.array([trial.row(self._memory.coordinates) for trial in timed]))
        y = np.array([math.log(trial.epoch_seconds / self._usual) for trial in timed])
        self._center, self._offset = x.mean(0), float(y.mean())
        self._low, self._high = float(y.min()), float(y.max())
        x = x - self._center
        self._coefficients = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - self._offset))
