"""Methods that a subclass overrides are called as KerasTuner calls them, or refused by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras_tuner
import pytest

import search as kt
from search.compat.keras_tuner import SklearnTuner, Tuner
from search.compat.refusals import (
    CALLED,
    HOOKS_OF_TRAINING,
    HOOKS_OF_TRIALS,
    REFUSED_METHODS,
    RUNS_A_TRIAL,
    own_methods,
)
from search.errors import OptionError
from search.space.file import hypermodel_parts
from search.worker.hp import LazyHyperParameters

GROUPS = (CALLED, HOOKS_OF_TRAINING, HOOKS_OF_TRIALS, RUNS_A_TRIAL, REFUSED_METHODS.keys())


def build_model(hp: Any) -> Any:
    return hp.Int("units", 1, 9)


def subclass(name: str, base: type = kt.RandomSearch) -> type:
    return type("Mine", (base,), {name: lambda *arguments: None})


def test_each_method_of_kerastuners_tuners_has_one_place_where_it_is_called_or_is_refused() -> None:
    names = ("Hyperband", "RandomSearch", "BayesianOptimization", "GridSearch", "SklearnTuner", "Tuner")
    methods = {
        name
        for tuner in names
        for name, _ in inspect.getmembers(
            getattr(keras_tuner, tuner), lambda member: inspect.isfunction(member) or isinstance(member, property)
        )
        if not name.startswith("__")
    }
    assert "_build_and_fit_model" in methods
    assert methods == set().union(*GROUPS)
    assert sum(map(len, GROUPS)) == len(methods)


@pytest.mark.parametrize("name", REFUSED_METHODS)
def test_an_override_that_would_not_be_called_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"^Mine has its own {name}, which is not called: leave it out, ") as raised:
        subclass(name)(build_model)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_an_override_is_found_wherever_it_comes_from() -> None:
    class Mixin:
        def get_state(self) -> dict[str, Any]:
            return {}

    class Mixed(Mixin, kt.Hyperband):
        pass

    with pytest.raises(OptionError, match="Derived has its own save"):
        type("Derived", (subclass("save"),), {})(build_model)
    with pytest.raises(OptionError, match="Mixed has its own get_state"):
        Mixed(build_model, "val_loss")
    tuner = kt.RandomSearch(build_model)
    tuner.save = print
    with pytest.raises(OptionError, match="RandomSearch has its own save"):
        tuner.search([1])


def test_other_methods_are_the_users_own() -> None:
    for group in GROUPS[:-1]:
        for name in sorted(group):
            assert name in own_methods(subclass(name)(build_model))
    for name in ("helper", "_filter", "on_search_paused"):
        subclass(name)(build_model)


def test_the_methods_of_kerastuner_and_ours_are_not_the_users() -> None:
    known = set().union(*GROUPS)
    tuner = kt.Hyperband(build_model)
    assert own_methods(tuner) & known == set()
    tuner.on_epoch_begin = print
    assert own_methods(tuner) & known == {"on_epoch_begin"}
    estimators = SklearnTuner(keras_tuner.oracles.RandomSearchOracle(kt.Objective("score", "max")), build_model)
    assert own_methods(estimators) & known == set()


@pytest.mark.parametrize(
    ("own", "runs"),
    [(None, False), ("run_trial", True), ("on_epoch_end", True), ("_build_hypermodel", True), ("on_trial_end", False)],
)
def test_only_a_tuner_with_code_of_its_own_for_a_trial_runs_it(own: str | None, runs: bool) -> None:
    tuner = kt.RandomSearch(build_model) if own is None else subclass(own)(build_model)
    assert tuner._runs_trials() is runs


def test_the_hooks_of_a_search_are_called_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    class Told(kt.RandomSearch):
        def on_search_begin(self) -> None:
            super().on_search_begin()
            told.append("begin")

        def on_search_end(self) -> None:
            super().on_search_end()
            told.append(f"end {self.results}")

    monkeypatch.setattr("search.compat.base_tuner.run", lambda *_, **__: told.append("run") or "results")
    Told(build_model).search([1])
    assert told == ["begin", "run", "end results"]
    told.clear()
    with pytest.raises(OptionError):
        Told(build_model).search([1], epoch=3)
    assert told == []

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.compat.base_tuner.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Told(build_model).search([1])
    assert told == ["begin"]


@pytest.mark.parametrize("variable", ["KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"])
def test_the_environment_of_a_distributed_search_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "chief")
    with pytest.raises(OptionError, match=rf"{variable}, .* unset it, .* workers=4") as raised:
        kt.RandomSearch(build_model)
    assert "\n" not in str(raised.value)


# Hypermodels ----------------------------------------------------------------------------------------------------------


class Declared(kt.HyperModel):
    """A hypermodel that declares one of its parameters, and reads it by name."""

    def declare_hyperparameters(self, hp: Any) -> None:
        hp.Int("units", 1, 9)

    def build(self, hp: Any) -> Any:
        return hp["units"], hp.Int("layers", 1, 5)


def answers(hypermodel: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model of a hypermodel and the domains that it asks for, each answered by its largest value."""
    hp = LazyHyperParameters(lambda parameter: parameter.domain.at(0.999))
    model = hypermodel_parts(hypermodel)["build_model"](hp)
    return model, {parameter.name: str(parameter.domain) for parameter in hp.parameters}


def test_hyperparameters_are_declared_before_the_build() -> None:
    assert answers(Declared()) == ((9, 5), {"units": "Int(1..9)", "layers": "Int(1..5)"})
    assert answers(Declared(tunable=False)) == ((9, 1), {"units": "Int(1..9)"})


def test_given_hyperparameters_replace_declared_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for tunable, layers in ((True, True), (False, False)):
        hp = kt.HyperParameters()
        hp.Fixed("units", 77)
        tuner: Tuner = kt.RandomSearch(Declared(tunable=tunable), hyperparameters=hp)
        assert answers(tuner._declared_factory())[0][0] == 77
        tuner.search_space_summary()
        printed = capsys.readouterr().out
        assert "units (Fixed)\n{'conditions': [], 'value': 77}\n" in printed
        assert ("layers (Int)\n" in printed) is layers


def test_a_fit_is_the_users_own_wherever_it_is_defined() -> None:
    def fit(hp: Any, model: Any, *args: Any, **kwargs: Any) -> float:
        return 1.0

    assigned = Declared()
    assert "fit" not in hypermodel_parts(assigned)
    assigned.fit = fit
    assert hypermodel_parts(assigned)["fit"] is fit
    fit.__module__ = "keras_tuner_models"
    assert hypermodel_parts(assigned)["fit"] is fit, "a module of the user's"
