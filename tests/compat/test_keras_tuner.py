"""KerasTuner's tuners: scripts written for KerasTuner run with `import search as kerastuner`."""

from __future__ import annotations

import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import search as kt
from search.compat.keras_tuner import Tuner
from search.errors import NoResult, OptionError, SpaceError
from search.options import OWN_FIT_MAX_EPOCHS
from search.space import pickling
from search.worker.hp import LazyHyperParameters

X = np.random.default_rng(0).normal(size=(120, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("float32")


def build_model(hp: kt.HyperParameters) -> Any:
    model = keras.Sequential([keras.Input((4,))])
    model.add(keras.layers.Dense(hp.Int("units", 4, 16, step=4), activation="relu"))
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    rate = hp.Choice("learning_rate", [1e-2, 1e-3])
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model


class TunedEpochs(kt.HyperModel):
    """A hypermodel that tunes its epochs, after KerasTuner's documentation."""

    def build(self, hp: Any) -> Any:
        return build_model(hp)

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.fit(*args, epochs=hp.Int("epochs", 2, 3), **kwargs)


Search = Callable[..., dict[str, Any]]


@pytest.fixture
def run_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """Return a function that calls a tuner's `search` and returns the arguments of its call of `search.run`.

    `search.run` itself is replaced, so nothing is searched.
    """
    passed: dict[str, Any] = {}

    def record(factory: Any, data: Any, **options: Any) -> None:
        passed.update(factory=factory, data=data, **options)

    def search(tuner: Tuner, *arguments: Any, **options: Any) -> dict[str, Any]:
        passed.clear()
        tuner.search(*arguments, **options)
        return dict(passed)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.compat.base_tuner.run", record)
    return search


# Data -----------------------------------------------------------------------------------------------------------------


def test_data_are_taken_as_by_model_fit(run_arguments: Search) -> None:
    def data(*arguments: Any, **options: Any) -> Any:
        return run_arguments(kt.RandomSearch(build_model), *arguments, **options)["data"]

    weights, stream = np.ones(120), iter([])
    assert data(X, Y) == ((X, Y), None)
    assert data(X) == ((X,), None)
    assert data([X]) == (([X],), None)
    assert data(X, Y, sample_weight=weights, validation_data=[X, Y]) == ((X, Y, weights), (X, Y))
    assert data(stream, validation_data=stream) == (stream, stream)
    assert data(X, Y, validation_data=(X, Y), validation_split=0.5) == ((X, Y), (X, Y)), "as in Keras"


def test_the_validation_split_is_the_last_part(run_arguments: Search) -> None:
    frame = pd.DataFrame(X, index=np.arange(120)[::-1])
    tuner = kt.RandomSearch(build_model)
    train, validation = run_arguments(tuner, {"a": X, "b": [frame]}, Y, validation_split=0.3)["data"]
    assert np.array_equal(train[0]["a"], X[:84])
    assert np.array_equal(validation[0]["b"][0], X[84:])
    assert np.array_equal(validation[1], Y[84:])


# The argument hyperparameters -----------------------------------------------------------------------------------------


def fixed_learning_rate() -> Any:
    hp = kt.HyperParameters()
    hp.Fixed("learning_rate", 0.5)
    return hp


def test_hyperparameters_replace_those_of_the_factory(run_arguments: Search) -> None:
    def domains(**arguments: Any) -> dict[str, Any]:
        """Return the domains that a tuner's factory declares after it was pickled."""
        factory = run_arguments(kt.RandomSearch(build_model, **arguments), X, Y)["factory"]
        hp = LazyHyperParameters()
        pickle.loads(pickling.dumps(factory))(hp)
        return {parameter.name: str(parameter.domain) for parameter in hp.parameters}

    units = "Int(4..16, step=4)"
    assert domains() == {"units": units, "learning_rate": "Choice([0.01, 0.001], ordered)"}
    fixed = {"hyperparameters": fixed_learning_rate()}
    assert domains(**fixed) == {"units": units, "learning_rate": "Fixed(0.5)"}
    assert domains(**fixed, tune_new_entries=False) == {"learning_rate": "Fixed(0.5)"}
    with pytest.raises(SpaceError, match="'units' is not among those that were given"):
        domains(**fixed, allow_new_entries=False)


def test_hyperparameters_replace_those_of_a_hypermodel(capsys: pytest.CaptureFixture[str]) -> None:
    tuner = kt.RandomSearch(TunedEpochs(), hyperparameters=fixed_learning_rate(), tune_new_entries=False)
    tuner.search_space_summary()
    printed = capsys.readouterr().out
    assert "learning_rate (Fixed)\n{'conditions': [], 'value': 0.5}\n" in printed
    assert "units" not in printed


def test_the_space_is_shown_before_the_search_as_kerastuner_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All conditions are made active, so that conditional parameters are seen, too."""

    def build(hp: Any) -> Any:
        deep = hp.Boolean("deep")
        with hp.conditional_scope("deep", [True]):
            if deep:
                hp.Float("rate", 1e-4, 1e-1, sampling="log")
        return build_model(hp)

    printed = []
    for module in (kt, keras_tuner):
        module.Hyperband(build, "val_loss", directory=tmp_path / module.__name__).search_space_summary()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "rate (Float)" in printed[0]


def test_pickled_parts_do_not_need_search(run_arguments: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be served from its pickled factory where search is not installed."""
    tuner = kt.RandomSearch(build_model, hyperparameters=fixed_learning_rate(), optimizer="sgd")
    passed = run_arguments(tuner, X, Y, shuffle=False, callbacks=[keras.callbacks.EarlyStopping()])
    parts = {name: passed[name] for name in ("factory", "compile_model", "fit_options", "callbacks")}
    assert None not in parts.values()
    pickled = pickling.dumps(parts)
    for name in [name for name in sys.modules.copy() if name.partition(".")[0] == "search"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert pickle.loads(pickled)["fit_options"](None) == {"shuffle": False}


class OwnDefaultEpochs(kt.HyperModel):
    def build(self, hp: Any) -> Any:
        return build_model(hp)

    def fit(self, hp: Any, model: Any, x: Any, epochs: int = 7, **kwargs: Any) -> int:
        return epochs


def test_default_epochs_are_those_of_model_fit_or_of_the_hypermodel(run_arguments: Search) -> None:
    def fit(hypermodel: Any, model: Any) -> Any:
        passed = run_arguments(kt.RandomSearch(hypermodel), X, Y)
        assert passed["max_epochs"] == OWN_FIT_MAX_EPOCHS
        return passed["factory"].fit(None, model, X, epochs=passed["max_epochs"], verbose=0)

    seen: list[dict[str, Any]] = []

    class Model:
        def fit(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs)

    class Plain(TunedEpochs):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return model.fit(*args, **kwargs)

    fit(Plain(), Model())
    assert seen == [{"epochs": 1, "verbose": 0}]
    assert fit(OwnDefaultEpochs(), None) == 7


# Searches -------------------------------------------------------------------------------------------------------------

SCRIPT = """\
import search as kerastuner
import keras, numpy, tensorflow

x = numpy.random.default_rng(0).normal(size=(120, 4)).astype("float32")
data = tensorflow.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True)))
dataset, val_dataset = data.take(80).shuffle(80).batch(16), data.skip(80).batch(16)

def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 1, 9)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

tuner = kerastuner.tuners.Hyperband(
  build_model,
  objective='val_loss',
  max_epochs=3,
  max_trials=2,
  executions_per_trial=2,
  directory='my_dir')
tuner.search(dataset, validation_data=val_dataset)
models = tuner.get_best_models(num_models=2)
"""


@pytest.fixture(scope="module")
def script(folder: Path) -> dict[str, Any]:
    """Return the script's global variables after its run."""
    (folder / "script.py").write_text(SCRIPT)
    return runpy.run_path("script.py", run_name="__main__")


@pytest.mark.core
def test_a_kerastuner_script_runs_unchanged(script: dict[str, Any], folder: Path) -> None:
    study = kt.load_study("untitled_project", folder / "my_dir")
    assert [len(trial.executions) for trial in study.trials] == [2, 2]
    assert len(script["models"]) == 2
    best = study.best_trials()[0]
    losses = [script["models"][0].evaluate(script["val_dataset"], verbose=0) for _ in range(2)]
    assert losses == [pytest.approx(min(best.scores), rel=1e-5)] * 2


@pytest.mark.core
def test_the_results_of_the_script(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    tuner = script["tuner"]
    hp, *_ = tuner.get_best_hyperparameters(num_trials=1)
    assert hp.values == {"units": hp.get("units"), "tuner/epochs": 3, "tuner/initial_epoch": 0}
    assert isinstance(hp, keras_tuner.HyperParameters)
    assert [parameter.name for parameter in hp.space] == ["units"]
    weights = [tuple(layer.shape) for layer in tuner.hypermodel.build(hp).get_weights()]
    assert weights == [tuple(layer.shape) for layer in script["models"][0].get_weights()]
    tuner.results_summary()
    lines = capsys.readouterr().out.splitlines()
    best = tuner.results.best_trials()[0]
    assert lines[:6] == [
        "Results summary",
        f"Results in {tuner.project_dir}",
        "Showing 10 best trials",
        'Objective(name="val_loss", direction="min")',
        "",
        f"Trial {best.number:04} summary",
    ]
    assert f"Score: {best.objective}" in lines
    tuner.search_space_summary()
    assert "units (Int)" in capsys.readouterr().out


@pytest.mark.core
def test_another_tuner_resumes_the_search_or_overwrites_it(script: dict[str, Any], folder: Path) -> None:
    arguments = {"objective": "val_loss", "max_epochs": 3, "directory": "my_dir", "workers": 1}
    resumed = kt.Hyperband(script["build_model"], max_trials=3, **arguments)
    assert resumed.get_best_hyperparameters()[0].values == script["tuner"].get_best_hyperparameters()[0].values
    resumed.search(script["dataset"], validation_data=script["val_dataset"], verbose=0)
    assert len(resumed.results.trials) == 3
    overwritten = kt.Hyperband(script["build_model"], max_trials=1, overwrite=True, **arguments)
    overwritten.search(script["dataset"], validation_data=script["val_dataset"], verbose=0)
    assert len(overwritten.results.trials) == 1
    overwritten.reload()
    assert len(overwritten.results.trials) == 1


class Counted(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback with state: the copy of each trial counts from 0."""

    epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs += 1
        logs["counted"] = float(self.epochs)


@pytest.mark.core
def test_a_hypermodel_sets_its_epochs_and_callbacks_are_copied(folder: Path) -> None:
    tuner = kt.RandomSearch(
        TunedEpochs(),
        objective=kt.Objective("val_accuracy", direction="max"),
        max_trials=2,
        project_name="tuned",
        optimizer="sgd",
        metrics=["accuracy", "mae"],
        seed=1,
        workers=1,
    )
    tuner.search(X, Y, validation_split=0.25, callbacks=[Counted()], verbose=0)
    for trial in tuner.results.trials:
        assert trial.epochs == trial.params["epochs"] > 1
        assert [epoch.logs["counted"] for epoch in trial.curve] == list(range(1, trial.epochs + 1))
        assert "val_mae" in trial.curve[0].logs
    (model,) = tuner.get_best_models()
    assert (model.optimizer.name.lower().rstrip("_0123456789"), model.loss) == ("sgd", "binary_crossentropy")
    accuracy = model.evaluate(X[90:], Y[90:], verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(tuner.results.best_trials()[0].objective, abs=1e-6)


def test_the_direction_of_a_named_objective_is_that_of_its_metric(folder: Path) -> None:
    metric = keras.metrics.F1Score(average="macro", threshold=0.5, name="overlap")
    tuner = kt.RandomSearch(
        build_model, "val_overlap", max_trials=2, project_name="f1", metrics=[metric], seed=1, workers=1
    )
    tuner.search(X, Y[:, None], validation_data=(X, Y[:, None]), verbose=0)
    assert tuner.results.objective == kt.Objective("val_overlap", "max")
    first, second = tuner.results.best_trials(2)
    assert first.objective >= second.objective
    counts = [keras.metrics.TruePositives(name="hits")]
    unknown = kt.RandomSearch(build_model, "val_hits", project_name="counts", metrics=counts, workers=1)
    with pytest.raises(OptionError, match=r"'val_hits' is better is not known: .*search.Objective\(name, direction\)"):
        unknown.search(X, Y[:, None], validation_data=(X, Y[:, None]), verbose=0)


def test_a_grid_has_an_end(folder: Path) -> None:
    hp = fixed_learning_rate()
    hp.Choice("units", [4, 12])
    tuner = kt.GridSearch(build_model, "val_loss", hyperparameters=hp, project_name="grid", workers=1)
    tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert sorted(trial.params["units"] for trial in tuner.results.trials) == [4, 12]


def test_a_dataset_that_calls_python_reaches_no_second_worker(folder: Path) -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_generator(lambda: iter([1.0]), output_signature=tf.TensorSpec([], tf.float32))
    with pytest.raises(SpaceError, match=r"^x cannot be sent to a worker .*Dataset that calls Python"):
        kt.RandomSearch(build_model, project_name="generator", workers=2).search(dataset)


def test_no_trial_with_an_objective(folder: Path) -> None:
    def broken(hp: Any) -> Any:
        model = build_model(hp)
        if hp.get("units") != 4:  # the probe's value
            raise RuntimeError("oh")
        return model

    hp = kt.HyperParameters()
    hp.Int("units", 4, 100_000)
    tuner = kt.RandomSearch(broken, "val_loss", hyperparameters=hp, project_name="broken", workers=1)
    with pytest.raises(NoResult):
        tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert len(tuner.results.trials) == 3
