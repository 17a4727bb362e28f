"""The real KerasTuner, imported before `search.compat` may take its name in `sys.modules`."""

from __future__ import annotations

import keras_tuner
from keras_tuner import applications, engine, errors, oracles, tuners
from keras_tuner.src.engine import base_tuner, hypermodel, objective, oracle, trial, tuner, tuner_utils
from keras_tuner.src.engine import hyperparameters as hyperparameters
from keras_tuner.src.engine import metrics_tracking as metrics_tracking

__all__ = [
    "applications",
    "base_tuner",
    "engine",
    "errors",
    "hypermodel",
    "hyperparameters",
    "is_original",
    "keras_tuner",
    "metrics_tracking",
    "objective",
    "oracle",
    "oracles",
    "trial",
    "tuner",
    "tuner_utils",
    "tuners",
]


def is_original(cls: type) -> bool:
    """Return whether a class is one of KerasTuner's own."""
    return cls.__module__.partition(".")[0] == "keras_tuner"
