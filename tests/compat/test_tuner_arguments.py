"""The arguments of KerasTuner's tuners: each becomes an option of a search, or is refused in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import search as kt
from search.compat.keras_tuner import Tuner
from search.errors import OptionError, SpaceError, StudyError

X, Y = np.zeros((120, 4)), np.zeros(120)


def build_model(hp: kt.HyperParameters) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 4, 16, step=4))])
    model.compile("sgd", "mse")
    return model


ALL = {
    "study": "untitled_project",
    "runs": "runs",
    "max_consecutive_failed_trials": 3,
    "executions_per_trial": 1,
    "keep_models": 10,
}
RANDOM = {**ALL, "backend": "optuna", "sampler": "random", "pruner": "none"}


@pytest.mark.parametrize(
    ("cls", "arguments", "options"),
    [
        (kt.Hyperband, {}, {**ALL, "backend": "hyperband", "max_epochs": 100, "factor": 3, "iterations": 1}),
        (
            kt.Hyperband,
            {"objective": "val_loss", "max_epochs": 9, "factor": 2, "hyperband_iterations": 2, "max_trials": 7},
            {
                **ALL,
                "backend": "hyperband",
                "objective": "val_loss",
                "max_epochs": 9,
                "factor": 2,
                "iterations": 2,
                "max_trials": 7,
            },
        ),
        (kt.RandomSearch, {}, {**RANDOM, "max_trials": 10}),
        (
            kt.RandomSearch,
            {"objective": kt.Objective("f1", "max"), "seed": 0, "max_retries_per_trial": 2, "workers": 3},
            {
                **RANDOM,
                "objective": "f1",
                "direction": "max",
                "seed": 0,
                "retries": 2,
                "max_retries_per_trial": 2,
                "workers": 3,
                "max_trials": 10,
            },
        ),
        (
            kt.RandomSearch,
            {
                "directory": Path("my_dir"),
                "project_name": "mine",
                "executions_per_trial": 2,
                "max_consecutive_failed_trials": 8,
                "tuner_id": None,
            },
            {
                **RANDOM,
                "runs": "my_dir",
                "study": "mine",
                "executions_per_trial": 2,
                "max_consecutive_failed_trials": 8,
                "max_trials": 10,
            },
        ),
        (kt.BayesianOptimization, {"max_trials": 3}, {**RANDOM, "sampler": "tpe", "max_trials": 3}),
        (
            kt.BayesianOptimization,
            {"num_initial_points": 4},
            {**RANDOM, "sampler": "tpe:n_startup_trials=4", "max_trials": 10},
        ),
        (
            kt.RandomSearch,
            {"max_consecutive_failed_trials": None},
            {**RANDOM, "max_consecutive_failed_trials": 2**31 - 1, "max_trials": 10},
        ),
        (kt.BayesianOptimization, {"sampler": "gp"}, {**RANDOM, "sampler": "gp", "max_trials": 10}),
        (kt.GridSearch, {}, {**RANDOM, "sampler": "grid", "max_trials": 100_000}),
        (kt.GridSearch, {"max_trials": 5}, {**RANDOM, "sampler": "grid", "max_trials": 5}),
    ],
)
def test_arguments_become_options(cls: type[Tuner], arguments: dict[str, Any], options: dict[str, Any]) -> None:
    assert cls(build_model, **arguments)._search_options() == options


@pytest.mark.core
@pytest.mark.parametrize("name", ["Hyperband", "RandomSearch", "BayesianOptimization", "GridSearch"])
def test_positional_arguments_have_kerastuners_order(name: str) -> None:
    cls, theirs = getattr(kt, name), inspect.signature(getattr(keras_tuner, name)).parameters
    assert cls is getattr(kt.tuners, name)
    assert issubclass(cls, getattr(keras_tuner, name))
    values = {"hypermodel": build_model, "objective": "val_loss", "max_epochs": 8, "factor": 2, "seed": 3}
    numbers = {"max_trials": 7, "hyperband_iterations": 2, "num_initial_points": 2, "alpha": 1e-4, "beta": 2.6}
    given = {name: (values | numbers)[name] for name in list(theirs)[: list(theirs).index("seed") + 1]}
    assert cls(*given.values())._search_options() == cls(**given)._search_options()
    assert cls(*given.values())._search_options()["seed"] == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kt.RandomSearch(), OptionError, "^Received `hypermodel=None`: give a function of hp"),
        (lambda: kt.RandomSearch(3), ValueError, "callable with signature `build"),
        (lambda: kt.RandomSearch(build_model, max_trial=3), OptionError, "max_trial of .* Did you mean 'max_trials'"),
        (
            lambda: kt.RandomSearch(build_model, max_epochs=3),
            OptionError,
            "^Unrecognized arguments max_epochs of Random",
        ),
        (lambda: kt.RandomSearch(build_model, max_model_size=0), OptionError, "^max_model_size is 0: it must be at"),
        (lambda: kt.RandomSearch(build_model, executions_per_trial=0), OptionError, "^executions_per_trial is 0"),
        (lambda: kt.RandomSearch(build_model, 3), TypeError, "`objective` not understood"),
        (lambda: kt.RandomSearch(build_model, max_trials=0), OptionError, "^max_trials is 0: it must be at least 1"),
        (lambda: kt.RandomSearch(build_model, max_retries_per_trial=-1), OptionError, "^max_retries_per_trial is -1"),
        (lambda: kt.RandomSearch(build_model, max_consecutive_failed_trials=0), OptionError, "^max_consecutive_fail"),
        (lambda: kt.RandomSearch(build_model, project_name="a/b"), OptionError, "give project_name a name"),
        (lambda: kt.RandomSearch(build_model, hyperparameters={"units": 3}), OptionError, "give a HyperParameters"),
        (lambda: kt.Hyperband(build_model, hyperband_iterations=None), OptionError, "has no end"),
        (lambda: kt.Hyperband(build_model, factor=1), ValueError, "larger than 1"),
        (lambda: kt.RandomSearch(build_model).search(None, Y), OptionError, "given no data"),
        (lambda: kt.RandomSearch(build_model).search(X, Y, epoch=3), OptionError, "Did you mean 'epochs'"),
        (lambda: kt.RandomSearch(build_model).search(X, x=X), OptionError, "given x twice"),
        (lambda: kt.RandomSearch(build_model).search(*range(9)), OptionError, "8 positional arguments"),
        (lambda: kt.RandomSearch(build_model).search(iter([]), validation_split=0.2), OptionError, "give validation_"),
        (lambda: kt.RandomSearch(build_model).search(X, Y, validation_split=0.999), OptionError, "leaves nothing"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert error is not OptionError or isinstance(raised.value, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_alpha_and_beta_are_without_an_effect_and_say_so() -> None:
    with pytest.warns(UserWarning, match='^alpha and beta have no effect: .*sampler="gp"'):
        kt.BayesianOptimization(build_model, beta=1.0)


def test_a_strategy_gives_each_trial_as_many_gpus() -> None:
    import tensorflow as tf

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    assert "gpus_per_trial" not in kt.RandomSearch(build_model, distribution_strategy=strategy)._search_options()
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert kt.RandomSearch(build_model, distribution_strategy=strategy)._search_options()["gpus_per_trial"] == 2


def test_data_that_cannot_be_pickled_are_called_by_the_tuners_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.driver.launch.why_unsafe", lambda *_: "only Linux can fork this one")
    with pytest.raises(SpaceError, match=r"^validation_data cannot be sent to a worker \(TypeError: .*generator"):
        kt.RandomSearch(build_model, "val_loss", executor="local").search(X, Y, validation_data=(row for row in X))


def test_before_the_search_there_are_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"no study 'mine'.*given with directory"):
        kt.RandomSearch(build_model, project_name="mine").get_best_models()
    with pytest.raises(StudyError, match="to be overwritten"):
        _ = kt.RandomSearch(build_model, overwrite=True).results
    assert kt.RandomSearch(build_model).get_best_hyperparameters() == []
    kt.RandomSearch(build_model, "val_loss").results_summary(3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["Showing 3 best trials", 'Objective(name="val_loss", direction="min")']
    assert list(tmp_path.iterdir()) == []
