"""Hyperparameter search for Keras.

import search

study = search.run("space.py", backend="optuna", max_epochs=27)
study = search.load_study("space")
model, = study.get_best_models(1)
models = search.get_best_models("space", 2, tracking_uri="sqlite:///runs/mlflow.db")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_tuner import HyperModel as HyperModel
    from keras_tuner import HyperParameters as HyperParameters
    from keras_tuner import Objective as Objective

    from search.api import run as run
    from search.backends.base import BackEnd as BackEnd
    from search.compat import keras_tuner as tuners
    from search.compat.keras_tuner import BayesianOptimization as BayesianOptimization
    from search.compat.keras_tuner import GridSearch as GridSearch
    from search.compat.keras_tuner import Hyperband as Hyperband
    from search.compat.keras_tuner import RandomSearch as RandomSearch
    from search.errors import FallsShort as FallsShort
    from search.errors import Infeasible as Infeasible
    from search.errors import SearchError as SearchError
    from search.errors import Unfinished as Unfinished
    from search.executors.base import Executor as Executor
    from search.results.study_results import StudyResults as StudyResults
    from search.results.study_results import get_best_models as get_best_models
    from search.results.study_results import load_study as load_study
    from search.scheduler.stopping import StopRule as StopRule
    from search.space.compiled import compiled as compiled
    from search.tracking.followers import Follower as Follower
    from search.worker.user_code import trial_dir as trial_dir

# Each name is imported on first use: `import search` costs nothing, and only training imports Keras.
_EXPORTS = {
    "BackEnd": "search.backends.base",
    "BayesianOptimization": "search.compat.keras_tuner",
    "Executor": "search.executors.base",
    "FallsShort": "search.errors",
    "Follower": "search.tracking.followers",
    "GridSearch": "search.compat.keras_tuner",
    "HyperModel": "keras_tuner",
    "HyperParameters": "keras_tuner",
    "Hyperband": "search.compat.keras_tuner",
    "Infeasible": "search.errors",
    "Objective": "keras_tuner",
    "RandomSearch": "search.compat.keras_tuner",
    "SearchError": "search.errors",
    "StopRule": "search.scheduler.stopping",
    "StudyResults": "search.results.study_results",
    "Unfinished": "search.errors",
    "compiled": "search.space.compiled",
    "get_best_models": "search.results.study_results",
    "load_study": "search.results.study_results",
    "run": "search.api",
    "trial_dir": "search.worker.user_code",
    "tuners": "search.compat.keras_tuner",
}

__all__ = [
    "BackEnd",
    "BayesianOptimization",
    "Executor",
    "FallsShort",
    "Follower",
    "GridSearch",
    "HyperModel",
    "HyperParameters",
    "Hyperband",
    "Infeasible",
    "Objective",
    "RandomSearch",
    "SearchError",
    "StopRule",
    "StudyResults",
    "Unfinished",
    "__version__",
    "compiled",
    "get_best_models",
    "load_study",
    "run",
    "trial_dir",
    "tuners",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(_EXPORTS[name])
    except (ImportError, AttributeError) as error:
        from search.platforms import UNSUPPORTED, is_unsupported

        if not is_unsupported():
            raise
        raise ImportError(UNSUPPORTED) from error
    return module if name == "tuners" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
