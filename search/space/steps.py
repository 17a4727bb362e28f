"""Coarser steps for a range of many values, so that values repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from search.space.domain import Domain

__all__ = ["coarser", "ends"]

ABOUT = 8
"""The number of values that a coarser range has, or nearly so."""

_FEWEST, _MOST = 3, ABOUT + 1


def coarser(domain: Domain) -> Domain | None:
    """Return a range with a larger step that leaves about `ABOUT` values; None if there is none.

    Steps are a power of two, or three times one, as a multiple of the present step; those of a continuum are 1, 2, 2.5
    or 5 times a power of ten. If several leave about as many values, one that keeps both ends is taken. In log sampling
    a step is a ratio. If the range is too narrow for ratios, sampling becomes linear.
    """
    if not domain.is_range or domain.high <= domain.low:
        return None
    found = list(_candidates(domain))
    if not found and domain.sampling != "linear":
        found = list(_candidates(replace(domain, step=None, sampling="linear")))
    return min(found, key=_badness, default=None)


def ends(domain: Domain) -> tuple[float, float]:
    """Return the smallest and the largest value of a range with a step, whose last value may lie before its end."""
    values = [float(domain.value(index) or 0) for index in range(domain.size or 0)]
    return min(values), max(values)


def _badness(domain: Domain) -> tuple[bool, bool, int, bool]:
    size = domain.size or 0
    power_of_two = math.log2(float(domain.step or 1)).is_integer()
    return abs(size - ABOUT) > 1, ends(domain) != (domain.low, domain.high), abs(size - ABOUT), not power_of_two


def _candidates(domain: Domain) -> Iterator[Domain]:
    """Yield the ranges with larger steps that have neither too few values nor too many."""
    for step in _steps(domain):
        found = replace(domain, step=step)
        size = found.size or 0
        if size < _FEWEST:
            return
        if size <= _MOST and (domain.size is None or size < domain.size):
            yield found


def _steps(domain: Domain) -> Iterator[float | int]:
    """Yield larger and larger steps."""
    if domain.sampling != "linear":
        yield from _ratios(domain.step)
    elif domain.step is None:
        exponent = math.floor(math.log10((domain.high - domain.low) / ABOUT)) - 1
        yield from (factor * 10.0**power for power in range(exponent, exponent + 4) for factor in (1, 2, 2.5, 5))
    else:
        for power in range(1, 64):
            yield domain.step * 2**power
            yield domain.step * 3 * 2 ** (power - 1)


def _ratios(step: float | int | None) -> Iterator[float | int]:
    """Yield powers of the present ratio, which are some of its values; of 2, if there is none."""
    ratio = 2 if step is None else step
    for power in range(1 if step is None else 2, 64):
        yield ratio**power
