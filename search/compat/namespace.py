"""The modules of `search.compat.keras_tuner`: KerasTuner's, with our tuners in place of its own."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

from search.compat import original
from search.compat.base_tuner import BaseTuner
from search.compat.tuner import Tuner
from search.compat.tuner_kinds import BayesianOptimization, GridSearch, Hyperband, RandomSearch, SklearnTuner

__all__ = ["fill"]

_REPLACED: dict[Any, Any] = {
    original.base_tuner.BaseTuner: BaseTuner,
    original.tuner.Tuner: Tuner,
    original.tuners.BayesianOptimization: BayesianOptimization,
    original.tuners.GridSearch: GridSearch,
    original.tuners.Hyperband: Hyperband,
    original.tuners.RandomSearch: RandomSearch,
    original.tuners.SklearnTuner: SklearnTuner,
}

_OLD_NAMES = {
    "oracles": {
        "BayesianOptimization": "BayesianOptimizationOracle",
        "GridSearch": "GridSearchOracle",
        "Hyperband": "HyperbandOracle",
        "RandomSearch": "RandomSearchOracle",
    },
    "tuners": {"Sklearn": "SklearnTuner"},
    "tuners.sklearn": {"Sklearn": "SklearnTuner"},
    "engine.multi_execution_tuner": {"MultiExecutionTuner": "Tuner"},
}
"""Names of 2020, by module, and the present ones."""

_LEFT_OUT = ("distribute", "protos")
"""Parts of KerasTuner without a meaning here: its distributed mode, and the protobufs of that."""


def fill(package: str) -> None:
    """Make the modules of KerasTuner importable below `package`, which is imported already.

    Args:
        package: the name of the package.
    """
    root = sys.modules[package]
    root.__path__ = []
    _copy(original.keras_tuner, root)
    for name, sources in _modules().items():
        module = ModuleType(f"{package}.{name}", sources[0].__doc__)
        module.__path__ = []
        sys.modules[module.__name__] = module
        for source in sources:
            _copy(source, module)
    for name in _modules():
        parent, _, own = f"{package}.{name}".rpartition(".")
        setattr(sys.modules[parent], own, sys.modules[f"{package}.{name}"])
    for name, names in _OLD_NAMES.items():
        module = sys.modules[f"{package}.{name}"]
        for old, new in names.items():
            if not hasattr(module, old):
                setattr(module, old, getattr(module, new))


def _modules() -> dict[str, list[ModuleType]]:
    """Return KerasTuner's modules by their names in its documents, each with the modules that its content comes from.

    What a script imports may be in the private package: `keras_tuner.tuners.hyperband` is a name of older versions.
    """
    found: dict[str, list[ModuleType]] = {}
    for prefix in ("keras_tuner.src.", "keras_tuner."):
        package = importlib.import_module(prefix.rstrip("."))
        for info in pkgutil.walk_packages(package.__path__, prefix):
            name = info.name.removeprefix(prefix)
            if name.partition(".")[0] not in ("src", *_LEFT_OUT):
                found.setdefault(name, []).append(importlib.import_module(info.name))
    return {**found, "engine.multi_execution_tuner": [original.tuner], "tuners.sklearn": found["tuners.sklearn_tuner"]}


def _copy(source: ModuleType, target: ModuleType) -> None:
    """Copy the names of a module, each class of a tuner replaced by ours. KerasTuner's modules are set later."""
    for name, value in vars(source).items():
        own = isinstance(value, ModuleType) and value.__name__.partition(".")[0] == "keras_tuner"
        if not name.startswith("__") and not own:
            replaced = _REPLACED.get(value, value) if isinstance(value, type) else value
            setattr(target, name, replaced)
    target.__dict__.setdefault("__version__", original.keras_tuner.__version__)
