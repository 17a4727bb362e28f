"""The methods of a tuner that a subclass may override, each with the place where it is called.

KerasTuner calls all of them around each trial, in one process. Here a trial runs in a worker process, so a method is
called there, or in the script's process, or it is refused by name, with advice, before a search begins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from search.compat.original import is_original
from search.errors import OptionError

__all__ = [
    "CALLED",
    "HOOKS_OF_TRAINING",
    "HOOKS_OF_TRIALS",
    "REFUSED_METHODS",
    "RUNS_A_TRIAL",
    "check_environment",
    "check_overrides",
    "own_methods",
]

RUNS_A_TRIAL = frozenset(
    {
        "run_trial",
        "save_model",
        "_build_and_fit_model",
        "_build_hypermodel",
        "_filter_metrics",
        "_override_compile_args",
        "_try_build",
    }
)
"""Methods that a worker calls to run a trial."""

HOOKS_OF_TRAINING = frozenset({"on_batch_begin", "on_batch_end", "on_epoch_begin", "on_epoch_end"})
"""Methods that a worker calls while a model trains."""

HOOKS_OF_TRIALS = frozenset({"pre_create_trial", "on_trial_begin", "on_trial_end"})
"""Methods that the script's process calls, in a thread, when a trial begins or has ended."""

CALLED = frozenset(
    {
        "get_best_hyperparameters",
        "get_best_models",
        "load_model",
        "on_search_begin",
        "on_search_end",
        "reload",
        "remaining_trials",
        "results_summary",
        "search",
        "search_space_summary",
        "_activate_all_conditions",
        "_populate_initial_space",
    }
)
"""Methods that the script's process calls as KerasTuner does, or that only the user calls."""

_CALLBACKS = "callbacks are copied for each trial, so give them a __deepcopy__"
_STATE = "the study's journal has the search's state, so keep state of your own in on_search_end"
_FOLDER = "directory and project_name say where files are, and get_trial_dir is a trial's own folder"
_TENSORBOARD = "a TensorBoard callback writes into its trial's own folder"
_RUN = "give the tuner a run_trial of its own"

REFUSED_METHODS: Mapping[str, str] = {
    "_run_and_update_trial": _RUN,
    "_try_run_and_update_trial": _RUN,
    "_deepcopy_callbacks": _CALLBACKS,
    "_configure_tensorboard_dir": _TENSORBOARD,
    "_get_tensorboard_dir": _TENSORBOARD,
    "save": _STATE,
    "get_state": _STATE,
    "set_state": _STATE,
    "project_dir": _FOLDER,
    "get_trial_dir": _FOLDER,
    "_get_checkpoint_fname": _FOLDER,
    "_get_build_config_fname": _FOLDER,
    "_get_tuner_fname": _FOLDER,
    "_is_worker": "trials run in worker processes, and workers=4 starts four",
}
"""KerasTuner's other methods of a tuner, each with the advice in the error message."""

_ENVIRONMENT = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")


def own_methods(tuner: Any) -> frozenset[str]:
    """Return the names of the attributes that the user's classes, or the user's assignments, give to `tuner`."""
    found: set[str] = set()
    seen: set[str] = set()
    for cls in type(tuner).__mro__:
        ours = is_original(cls) or cls.__module__.startswith("search.compat.")
        names = vars(cls).keys() - seen
        seen |= names
        found |= set() if ours else names
    return frozenset(found | (vars(tuner).keys() & (RUNS_A_TRIAL | HOOKS_OF_TRAINING | HOOKS_OF_TRIALS)))


def check_environment(tuner: str) -> None:
    """Raise OptionError if the environment asks for KerasTuner's distributed search.

    Args:
        tuner: the name of the tuner's class.
    """
    for variable in _ENVIRONMENT:
        if variable in os.environ:
            raise OptionError(
                f"{tuner} found the environment variable {variable}, and a search here has no chief: unset it, start "
                "one process for the whole search, and give it workers=4 (or gpus) for four trials at once"
            )


def check_overrides(tuner: Any) -> None:
    """Raise OptionError if `tuner` overrides a method that would not be called."""
    own = own_methods(tuner) | (vars(tuner).keys() & REFUSED_METHODS.keys())
    for method, advice in REFUSED_METHODS.items():
        if method in own:
            raise OptionError(
                f"{type(tuner).__name__} has its own {method}, which is not called: leave it out, {advice}"
            )
