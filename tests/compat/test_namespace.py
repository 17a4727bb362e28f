"""The namespace `search.compat.keras_tuner`: every name that a script for KerasTuner imports, with our tuners in it."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

import keras_tuner
import pytest

import search
import search.compat.keras_tuner as ours
from search.compat.base_tuner import BaseTuner

MODULES = [
    info.name.removeprefix("keras_tuner.")
    for info in pkgutil.walk_packages(keras_tuner.__path__, "keras_tuner.")
    if info.name.split(".")[1] not in ("src", "distribute", "protos")
]
"""KerasTuner's public modules, without its own name."""

TUNERS = {"BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch", "SklearnTuner", "Tuner", "BaseTuner"}


def public_names(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def is_tuner(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras_tuner.engine.base_tuner.BaseTuner)


def test_kerastuners_modules_are_found() -> None:
    assert {"tuners", "oracles", "errors", "applications", "engine.trial", "engine.hyperparameters"} <= set(MODULES)


@pytest.mark.parametrize("name", ["", *MODULES])
def test_each_public_name_is_here_and_only_tuners_are_ours(name: str) -> None:
    theirs = importlib.import_module(f"keras_tuner.{name}".rstrip("."))
    module = importlib.import_module(f"search.compat.keras_tuner.{name}".rstrip("."))
    assert public_names(theirs)
    for key, value in public_names(theirs).items():
        if not name and key in ("src", "distribute", "protos"):
            continue
        found = getattr(module, key)
        if isinstance(value, ModuleType) and value.__name__.startswith("keras_tuner"):
            assert found.__name__.startswith("search.compat.keras_tuner")
        elif is_tuner(value):
            assert issubclass(found, BaseTuner)
            assert issubclass(found, value)
            assert found.__name__ == value.__name__
        else:
            assert found is value, key


def test_no_tuner_in_any_module_is_kerastuners() -> None:
    modules = {name: module for name, module in sys.modules.items() if name.startswith(f"{ours.__name__}.")}
    assert len(modules) > len(MODULES), "those of the private package are there, too"
    found = {value for module in modules.values() for value in vars(module).values() if is_tuner(value)}
    assert {cls.__name__ for cls in found} == TUNERS
    assert [cls for cls in found if not issubclass(cls, BaseTuner)] == []


def test_the_tuners_of_search_and_its_alias_are_the_same() -> None:
    for name in ("BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch"):
        assert getattr(search, name) is getattr(ours, name) is getattr(ours.tuners, name)
    assert search.tuners is ours
    assert importlib.import_module("search.tuners") is ours
    assert search.HyperModel is ours.HyperModel is keras_tuner.HyperModel


@pytest.mark.parametrize(
    "line",
    [
        "from search.compat.keras_tuner.tuners import RandomSearch, Sklearn",
        "from search.compat.keras_tuner.tuners.hyperband import Hyperband, HyperbandOracle",
        "from search.compat.keras_tuner.tuners.sklearn import Sklearn",
        "from search.compat.keras_tuner.tuners.sklearn_tuner import SklearnTuner",
        "from search.compat.keras_tuner.oracles import BayesianOptimization, GridSearch, Hyperband, RandomSearch",
        "from search.compat.keras_tuner.engine.hyperparameters import HyperParameters, Choice, Int",
        "from search.compat.keras_tuner.engine.hypermodel import HyperModel",
        "from search.compat.keras_tuner.engine.multi_execution_tuner import MultiExecutionTuner",
        "from search.compat.keras_tuner.engine.tuner import Tuner",
        "from search.compat.keras_tuner.engine import base_tuner, oracle, trial, tuner_utils",
        "from search.compat.keras_tuner.applications import HyperResNet, HyperXception, HyperEfficientNet",
        "from search.compat.keras_tuner.errors import FailedTrialError, FatalError",
        "from search.compat.keras_tuner import Objective, Oracle, synchronized",
    ],
)
def test_imports_of_scripts_of_any_year(line: str) -> None:
    exec(line, {})


def test_names_of_2020_mean_the_present_ones() -> None:
    assert ours.oracles.Hyperband is keras_tuner.oracles.HyperbandOracle
    assert ours.tuners.Sklearn is ours.SklearnTuner
    module = importlib.import_module("search.compat.keras_tuner.engine.multi_execution_tuner")
    assert module.MultiExecutionTuner is ours.Tuner


@pytest.mark.parametrize("name", ["distribute", "protos", "distribute.oracle_chief"])
def test_parts_of_the_distributed_mode_are_left_out(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"search.compat.keras_tuner.{name}")
