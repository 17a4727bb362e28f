"""KerasTuner's errors, retries and own values, in searches by a tuner that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import search as kt
from search.errors import SearchError, SpaceError
from search.study import journal
from search.study.records import SegmentEnded

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X.sum(axis=1)


def model_of(units: int) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def first_time(name: str) -> bool:
    """Return whether the running trial calls this for the first time with `name`."""
    path = kt.trial_dir() / name
    known = path.exists()
    path.touch()
    return not known


class Capricious(kt.HyperModel):
    """A hypermodel that rejects its default values, sets a value itself, and raises the first time in some trials."""

    def build(self, hp: Any) -> Any:
        units = hp.Choice("units", [1, 2, 3, 4])
        if units == 1:
            raise keras_tuner.errors.FailedTrialError("too small")
        hp.values["half"] = units // 2
        hp.values["rate"] = 0.5
        rate = hp.Float("rate", 0.0, 0.1)
        if units == 3 and first_time("built"):
            raise OSError("no route to the data")
        assert rate == 0.5
        return model_of(units)


def outcomes(tuner: Any, params: dict[str, Any]) -> list[str]:
    """Return the outcomes of the segments of the trial with these values."""
    (number,) = [trial.number for trial in tuner.results.trials if trial.params == params]
    found = [entry.record for entry in journal.read(tuner.results.paths.journal)]
    return [record.outcome for record in found if isinstance(record, SegmentEnded) and record.trial == number]


def test_rejected_trials_fail_and_trials_that_raise_are_tried_again(folder: Path) -> None:
    tuner = kt.RandomSearch(
        Capricious(), "val_loss", max_trials=9, max_retries_per_trial=1, project_name="capricious", workers=1, seed=0
    )
    tuner.search_space_summary()
    tuner.search(X, Y, validation_split=0.25, verbose=0)
    values = [{"units": units, "rate": 0.5, "half": units // 2} for units in (2, 3, 4)]
    params = [trial.params for trial in tuner.results.trials]
    assert sorted(params, key=str) == sorted([{"units": 1}, *values], key=str)
    assert outcomes(tuner, {"units": 1}) == ["failed"]
    assert [outcomes(tuner, each) for each in values] == [["reached"], ["raised", "reached"], ["reached"]]
    (failed,) = [trial for trial in tuner.results.trials if trial.state == "failed"]
    assert failed.error is not None
    assert failed.error.endswith("FailedTrialError: too small")
    hp, *_ = tuner.get_best_hyperparameters()
    assert hp.get("half") == hp["units"] // 2
    (model,) = tuner.get_best_models()
    assert model.evaluate(X[30:], Y[30:], verbose=0) == pytest.approx(
        tuner.results.best_trials()[0].objective, rel=1e-5
    )


class Untuned(kt.HyperModel):
    def build(self, hp: Any) -> Any:
        return model_of(hp.Int("units", 2, 9))


def test_a_hypermodel_that_is_not_tunable_runs_once_with_its_defaults(folder: Path) -> None:
    tuner = kt.RandomSearch(Untuned(tunable=False), "val_loss", max_trials=3, project_name="untuned", workers=1)
    tuner.search(X, Y, validation_split=0.25, verbose=0)
    (trial,) = tuner.results.trials
    assert (trial.state, trial.params, trial.weight_count) == ("completed", {}, 4 * 2 + 2 + 2 + 1)
    assert tuner.get_best_hyperparameters()[0].values == {}
    (model,) = tuner.get_best_models()
    assert model.count_params() == trial.weight_count


class Fatal(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise keras_tuner.errors.FatalRuntimeError("the licence has expired")


def test_a_fatal_error_of_a_callback_ends_the_search_and_reaches_the_caller(folder: Path) -> None:
    told: list[str] = []

    class Told(kt.RandomSearch):
        def on_search_end(self) -> None:
            told.append("end")

    tuner = Told(
        lambda hp: model_of(hp.Int("units", 1, 9)), "val_loss", project_name="fatal", max_retries_per_trial=3, workers=1
    )
    with pytest.raises(SpaceError, match=r"FatalRuntimeError: the licence has expired: correct the cause") as raised:
        tuner.search(X, Y, epochs=3, validation_split=0.25, callbacks=[Fatal()], verbose=0)
    assert "\n" not in str(raised.value)
    (trial,) = tuner.results.trials
    assert (trial.state, trial.progress.segments) == ("failed", 1)
    assert told == []


def test_failures_in_a_row_end_a_search_that_has_results(folder: Path) -> None:
    begun = folder / "begun"

    def build(hp: Any) -> Any:
        if hp.Int("units", 1, 10**6) > 1:  # the probe has 1
            if begun.exists():
                raise ValueError("no more")
            begun.touch()
        return model_of(1)

    tuner = kt.RandomSearch(build, "val_loss", max_consecutive_failed_trials=2, project_name="row", workers=1)
    with pytest.raises(SearchError, match=r"2 trials failed in a row, the last one with: .*ValueError: no more$"):
        tuner.search(X, Y, validation_split=0.25, verbose=0)
    assert [trial.state for trial in tuner.results.trials] == ["completed", "failed", "failed"]
