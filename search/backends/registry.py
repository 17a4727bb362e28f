"""The back ends by name: `hyperband` and `optuna`. Only `make_backend` knows their classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from search.backends.base import BackEnd
from search.space.domain import Parameter
from search.study.trial import Objective

BACKENDS = ("hyperband", "optuna")

BACKEND_OPTIONS: dict[str, tuple[str, ...]] = {
    "hyperband": ("max_epochs", "factor", "iterations", "sampler"),
    "optuna": ("max_epochs", "factor", "sampler", "pruner"),
}
"""The options of each back end. A study that is resumed with other values of them begins a new phase."""

DEFAULT_SAMPLERS = {"hyperband": "random", "optuna": "tpe"}
"""The sampler of each back end, if the user names none."""

LARGEST_GRID = 100_000
"""The most configurations of a grid: Optuna lists them all in memory."""


def make_backend(
    name: str, options: Mapping[str, Any], objective: Objective, seed: int, parameters: Sequence[Parameter] = ()
) -> BackEnd:
    """Return a new back end.

    Args:
        name: one of `BACKENDS`.
        options: values of its `BACKEND_OPTIONS`.
        objective: the metric to compare.
        seed: of the study.
        parameters: those that the probe saw.

    Raises:
        OptionError: an option cannot be used.
    """
    if name == "hyperband":
        from search.backends.hyperband import Hyperband

        return Hyperband(objective, seed, parameters=parameters, **options)
    # Optuna takes 0.3 s to import: this is paid only if it is used.
    from search.backends.optuna import Optuna

    return Optuna(objective, seed, parameters=parameters, **options)


def internals_off() -> tuple[str, ...]:
    """Return a line for each use of Optuna's internals that the back ends of this process do without."""
    internals = sys.modules.get("search.backends.optuna_internals")
    return () if internals is None else internals.capabilities_off()
