"""KerasTuner's oracles as options of a search: each of its own oracles is one of our back ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.backends.registry import LARGEST_GRID
from search.compat.original import is_original, objective, oracles
from search.errors import OptionError
from search.study.directions import direction_of_name

__all__ = ["NamedObjective", "is_own_oracle", "named_objective", "objective_options", "options_of"]

_NO_LIMIT = 2**31 - 1
"""More trials than a search has."""


class NamedObjective(objective.Objective):
    """An objective whose direction the search finds out: its metric knows it, or the words of its name.

    KerasTuner would guess by the name alone, and take `val_f1_score` for a loss.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, direction_of_name(name))


def named_objective(given: Any) -> Any:
    """Return the objective for one of KerasTuner's oracles, from an argument `objective` of a tuner."""
    return NamedObjective(given) if isinstance(given, str) else given


def objective_options(given: Any) -> dict[str, Any]:
    """Return the options of a search for the objective of an oracle."""
    if isinstance(given, objective.DefaultObjective):
        return {}
    direction = None if isinstance(given, NamedObjective) else given.direction
    return {"objective": given.name, "direction": direction}


def is_own_oracle(oracle: Any) -> bool:
    """Return whether an oracle is of a class of the user's."""
    return not is_original(_class_of(oracle))


def _class_of(oracle: Any) -> type:
    """Return the class of an oracle, below the view that a tuner may have put over it."""
    return next(cls for cls in type(oracle).__mro__ if not cls.__module__.startswith("search.compat."))


def options_of(oracle: Any) -> dict[str, Any]:
    """Return the options of a search that does as an oracle of KerasTuner's.

    Raises:
        OptionError: the oracle has no end.
    """
    failures = oracle.max_consecutive_failed_trials
    options = {
        "max_trials": oracle.max_trials,
        "retries": oracle.max_retries_per_trial or None,
        "max_retries_per_trial": oracle.max_retries_per_trial or None,
        "max_consecutive_failed_trials": _NO_LIMIT if failures is None else failures,
        **objective_options(oracle.objective),
        **_backend_options(oracle),
    }
    return {name: value for name, value in options.items() if value is not None}


def _backend_options(oracle: Any) -> Mapping[str, Any]:
    if is_own_oracle(oracle):
        return {}
    if isinstance(oracle, oracles.HyperbandOracle):
        if not oracle.hyperband_iterations or oracle.hyperband_iterations == math.inf:
            raise OptionError("hyperband_iterations has no end: give a number, or end the search with timeout='8h'")
        return {
            "backend": "hyperband",
            "max_epochs": oracle.max_epochs,
            "factor": oracle.factor,
            "iterations": oracle.hyperband_iterations,
        }
    if isinstance(oracle, oracles.BayesianOptimizationOracle):
        points = oracle.num_initial_points
        return _optuna(f"tpe:n_startup_trials={points}" if points else "tpe")
    if isinstance(oracle, oracles.GridSearchOracle):
        return {**_optuna("grid"), "max_trials": oracle.max_trials or LARGEST_GRID}
    return _optuna("random")


def _optuna(sampler: str) -> dict[str, Any]:
    return {"backend": "optuna", "sampler": sampler, "pruner": "none"}
