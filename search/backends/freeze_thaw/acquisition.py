"""Acquisition: the worth of a training, from the prediction of a value that it leads to."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr

__all__ = ["log_expected_improvement", "log_probability_of_improvement"]

Array = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_expected_improvement(mean: Array, sd: Array, threshold: float) -> Array:
    """Return log E[max(0, Z − `threshold`)] for Z ~ N(`mean`, `sd`²), stable for any threshold.

    Ament et al. 2023, "Unexpected Improvements to Expected Improvement for Bayesian Optimization", NeurIPS, equation 9.
    """
    u = (mean - threshold) / sd
    return _log_h(u) + np.log(sd)


def log_probability_of_improvement(mean: Array, sd: Array, threshold: float) -> Array:
    """Return log P(Z > `threshold`) for Z ~ N(`mean`, `sd`²)."""
    found: Array = log_ndtr((mean - threshold) / sd)
    return found


def _log_h(u: Array) -> Array:
    """Return log(φ(u) + u·Φ(u))."""
    low = np.minimum(u, -1.0)
    density = -0.5 * low * low - _LOG_SQRT_2PI
    # φ + uΦ = φ·(1 + u·√(π/2)·erfcx(−u/√2)), in which the two terms cancel from about −10⁴ on: there it is φ/u².
    ratio = 1.0 + low * math.sqrt(math.pi / 2) * erfcx(-low / math.sqrt(2.0))
    tail = np.where(low < -1e3, -2 * np.log(-low), np.log(np.maximum(ratio, 1e-300)))
    high = np.maximum(u, -1.0)
    body = np.log(np.exp(-0.5 * high * high - _LOG_SQRT_2PI) + high * np.exp(log_ndtr(high)))
    return np.where(u < -1.0, density + tail, body)
