"""Observations: the learning curves of a search's trials, and what the process sees of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "Warp", "choose_points", "powers_of_two"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_POINTS, WHOLE_TRIALS = 250, 150
"""The most points, and how many of them the best trials give with their whole curves."""

FLOOR = 0.1
"""The distance to the best value at which the warp begins to level off, in distances of the median to the best."""


@dataclass(slots=True)
class Curve:
    """One trial's values; larger is better.

    Attributes:
        values: after each epoch from the first, the mean of the executions; NaN for an epoch without a finite one.
        best: the best value so far; −∞ if there is none.
        failed: the trial failed or is infeasible: its value is the worst there is.
        exhausted: a callback of the user's ended the training: the last value is the final one.
    """

    values: list[float] = field(default_factory=list)
    best: float = -math.inf
    failed: bool = False
    exhausted: bool = False
    _counts: list[int] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return len(self.values)

    def note(self, execution: int, epoch: int, value: float) -> bool:
        """Take in a value after `epoch` (1-based). Return whether it is new: the first value of an epoch stays."""
        if epoch <= self._known.get(execution, 0):
            return False
        self._known[execution] = epoch
        missing = epoch - len(self.values)
        self.values += [math.nan] * missing
        self._counts += [0] * missing
        if math.isfinite(value):
            count, mean = self._counts[epoch - 1], self.values[epoch - 1]
            self._counts[epoch - 1] = count + 1
            self.values[epoch - 1] = value if count == 0 else mean + (value - mean) / (count + 1)
            # A mean over more executions may be worse.
            self.best = max(self.best, value) if execution == 0 else max(filter(math.isfinite, self.values))
        return True

    def best_until(self, epoch: int) -> float:
        """Return the best value up to `epoch`; −∞ if there is none."""
        return max(filter(math.isfinite, self.values[:epoch]), default=-math.inf)

    def last(self, epoch: int) -> float:
        """Return the last finite value up to `epoch`; −∞ if there is none."""
        return next((value for value in reversed(self.values[:epoch]) if math.isfinite(value)), -math.inf)

    def observed(self, epochs: Sequence[int]) -> list[int]:
        """Return those of `epochs` (ascending) that the curve has reached, and its last one, without those of NaN."""
        reached = [epoch for epoch in epochs if epoch < self.epochs]
        return [epoch for epoch in (*reached, self.epochs) if epoch and math.isfinite(self.values[epoch - 1])]


def powers_of_two(max_epochs: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … below `max_epochs`, and `max_epochs`: the epochs at which curves are observed."""
    return (*(2**power for power in range(max_epochs.bit_length()) if 2**power < max_epochs), max_epochs)


def choose_points(curves: Sequence[Curve], epochs: Sequence[int], rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return the places in `curves`, and the epochs, of the values that the process is to see.

    Each trial is seen at `epochs` and at its last epoch. If that is more than `MAX_POINTS`: the best trials with whole
    curves until they have `WHOLE_TRIALS` points, and others of the points at random.
    """
    best = np.array([-curve.best for curve in curves])
    order = np.argsort(best, kind="stable")
    places: list[int] = []
    found: list[int] = []
    taken = 0
    for place in order:
        if len(found) >= WHOLE_TRIALS:
            break
        observed = curves[place].observed(epochs)
        places += [int(place)] * len(observed)
        found += observed
        taken += 1
    rest = order[taken:]
    # No trial of the rest need be looked at that is not drawn: a trial has about as many points as its curve doublings.
    drawn = rest if len(rest) <= MAX_POINTS else rng.choice(rest, MAX_POINTS, replace=False)
    others = [(int(place), epoch) for place in drawn for epoch in curves[place].observed(epochs)]
    free = MAX_POINTS - len(found)
    if len(others) > free:
        others = [others[index] for index in sorted(rng.choice(len(others), max(free, 0), replace=False))]
    places += [place for place, _ in others]
    found += [epoch for _, epoch in others]
    return np.array(places, dtype=np.int64), np.array(found, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Warp:
    """The scale on which the process sees values: z = −log((top − y) / (top − median) + `FLOOR`), standardised.

    Differences near the best value count for more than those among bad ones. It is the same for any unit of y.

    Attributes:
        top: the best value seen.
        spread: its distance to the median of the trials' last values.
        mean, sd: of the unstandardised z of the points.
    """

    top: float
    spread: float
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def of(cls, curves: Sequence[Curve], values: Array) -> Warp:
        """Return the warp for trials with `curves`, in which `values` are standardised."""
        last = np.array([curve.last(curve.epochs) for curve in curves])
        last = last[np.isfinite(last)]
        top = max(curve.best for curve in curves)
        # All trials may be equal, or more than half of them.
        spreads = (top - float(np.median(last)), top - float(last.min()), top - float(values.min()))
        raw = cls(top, next((spread for spread in spreads if spread > 0), 1.0))
        z = raw(values)
        sd = float(z.std())
        return cls(top, raw.spread, float(z.mean()), sd if sd > 1e-9 else 1.0)

    def __call__(self, values: Array) -> Array:
        distance = np.maximum((self.top - values) / self.spread, 0.0)
        z: Array = (-np.log(distance + FLOOR) - self.mean) / self.sd
        return z

    @property
    def threshold(self) -> float:
        """z of the best value."""
        return float(self(np.array([self.top]))[0])
