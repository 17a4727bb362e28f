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

    from search import tuners as tuners
    from search.compiling import compiled as compiled
    from search.errors import SearchError as SearchError
    from search.python import run as run
    from search.results import StudyResults as StudyResults
    from search.results import get_best_models as get_best_models
    from search.results import load_study as load_study
    from search.tuners import BayesianOptimization as BayesianOptimization
    from search.tuners import GridSearch as GridSearch
    from search.tuners import Hyperband as Hyperband
    from search.tuners import RandomSearch as RandomSearch
    from search.worker.training import trial_dir as trial_dir

# Looked up when they are used: `import search` costs nothing, and only what trains imports Keras.
_EXPORTS = {
    "BayesianOptimization": "search.tuners",
    "GridSearch": "search.tuners",
    "HyperModel": "keras_tuner",
    "HyperParameters": "keras_tuner",
    "Hyperband": "search.tuners",
    "Objective": "keras_tuner",
    "RandomSearch": "search.tuners",
    "SearchError": "search.errors",
    "StudyResults": "search.results",
    "compiled": "search.compiling",
    "get_best_models": "search.results",
    "load_study": "search.results",
    "run": "search.python",
    "trial_dir": "search.worker.training",
    "tuners": "search.tuners",
}

__all__ = [
    "BayesianOptimization",
    "GridSearch",
    "HyperModel",
    "HyperParameters",
    "Hyperband",
    "Objective",
    "RandomSearch",
    "SearchError",
    "StudyResults",
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

    module = importlib.import_module(_EXPORTS[name])
    return module if name == "tuners" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
