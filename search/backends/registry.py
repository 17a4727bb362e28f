"""What decides a search: `hyperband`, `optuna`. `make` is the one place that knows them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.backends.base import BackEnd
from search.space.domain import Parameter
from search.study.trial import Objective

NAMES = ("hyperband", "optuna")

OPTIONS: dict[str, tuple[str, ...]] = {
    "hyperband": ("max_epochs", "factor", "iterations", "sampler"),
    "optuna": ("max_epochs", "factor", "sampler", "pruner"),
}
"""The options that make a back end what it is; a study that is resumed with others begins a new era."""

SAMPLERS = {"hyperband": "random", "optuna": "tpe"}
"""The sampler of a back end that was told none."""


def make(
    name: str, options: Mapping[str, Any], objective: Objective, seed: int, parameters: Sequence[Parameter] = ()
) -> BackEnd:
    """The back end `name` with `options` as in `OPTIONS`. OptionError where one of them cannot be used."""
    if name == "hyperband":
        from search.backends.hyperband import Hyperband

        return Hyperband(objective, seed, parameters=parameters, **options)
    # Optuna costs 0.3 s to import: only who uses it pays.
    from search.backends.optuna import Optuna

    return Optuna(objective, seed, parameters=parameters, **options)
