"""Parameters of a trial as KerasTuner's own object."""

from __future__ import annotations

from typing import Any

import keras_tuner
import pytest

from search.compat.hyperparameters import LISTED, fits_keras_tuner, to_keras_tuner
from search.space.domain import Condition, Domain, Parameter
from search.worker.hp import LazyHyperParameters
from search.worker.hyperparameters import parameter_of


def ask_everything(hp: Any) -> None:
    """Ask for a hyperparameter of each kind, with scopes and conditions."""
    hp.Int("units", 8, 64, step=8, default=16)
    hp.Int("filters", 4, 64, sampling="log")
    hp.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("drop", 0.0, 0.5, step=0.1)
    hp.Choice("size", [32, 64, 128], default=64)
    hp.Choice("norm", [True, False])
    hp.Boolean("bias", default=True)
    hp.Fixed("version", "v2")
    if hp.Choice("optimizer", ["sgd", "adam"]) == "sgd":
        hp.Fixed("reached", 1)
    with hp.conditional_scope("optimizer", ["sgd"]):
        hp.Float("momentum", 0.0, 0.9)
    with hp.conditional_scope("optimizer", ["adam"]), hp.name_scope("adam"):
        hp.Float("beta", 0.5, 0.9)


@pytest.fixture
def asked() -> LazyHyperParameters:
    hp = LazyHyperParameters()
    ask_everything(hp)
    return hp


def test_the_space_and_its_values_come_back(asked: LazyHyperParameters) -> None:
    parameters = [parameter_of(each) for each in asked.space]
    hp = to_keras_tuner(parameters, asked.values)
    assert type(hp) is keras_tuner.HyperParameters
    assert [parameter_of(each) for each in hp.space] == parameters
    assert hp.values == asked.values
    assert [hp.is_active(name) for name in ("momentum", "adam/beta", "units")] == [True, False, True]
    with pytest.raises(ValueError, match="inactive"):
        hp.get("adam/beta")


def test_keras_tuner_copies_samples_and_reads_it(asked: LazyHyperParameters) -> None:
    hp = to_keras_tuner(asked.parameters, asked.used_values)
    again = keras_tuner.HyperParameters.from_config(hp.get_config())
    assert again.get_config() == hp.copy().get_config() == hp.get_config()
    for each in again.space:
        value = each.random_sample(seed=3)
        assert parameter_of(each).domain.contains(value)


def test_a_build_with_it_gives_the_same_values(asked: LazyHyperParameters) -> None:
    hp = to_keras_tuner(asked.parameters, {**asked.used_values, "units": 40, "rate": 0.05})
    assert hp.Int("units", 8, 64, step=8) == 40
    assert hp.Float("rate", 1e-4, 1e-1, sampling="log") == 0.05


def test_a_value_that_is_missing_is_the_default() -> None:
    parameters = [
        Parameter("kind", Domain("choice", values=("a", "b")), "a"),
        Parameter("depth", Domain("int", 1, 9), 4),
        Parameter("width", Domain("int", 1, 9), 4, (Condition("kind", ("b",)),)),
    ]
    assert to_keras_tuner(parameters, {"kind": "a"}).values == {"kind": "a", "depth": 4}
    assert to_keras_tuner(parameters, {"kind": "b", "width": 9}).values == {"kind": "b", "width": 9, "depth": 4}


def test_the_last_range_of_a_parameter_counts() -> None:
    narrow, wide = Parameter("n", Domain("int", 0, 3), 0), Parameter("n", Domain("int", 0, 9), 0)
    (hyperparameter,) = to_keras_tuner([narrow, wide], {"n": 7}).space
    assert hyperparameter.max_value == 9


def test_values_that_keras_tuner_has_no_hyperparameter_for_stay() -> None:
    parameters = [
        Parameter("nothing", Domain("fixed", values=(None,)), None),
        Parameter("regularizer", Domain("choice", values=(None, "l1")), None),
        Parameter("strength", Domain("int", 1, 9), 1, (Condition("regularizer", (None,)),)),
    ]
    values = {"nothing": None, "regularizer": None, "strength": 3, "tuner/epochs": 3}
    hp = to_keras_tuner(parameters, values)
    assert (hp.space, hp.values) == ([], values)
    assert hp.copy().values == values


def test_a_kind_of_another_package_is_a_choice_if_its_values_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.compat.hyperparameters._ARGUMENTS", {})
    few, many = (Parameter("n", Domain("int", 1, high), 2) for high in (3, LISTED + 1))
    (choice,) = to_keras_tuner([few], {"n": 3}).space
    assert (choice.values, choice.default) == ([1, 2, 3], 2)
    assert [fits_keras_tuner(each) for each in (few, many)] == [True, False]
    assert to_keras_tuner([many], {"n": 7}).values == {"n": 7}


def test_it_seeds_an_oracle(asked: LazyHyperParameters) -> None:
    hp = to_keras_tuner(asked.parameters, asked.used_values)
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", hyperparameters=hp, seed=1)
    values = oracle.populate_space("0")["values"]
    active = {each.name for each in hp.space if each.name != "momentum"}
    assert active <= values.keys()
