"""A Gaussian process over (configuration, epoch), for learning curves (Swersky, Snoek and Adams 2014, "Freeze-Thaw
Bayesian Optimization", arXiv:1406.3896, section 3).

Values are compared by their warp z (see `warp`). The covariance of trial i's z after epoch t and trial j's after t' is

    k = [M(x, x') + b·1(i = j)] · [a₁ + a₂·κ(t, t')] + 4 + 4·φ(t)·φ(t') + (σ² + σₚ²)·1(same point)

with M a Matérn-5/2 kernel over configurations with a length scale for each group of coordinates, and κ the paper's
exponential decay kernel (its equation 6), κ(t, t') = (β / (t + t' + β))^α: curves are mixtures of exponential decays to
an asymptote. φ(t) = κ(t, t) is the shape of the mean curve. a₁ is the variance of the asymptotes, a₂ that of the
curves' shapes, b the part that the configuration does not explain. The two 4s are wide priors of the mean asymptote and
of the mean curve's height, which are so integrated out (Rasmussen and Williams 2006, section 2.7). σ² is the variance
of the noise, to which σₚ² adds what is known of a point's.

The hyperparameters are those of maximum a posteriori probability, under lognormal priors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

__all__ = ["Hyperparameters", "Points", "Posterior", "default_hyperparameters", "fit", "unpack"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MEAN_VARIANCE = 4.0
"""The prior variance of the mean asymptote, and of the mean curve's height."""

FIRST_ITERATIONS, ITERATIONS = 30, 15
"""The iterations of a first fit, and of one that begins with an earlier fit's hyperparameters."""

LEAST_VARIANCE = 1e-6
"""The least variance of a prediction: below it, rounding decides."""

BOUND = 3.0
"""The bounds of each hyperparameter, in standard deviations of its prior's logarithm around the median."""


@dataclass(frozen=True, slots=True)
class Points:
    """Observed values of trials.

    Attributes:
        x: shape (n, d), the encoded configurations.
        trial: shape (n,), equal for points of the same trial; negative for a trial without other points.
        epoch: shape (n,), 1-based.
        z: shape (n,), the warped values.
        noise: shape (n,), the known part of the variance of z's noise.
    """

    x: Array
    trial: Indices
    epoch: Array
    z: Array
    noise: Array


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The covariance's hyperparameters, in the notation of this module.

    Attributes:
        lengths: shape (d,), the length scale of each coordinate. Coordinates of a group have the same.
        a1, a2, b, noise, beta, alpha: as in the covariance; `noise` is σ².
    """

    lengths: Array
    a1: float
    a2: float
    b: float
    noise: float
    beta: float
    alpha: float


# Priors: (median, standard deviation of the logarithm) of a₁, a₂, b, σ², β, α. A length scale's median is √d.
_PRIORS = np.array([(1.0, 1.0), (1.0, 1.0), (0.05, 1.0), (0.001, 1.0), (2.0, 0.7), (1.0, 0.4)])
_LENGTH_SD = 0.5


def _prior(groups: Indices) -> tuple[Array, Array]:
    """Return the means and standard deviations of all log hyperparameters; the length scales come first."""
    count = int(groups.max(initial=-1)) + 1
    means = np.concatenate([np.full(count, 0.5 * math.log(max(count, 1))), np.log(_PRIORS[:, 0])])
    return means, np.concatenate([np.full(count, _LENGTH_SD), _PRIORS[:, 1]])


def unpack(theta: Array, groups: Indices) -> Hyperparameters:
    """Return the hyperparameters whose logarithms are `theta`, as `fit` returns them."""
    values = np.exp(theta)
    return Hyperparameters(values[:-6][groups], *map(float, values[-6:]))


def default_hyperparameters(groups: Indices) -> Hyperparameters:
    """Return the medians of the priors.

    Args:
        groups: shape (d,), the group of each coordinate, from 0. Coordinates of a group share their length scale.
    """
    return unpack(_prior(groups)[0], groups)


# The covariance -------------------------------------------------------------------------------------------------------


def _squared_distances(a: Array, b: Array) -> Array:
    """Return the squared Euclidean distances between the rows of `a` and of `b`."""
    squares: Array = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * (a @ b.T)
    return np.maximum(squares, 0.0)


def _matern(squares: Array) -> tuple[Array, Array]:
    """Return M, the Matérn-5/2 kernel at squared distances r², and −2·dM/d(r²)."""
    root = np.sqrt(5.0 * squares)
    decay = np.exp(-root)
    slope = (1.0 + root) * decay
    return slope + (5.0 / 3.0) * squares * decay, (5.0 / 3.0) * slope


def _decay(total: Array, h: Hyperparameters) -> tuple[Array, Array]:
    """Return (β / (s + β))^α for s = `total`, and the base of that power."""
    base = h.beta / (total + h.beta)
    return base**h.alpha, base


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a covariance matrix that its gradient needs too."""

    matern: Array
    slope: Array
    same: Array
    over_epochs: Array
    kappa: Array
    kappa_base: Array
    phi: Array
    phi_base: Array
    noise: Array


def _parts(points: Points, h: Hyperparameters) -> _Parts:
    scaled = points.x / h.lengths
    matern, slope = _matern(_squared_distances(scaled, scaled))
    same = (points.trial[:, None] == points.trial[None, :]).astype(float)
    epochs, place = np.unique(points.epoch, return_inverse=True)  # few: powers are dear
    table, base = _decay(epochs[:, None] + epochs[None, :], h)
    kappa, kappa_base = table[np.ix_(place, place)], base[np.ix_(place, place)]
    phi, phi_base = _decay(2 * points.epoch, h)
    return _Parts(matern, slope, same, h.a1 + h.a2 * kappa, kappa, kappa_base, phi, phi_base, points.noise)


def _covariance(parts: _Parts, h: Hyperparameters) -> Array:
    covariance = (parts.matern + h.b * parts.same) * parts.over_epochs
    covariance += MEAN_VARIANCE * (1.0 + np.outer(parts.phi, parts.phi))
    covariance[np.diag_indices_from(covariance)] += h.noise + parts.noise
    return covariance


def _factor(covariance: Array) -> Array:
    """Return the lower Cholesky factor, of a matrix that rounding may have made slightly indefinite."""
    jitter = 0.0
    while True:
        try:
            shifted = covariance + jitter * np.eye(len(covariance)) if jitter else covariance
            factor: Array = cholesky(shifted, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            jitter = max(1e-10, 10 * jitter)
        else:
            return factor


# The fit --------------------------------------------------------------------------------------------------------------


def _objective(theta: Array, points: Points, groups: Indices, means: Array, sds: Array) -> tuple[float, Array]:
    """Return the negative log posterior of the log hyperparameters `theta`, up to a constant, and its gradient."""
    h = unpack(theta, groups)
    parts = _parts(points, h)
    factor = _factor(_covariance(parts, h))
    weights = cho_solve((factor, True), points.z, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(factor)), check_finite=False)
    standard = (theta - means) / sds
    value = 0.5 * points.z @ weights + np.log(np.diag(factor)).sum() + 0.5 * standard @ standard
    # dL/dθ = −½ Σ (ααᵀ − K⁻¹) ∘ dK/dθ (Rasmussen and Williams 2006, equation 5.9).
    outer = inverse - np.outer(weights, weights)
    gradient = 0.5 * np.concatenate([_over_lengths(outer, parts, points, h, groups), _over_rest(outer, parts, h)])
    return float(value), gradient + standard / sds


def _over_lengths(outer: Array, parts: _Parts, points: Points, h: Hyperparameters, groups: Indices) -> Array:
    """Return Σ `outer` ∘ dK/dlog ℓ for each group's length scale ℓ."""
    weighted = outer * parts.over_epochs * parts.slope
    x = points.x / h.lengths
    # Σ_ab G_ab (x_a − x_b)², without a matrix for each coordinate.
    sums = 2 * (weighted.sum(1) @ (x * x) - (x * (weighted @ x)).sum(0))
    return np.bincount(groups, sums, minlength=int(groups.max(initial=-1)) + 1).astype(float)


def _over_rest(outer: Array, parts: _Parts, h: Hyperparameters) -> Array:
    """Return Σ `outer` ∘ dK/dlog θ for θ = a₁, a₂, b, σ², β, α."""
    over_trials = outer * (parts.matern + h.b * parts.same)
    kappa = over_trials * parts.kappa
    left = outer @ parts.phi
    # d log κ: α (1 − base) over log β, α log base over log α.
    phi_beta = parts.phi * h.alpha * (1 - parts.phi_base)
    phi_alpha = parts.phi * h.alpha * np.log(parts.phi_base)
    return np.array(
        [
            h.a1 * over_trials.sum(),
            h.a2 * kappa.sum(),
            h.b * (outer * parts.same * parts.over_epochs).sum(),
            h.noise * np.trace(outer),
            h.a2 * h.alpha * (kappa * (1 - parts.kappa_base)).sum() + 2 * MEAN_VARIANCE * (left @ phi_beta),
            h.a2 * h.alpha * (kappa * np.log(parts.kappa_base)).sum() + 2 * MEAN_VARIANCE * (left @ phi_alpha),
        ]
    )


def fit(points: Points, groups: Indices, start: Array | None = None) -> Array:
    """Return the log hyperparameters of maximum posterior probability, the groups' length scales first.

    Args:
        points: at least one.
        groups: shape (d,), the group of each coordinate, from 0.
        start: the result of an earlier fit; None for a first one.
    """
    means, sds = _prior(groups)
    first = start is None or len(start) != len(means)
    found: Any = minimize(
        _objective,
        means if first else start,
        (points, groups, means, sds),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(means - BOUND * sds, means + BOUND * sds, strict=True)),
        options={"maxiter": FIRST_ITERATIONS if first else ITERATIONS},
    )
    return np.asarray(found.x)


# Predictions ----------------------------------------------------------------------------------------------------------


class Posterior:
    """The process, conditioned on points.

    Args:
        points: at least one.
        h: the hyperparameters.
    """

    def __init__(self, points: Points, h: Hyperparameters) -> None:
        self._points = points
        self._h = h
        self._scaled = points.x / h.lengths
        parts = _parts(points, h)
        self._phi = parts.phi
        self._factor = _factor(_covariance(parts, h))
        self._weights = cho_solve((self._factor, True), points.z, check_finite=False)

    def predict(self, x: Array, trial: Indices, epoch: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of z, without observation noise.

        Of a trial that has not begun, the part b is left out: what its configuration does not explain is the same luck
        for all, and no reason to begin one. (With it, searches of LCBench had twice the regret after ten trainings.)

        Args:
            x: shape (m, d).
            trial: shape (m,), as in `Points`; negative for a trial that has not begun.
            epoch: shape (m,).
        """
        h, points = self._h, self._points
        cross, _ = _matern(_squared_distances(x / h.lengths, self._scaled))
        cross += h.b * (trial[:, None] == points.trial[None, :])
        epochs, place = np.unique(epoch, return_inverse=True)
        own, own_place = np.unique(points.epoch, return_inverse=True)
        kappa, _ = _decay(epochs[:, None] + own[None, :], h)
        cross *= (h.a1 + h.a2 * kappa)[np.ix_(place, own_place)]
        phi, _ = _decay(2 * epoch, h)
        cross += MEAN_VARIANCE * (1.0 + np.outer(phi, self._phi))
        own_part = 1.0 + h.b * (trial >= 0)
        prior = own_part * (h.a1 + h.a2 * phi) + MEAN_VARIANCE * (1.0 + phi * phi)
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = prior - (solved * solved).sum(0)
        return cross @ self._weights, np.sqrt(np.maximum(variance, LEAST_VARIANCE))
