"""KerasTuner's namespace over `search`: `import search.compat.keras_tuner as keras_tuner` serves a script for it.

All modules of KerasTuner are here by their names, such as `search.compat.keras_tuner.tuners` and
`search.compat.keras_tuner.engine.trial`. Their content is KerasTuner's own, except for the tuners.
"""

from __future__ import annotations

from search.compat.namespace import fill
from search.compat.tuner import Tuner
from search.compat.tuner_kinds import BayesianOptimization, GridSearch, Hyperband, RandomSearch, SklearnTuner
from search.executors.early_fork import fork_early

__all__ = ["BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch", "SklearnTuner", "Tuner"]

fill(__name__)
fork_early(__name__)
