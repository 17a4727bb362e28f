"""Lines for people about the hyperparameters for each value of which JAX compiles anew."""

from __future__ import annotations

from collections.abc import Sequence

from search.space.domain import Domain, Parameter
from search.space.steps import coarser, ends

__all__ = ["describe_compilations"]

MOST_LINES = 3


def describe_compilations(parameters: Sequence[Parameter]) -> list[str]:
    """Return a line for each of the hyperparameters with the most values.

    Args:
        parameters: those with many values, each of which changes shapes.
    """
    worst = sorted(parameters, key=lambda parameter: -(parameter.domain.size or float("inf")))
    return [f"JAX: {_describe(parameter.key, parameter.domain)}" for parameter in worst[:MOST_LINES]]


def _describe(key: str, domain: Domain) -> str:
    count = "a continuum of values" if domain.size is None else f"{domain.size:,} values"
    return f"{key} has {count}, each compiles anew; {_advise(domain)}"


def _advise(domain: Domain) -> str:
    better = coarser(domain)
    if better is None:
        return "fewer values compile less"
    sampling = "" if better.sampling == domain.sampling else f', sampling="{better.sampling}"'
    kept = ends(better)
    place = "" if kept == (domain.low, domain.high) else f", from {kept[0]:.12g} to {kept[1]:.12g}"
    return f"step={better.step:.12g}{sampling} would leave {better.size}{place}"
