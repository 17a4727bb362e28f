"""Searches by tuners whose models or estimators take arguments of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from sklearn import linear_model, metrics, model_selection

import search.compat.keras_tuner as kt
from search.errors import SpaceError

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")


def build_model(hp: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 64)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


# A fit of one's own ---------------------------------------------------------------------------------------------------


class Sums(kt.HyperModel):
    """A hypermodel whose `fit` takes anything, and returns metrics of names with a known direction."""

    def build(self, hp: Any) -> Any:
        return build_model(hp)

    def fit(self, hp: Any, model: Any, *args: Any, table: Any = None, callbacks: Any = None, **kwargs: Any) -> Any:
        assert args in ((), ("first", ["second"]))
        assert (table is None) is (args == ())
        return {"val_loss": float(hp.get("units")), "val_accuracy": 0.5}


@pytest.mark.parametrize("given", [False, True], ids=["none", "any"])
def test_search_takes_the_arguments_of_a_fit_or_none(folder: Path, given: bool) -> None:
    """`val_loss` needs no direction."""
    tuner = kt.RandomSearch(Sums(), "val_loss", max_trials=3, project_name=f"sums-{given}", seed=1, workers=1)
    args, kwargs = (("first", ["second"]), {"table": {"a": 1}}) if given else ((), {})
    tuner.search(*args, **kwargs, verbose=0)
    units = [trial.hyperparameters.get("units") for trial in tuner.oracle.trials.values()]
    best = tuner.oracle.get_best_trials()[0]
    assert (len(units), best.score) == (3, min(units))
    assert best.metrics.get_best_value("val_accuracy") == 0.5


def test_a_fit_that_returns_nothing_useful_is_kerastuners_error(folder: Path) -> None:
    class Silent(Sums):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return {"other": 1.0}

    tuner = kt.RandomSearch(Silent(), "val_loss", max_trials=3, project_name="silent")
    with pytest.raises(SpaceError, match=r"HyperModel.fit\(\) to have the specified objective, val_loss") as raised:
        tuner.search(X, Y, verbose=0)
    assert isinstance(raised.value, kt.errors.FatalValueError)


def test_a_model_without_data_is_told_so(folder: Path) -> None:
    with pytest.raises(SpaceError, match=r"model\.fit was given no data: pass x and y, or a dataset, on to it$"):
        kt.RandomSearch(build_model, "val_loss", project_name="no-data").search(verbose=0)


@pytest.mark.slow
def test_two_generators_train_and_validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This process has a runtime of the framework, so that no worker can inherit them: the trials are trained here."""

    def batches() -> Any:
        while True:
            yield X[:8], Y[:8].astype("float32")

    tuner = kt.RandomSearch(build_model, "val_loss", max_trials=1, project_name="generators", seed=1)
    tuner.search(batches(), steps_per_epoch=3, validation_data=batches(), validation_steps=2, verbose=0)
    assert "x (a generator), validation_data (a generator) cannot be sent to worker proc" in capsys.readouterr().err
    assert len(tuner.oracle.get_best_trials()) == 1


def test_several_objectives_are_one_sum(folder: Path) -> None:
    objectives = [kt.Objective("val_loss", "min"), kt.Objective("loss", "max")]
    tuner = kt.RandomSearch(build_model, objectives, max_trials=2, project_name="several", seed=1, workers=1)
    tuner.search(X, Y, validation_split=0.2, epochs=2, verbose=0)
    for trial in tuner.oracle.get_best_trials(2):
        assert trial.score == pytest.approx(
            trial.metrics.get_best_value("val_loss") - trial.metrics.get_best_value("loss"), rel=1e-5
        )
    assert tuner.oracle.get_best_trials(2)[0].score <= tuner.oracle.get_best_trials(2)[1].score


# Estimators -----------------------------------------------------------------------------------------------------------


def build_ridge(hp: Any) -> Any:
    return linear_model.RidgeClassifier(alpha=hp.Float("alpha", 1e-3, 1e3, sampling="log"))


def oracle() -> Any:
    return kt.oracles.RandomSearchOracle(kt.Objective("score", "max"), max_trials=2, seed=1)


def test_estimators_are_compared_by_kerastuners_cross_validation(folder: Path) -> None:
    settings = {
        "scoring": metrics.make_scorer(metrics.accuracy_score),
        "metrics": [metrics.mean_squared_error],
        "cv": model_selection.GroupKFold(3),
    }
    given = {"sample_weight": np.linspace(0.1, 1.0, 60), "groups": np.arange(60) % 6}
    tuner = kt.SklearnTuner(oracle(), build_ridge, project_name="ridges", **settings)
    tuner.search(X, Y, **given)
    best, other = tuner.oracle.get_best_trials(2)
    assert best.score >= other.score
    theirs = keras_tuner.SklearnTuner(oracle(), build_ridge, directory="theirs", **settings)
    for trial in (best, other):
        results = theirs.run_trial(trial, X, Y, **given)
        assert {name: trial.metrics.get_best_value(name) for name in results} == pytest.approx(results)
        assert trial.score == results["score"]
    (model,) = tuner.get_best_models()
    assert isinstance(model, linear_model.RidgeClassifier)
    assert model.alpha == best.hyperparameters.get("alpha")
    assert model.predict(X).shape == (60,)


def test_estimators_need_no_more_than_x_and_y(folder: Path) -> None:
    """Five shuffled folds and the estimator's own score are the defaults."""
    tuner = kt.SklearnTuner(oracle(), build_ridge, project_name="defaults")
    tuner.search(X, Y)
    assert tuner.cv.get_n_splits() == 5
    assert 0.5 < tuner.oracle.get_best_trials()[0].score <= 1.0
