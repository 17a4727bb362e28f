"""KerasTuner's tuners: scripts written for KerasTuner run with `import search as kerastuner`."""

from __future__ import annotations

import inspect
import pickle
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import search as kt
from search.compat.keras_tuner import Tuner
from search.errors import NoResult, OptionError, SpaceError, StudyError
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


# Arguments ------------------------------------------------------------------------------------------------------------

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
def folder(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the working folder of all searches of this module."""
    folder = tmp_path_factory.mktemp("tuners")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        yield folder


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
    with pytest.raises(
        SpaceError, match=r"^x, y or sample_weight cannot be sent to a worker .*Dataset that calls Python"
    ):
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
