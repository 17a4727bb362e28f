"""Optuna's internals: a search without any one of them gives the same values, and one line says what is off."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
from types import ModuleType
from typing import Any

import optuna
import pytest

import search.backends.optuna as back_end
from search.backends import lazy_sampler, optuna_internals
from search.backends.optuna import Optuna
from search.scheduler.limits import Limits
from search.testing import Scenario, Simulation


def ask(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)
    hp.Int("units", 8, 64, step=8)
    if hp.Choice("kind", ["a", "b"]) == "b":
        hp.Float("rate", 1e-4, 1e-1, sampling="log")


def loss(params: Any, epoch: int) -> float:
    return params["x"] + abs(params["units"] - 24) / 64 + 1 / epoch


def search() -> Simulation:
    return Simulation(
        Scenario(ask, loss),
        lambda study: Optuna(study.objective, study.seed, max_epochs=9, parameters=study.parameters),
        limits=Limits(max_trials=25),
        max_epochs=9,
        slots=3,
    ).run()


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """Return the trials of a search that has all internals."""
    found = search().history()
    assert optuna_internals.capabilities_off() == ()
    return found


def reloaded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the island as a new process would import it, and let the back end use it."""
    spec = importlib.util.find_spec(optuna_internals.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(lazy_sampler, "optuna_internals", module)
    monkeypatch.setitem(back_end.PRUNERS, "hyperband", module.hyperband_pruner)
    return module


def rename(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a private name of Optuna's another one, as a release might, and publish the classes with it."""
    original = importlib.import_module(module)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin) as file:
        source, count = re.subn(rf"\b{name}\b", f"{name}_of_another_release", file.read())
    assert count
    changed = ModuleType(module)
    exec(compile(source, spec.origin, "exec"), changed.__dict__)
    for public in (optuna, optuna.pruners, optuna.samplers, optuna.storages):
        for known, value in list(vars(public).items()):
            if getattr(value, "__module__", None) == module and getattr(original, known, None) is value:
                monkeypatch.setattr(public, known, getattr(changed, known))


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in optuna_internals.PRIVATE_NAMES.items() for name in names]
)
def test_a_search_without_a_private_name_has_the_same_values(
    module: str, name: str, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(module, name, monkeypatch)
    island = reloaded(monkeypatch)
    assert search().history() == expected
    (line,) = island.capabilities_off()
    assert line.startswith(f"Optuna {optuna.__version__}: the pruner hyperband")


def test_a_search_whose_storage_returns_copies_has_the_same_values(
    expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = optuna.storages.InMemoryStorage.get_trial
    monkeypatch.setattr(optuna.storages.InMemoryStorage, "get_trial", lambda *arguments: copy.deepcopy(own(*arguments)))
    island = reloaded(monkeypatch)
    assert search().history() == expected
    (line,) = island.capabilities_off()
    assert "each value of a trial is set in a copy" in line


def test_an_automatic_resource_is_optunas_own_affair() -> None:
    pruner = optuna_internals.hyperband_pruner(max_resource="auto")
    assert type(pruner) is optuna.pruners.HyperbandPruner
