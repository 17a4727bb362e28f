"""The parts of KerasTuner that cannot be honoured here: each is refused by name, with advice, before a search begins.

KerasTuner calls a tuner's methods around every trial, in one process. Here trials run in worker processes, so a
subclass's override of such a method would never be called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from search.errors import OptionError

__all__ = ["CALLED", "REFUSED_ARGUMENTS", "REFUSED_METHODS", "check_environment", "check_hooks"]

REFUSED_ARGUMENTS = {
    "distribution_strategy": "gpus_per_trial=2 gives two GPUs to each trial",
    "tuner_id": "trials run in worker processes, and workers=4 starts four",
    "logger": "`search ui` shows the search while it runs",
    "alpha": "it belongs to KerasTuner's Gaussian process, and values are drawn by Optuna's TPE",
    "beta": "it belongs to KerasTuner's Gaussian process, and values are drawn by Optuna's TPE",
}
"""KerasTuner's arguments that are refused, each with the advice in the error message."""

CALLED = frozenset(
    {
        "get_best_hyperparameters",
        "get_best_models",
        "on_search_begin",
        "on_search_end",
        "reload",
        "remaining_trials",
        "results_summary",
        "search",
        "search_space_summary",
    }
)
"""KerasTuner's methods that a subclass may override: they are called as KerasTuner calls them, or by the user only."""

_FIT = "give a HyperModel with a fit of its own"
_BUILD = "give a HyperModel with a build of its own"
_COMPILE = "compile the model in build, or give optimizer, loss and metrics"
_TRIAL_BEGINS = "do this in the hypermodel's build, or in the on_train_begin of a callback"
_TRIAL_ENDS = "do this in the on_train_end of a callback, or in on_search_end, where self.results has all trials"
_MODELS = "the search saves the models, and get_best_models loads them"
_STATE = "the study's journal has the search's state, so keep state of your own in on_search_end"
_SPACE = "values are drawn when build asks for them, so declare some earlier in a HyperModel's declare_hyperparameters"
_FOLDER = "directory and project_name say where files are, and search.trial_dir() is a trial's own folder"
_TENSORBOARD = "a TensorBoard callback writes into its trial's own folder"

REFUSED_METHODS: Mapping[str, str] = {
    "run_trial": _FIT,
    "_run_and_update_trial": _FIT,
    "_try_run_and_update_trial": _FIT,
    "_build_and_fit_model": _FIT,
    "_build_hypermodel": _BUILD,
    "_try_build": _BUILD,
    "_override_compile_args": _COMPILE,
    "_filter_metrics": _COMPILE,
    "pre_create_trial": _TRIAL_BEGINS,
    "on_trial_begin": _TRIAL_BEGINS,
    "on_trial_end": _TRIAL_ENDS,
    "on_epoch_begin": "give search a callback with an on_epoch_begin",
    "on_epoch_end": "give search a callback with an on_epoch_end",
    "on_batch_begin": "give search a callback with an on_train_batch_begin",
    "on_batch_end": "give search a callback with an on_train_batch_end",
    "_deepcopy_callbacks": "callbacks are copied for each trial, so give them a __deepcopy__",
    "_configure_tensorboard_dir": _TENSORBOARD,
    "_get_tensorboard_dir": _TENSORBOARD,
    "load_model": _MODELS,
    "save_model": _MODELS,
    "save": _STATE,
    "get_state": _STATE,
    "set_state": _STATE,
    "_populate_initial_space": _SPACE,
    "_activate_all_conditions": _SPACE,
    "project_dir": _FOLDER,
    "get_trial_dir": _FOLDER,
    "_get_checkpoint_fname": _FOLDER,
    "_get_build_config_fname": _FOLDER,
    "_get_tuner_fname": _FOLDER,
    "_is_worker": "trials run in worker processes, and workers=4 starts four",
}
"""KerasTuner's other methods of a tuner, each with the advice in the error message."""

_ENVIRONMENT = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")


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


def check_hooks(tuner: Any) -> None:
    """Raise OptionError if `tuner`, or a class that it is made of, overrides a method that would not be called."""
    for owner in (vars(tuner), *map(vars, type(tuner).__mro__)):
        if str(owner.get("__module__", "")).startswith("search.compat."):
            continue
        for method, advice in REFUSED_METHODS.items():
            if method in owner:
                name = type(tuner).__name__
                raise OptionError(f"{name} has its own {method}, which is not called: leave it out, {advice}")
