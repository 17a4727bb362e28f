"""A tuner's `run_trial` as a worker calls it: its model, its arguments, its results, and what it leaves behind."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import search.compat.keras_tuner as kt
from search.compat.trial_runs import ATTRIBUTES_FILE, UPDATES_TRIAL, BlackBox, TrialRuns, calls_super, running
from search.executors.inline import InlineExecutor
from search.messages import Question, Segment
from search.space import pickling
from search.space.file import SpaceRef
from search.study.records import Built
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.hp import LazyHyperParameters
from search.worker.user_code import trial_folder


class Epochs:
    """The search's own callback, of which only the epochs matter here."""

    def __init__(self, *, knows: bool = False) -> None:
        self.seen: list[tuple[Any, Any]] = []
        self.knows = lambda history: knows

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Do nothing."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append((epoch, logs))


class Recording(kt.RandomSearch):
    """A tuner whose `run_trial` is the function of its attribute `function`."""

    def __init__(self, function: Any, hypermodel: Any = None, objective: Any = "val_loss") -> None:
        super().__init__(hypermodel, objective)
        self.function = function

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, trial, *args, **kwargs)


def build(hp: Any) -> Any:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 3)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def call(tuner: Any, *args: Any, folder: Path | None = None, given: Any = (), **kwargs: Any) -> Any:
    """Return the result of `run_trial` as the search gets it, and the search's callback."""
    runs = TrialRuns(tuner, given=given, seen_by_probe=True)
    own = kwargs.pop("own", None) or Epochs()
    hp = LazyHyperParameters(lambda parameter: parameter.default)
    with trial_folder(folder):
        model = runs.build(hp)
        return runs.fit(hp, model, *args, epochs=5, callbacks=[own], initial_epoch=0, verbose=0, **kwargs)


def history(**columns: list[float]) -> Any:
    """Return the History of a training of some other model than the trial's."""
    made = keras.callbacks.History()
    made.history = columns
    return made


# Results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        (0.5, {"val_loss": 0.5}),
        (2, {"val_loss": 2.0}),
        (np.float32(0.25), {"val_loss": 0.25}),
        ({"val_loss": 1.0, "other": 3.0}, {"val_loss": 1.0, "other": 3.0}),
        ([1.0, 3.0], {"val_loss": 2.0}),
        ([{"val_loss": 1.0, "a": 0.0}, {"val_loss": 2.0, "a": 4.0}], {"val_loss": 1.5, "a": 2.0}),
        (history(val_loss=[3.0, 1.0, 2.0], a=[7.0, 8.0, 9.0]), {"val_loss": 1.0, "a": 8.0}),
        ([history(val_loss=[3.0, 1.0]), history(val_loss=[2.0, 4.0])], {"val_loss": 1.5}),
    ],
    ids=["float", "int", "numpy", "dict", "list", "dicts", "history", "histories"],
)
def test_results_are_taken_as_kerastuner_takes_them(returned: Any, result: dict[str, float]) -> None:
    assert call(Recording(lambda *_: returned)) == result


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, keras_tuner.errors.FatalTypeError, r"Tuner.run_trial\(\) is None. Did you forget to return the metrics"),
        ("0.5", keras_tuner.errors.FatalTypeError, r"one of float, dict, keras.callbacks.History"),
        ({"loss": 1.0}, keras_tuner.errors.FatalValueError, "val_loss, as one of the keys"),
        ([0.5, None], keras_tuner.errors.FatalTypeError, "is None"),
    ],
)
def test_wrong_results_are_kerastuners_fatal_errors(returned: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Recording(lambda *_: returned))


def test_an_unnamed_objective_is_a_single_number() -> None:
    assert call(Recording(lambda *_: 0.5, objective=None)) == {"default_objective": 0.5}
    with pytest.raises(keras_tuner.errors.FatalTypeError, match="a single float when `objective` is left unspecified"):
        call(Recording(lambda *_: {"val_loss": 0.5}, objective=None))


def test_the_sum_of_several_objectives_is_the_result() -> None:
    objectives = [kt.Objective("a", "min"), kt.Objective("b", "max")]
    returned = history(a=[5.0, 1.0], b=[1.0, 2.0])
    assert call(Recording(lambda *_: returned, objective=objectives)) == {"a": 1.0, "b": 2.0, "multi_objective": -1.0}


def test_metrics_told_to_the_oracle_are_the_result_as_of_old(tmp_path: Path) -> None:
    def run(tuner: Any, trial: Any) -> None:
        for step, value in enumerate([3.0, 1.0, 2.0]):
            tuner.oracle.update_trial(trial.trial_id, {"val_loss": value, "val_accuracy": value}, step=step)

    tuner = Recording(run)
    assert call(tuner, folder=tmp_path / "0007") == {"val_loss": 1.0, "val_accuracy": 3.0}
    assert UPDATES_TRIAL in pickle.loads((tmp_path / "0007" / ATTRIBUTES_FILE).read_bytes())
    tuner._paths = SimpleNamespace(trials=tmp_path)
    with pytest.warns(DeprecationWarning, match="calls oracle.update_trial, .* Please remove the call, and return"):
        tuner._take_attributes()


def test_the_history_of_a_training_that_the_search_knows_is_left_to_it() -> None:
    def run(tuner: Any, trial: Any) -> Any:
        return history(val_loss=[3.0, 1.0, 2.0])

    assert isinstance(call(Recording(run), own=Epochs(knows=True)), keras.callbacks.History)
    assert call(Recording(run)) == {"val_loss": 1.0}, "that of its best epoch, as KerasTuner"


# The call -------------------------------------------------------------------------------------------------------------


def test_run_trial_gets_the_arguments_of_search_and_no_others() -> None:
    seen: list[Any] = []

    def run(tuner: Any, trial: Any, *args: Any, **kwargs: Any) -> float:
        seen[:] = [args, kwargs]
        return 1.0

    call(Recording(run), 1, two=2)
    assert seen == [(1,), {"two": 2}]
    call(Recording(run), given=("epochs", "callbacks"))
    assert seen == [(), {"epochs": 5, "callbacks": []}]


def test_the_trial_has_values_and_a_number() -> None:
    trials: list[Any] = []

    def run(tuner: Any, trial: Any) -> float:
        trials.append(trial)
        assert running(trial) is not None
        assert running(copy.copy(trial)) is None
        assert tuner.oracle.get_trial(trial.trial_id) is trial
        assert tuner.oracle.ongoing_trials == {tuner.tuner_id: trial}
        return float(trial.hyperparameters.Float("x", 1.0, 2.0))

    assert call(Recording(run)) == {"val_loss": 1.0}
    (trial,) = trials
    assert isinstance(trial, keras_tuner.engine.trial.Trial)
    assert (trial.trial_id, trial.hyperparameters.values) == ("00", {"x": 1.0}), "as many digits as max_trials has"
    assert running() is None


def test_the_number_is_that_of_the_trials_folder(tmp_path: Path) -> None:
    ids: list[str] = []
    call(Recording(lambda tuner, trial: ids.append(trial.trial_id) or 1.0), folder=tmp_path / "7")
    assert ids == ["07"]


def test_the_first_build_is_the_trials_model_and_later_ones_are_new() -> None:
    models: list[Any] = []

    def run(tuner: Any, trial: Any) -> float:
        hp = trial.hyperparameters
        other = keras_tuner.HyperParameters()
        models.extend([running().model, tuner.hypermodel.build(other), tuner.hypermodel.build(hp)])
        models.append(tuner.hypermodel.build(hp))
        return 1.0

    tuner = Recording(run, build)
    before = tuner.hypermodel.build
    call(tuner)
    own, of_others, first, second = models
    assert first is own
    assert len({id(own), id(of_others), id(second)}) == 3
    assert tuner.hypermodel.build == before


def test_a_trial_without_a_model_has_a_black_box() -> None:
    hp = LazyHyperParameters()
    for hypermodel in (None, lambda hp: "an estimator"):
        model = TrialRuns(Recording(None, hypermodel), given=(), seen_by_probe=True).build(hp)
        assert isinstance(model, BlackBox)
        assert model.get_weights() == []


def test_a_loop_of_its_own_tells_its_epochs() -> None:
    def run(tuner: Any, trial: Any) -> None:
        model = tuner.hypermodel.build(trial.hyperparameters)
        for epoch in range(2):
            tuner.on_epoch_begin(trial, model, epoch)
            tuner.on_epoch_end(trial, model, epoch, logs={"val_loss": 1.0 / (epoch + 1)})

    own = Epochs()
    assert call(Recording(run, build), own=own) is None
    assert own.seen == [(0, {"val_loss": 1.0}), (1, {"val_loss": 0.5})]


def test_a_saved_model_is_the_trials() -> None:
    def run(tuner: Any, trial: Any) -> float:
        other = keras.models.clone_model(running().model)
        other.set_weights([np.full_like(weight, 3.0) for weight in other.get_weights()])
        tuner.save_model(trial.trial_id, other)
        return float(running().model.get_weights()[0].mean())

    assert call(Recording(run, build)) == {"val_loss": 3.0}


@pytest.mark.parametrize("returned", ["a model", 3, None])
def test_a_hypermodel_that_returns_no_model_is_a_fatal_error(returned: Any) -> None:
    tuner = kt.RandomSearch(lambda hp: returned, "val_loss")
    with pytest.raises(keras_tuner.errors.FatalTypeError, match=r"to return a keras\.Model, and it returned"):
        call(tuner, np.ones((4, 2)))


class Above(kt.RandomSearch):
    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        return super().run_trial(trial, *args, **kwargs)


def test_a_run_trial_that_may_reach_ours_is_known() -> None:
    """A probe calls it, and ends it in ours. Any other one may take as long as a trial."""

    class AboveRecording(Recording):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            return super().run_trial(trial, *args, **kwargs)

    class AboveEstimators(kt.SklearnTuner):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            return super().run_trial(trial, *args, **kwargs)

    assert calls_super(kt.Hyperband(build))
    assert calls_super(Above(build))
    assert not calls_super(Recording(None))
    assert not calls_super(AboveRecording(None))
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("score", "max"))
    assert not calls_super(kt.SklearnTuner(oracle, build))
    assert not calls_super(AboveEstimators(oracle, build))
    assigned = Above(build)
    assigned.run_trial = lambda trial: 1.0
    assert not calls_super(assigned)


# Attributes -----------------------------------------------------------------------------------------------------------


def count(tuner: Any, trial: Any) -> float:
    tuner.calls += 1
    tuner.scores.append(tuner.calls)
    tuner.later = "made in run_trial"
    return 1.0


def counting() -> Any:
    tuner = Recording(count)
    tuner.calls, tuner.scores, tuner.lock = 0, [], object()
    return tuner


def test_changed_attributes_are_kept_for_the_script(tmp_path: Path) -> None:
    tuner = counting()
    call(tuner, folder=tmp_path / "0")
    kept = pickle.loads((tmp_path / "0" / ATTRIBUTES_FILE).read_bytes())
    values = {name: pickle.loads(data) for name, data in kept.items()}
    assert values == {"calls": 1, "scores": [1], "later": "made in run_trial"}


def test_a_probe_leaves_the_attributes_as_they_were() -> None:
    tuner = counting()
    call(tuner)
    assert (tuner.calls, tuner.scores) == (0, [])


def test_a_tuner_travels_without_the_scripts_own_parts() -> None:
    """Its results, its options and the user's function stay; the worker has the hypermodel."""
    tuner = Recording(count, build)
    tuner.calls = 3
    sent = pickle.loads(pickling.dumps(tuner))
    assert (sent.calls, sent._factory, sent._options, sent.oracle.trials) == (3, None, {}, {})
    assert type(sent.oracle) is keras_tuner.oracles.RandomSearchOracle
    assert sent.hypermodel.build(keras_tuner.HyperParameters()).count_params() == 2 + 1 + 1 + 1


# Training -------------------------------------------------------------------------------------------------------------

SPACE = """
import keras
import numpy as np
import search.compat.keras_tuner as keras_tuner
from search.compat.trial_runs import TrialRuns


def load_data():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:40], y[:40]), (x[40:], y[40:])


def build_model(hp):
    layers = [keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    return model
"""

PLAIN = """
def fit_options(hp):
    return dict(batch_size=8)
"""

ABOVE = """
class BatchSizes(keras_tuner.Hyperband):
    def run_trial(self, trial, *args, **kwargs):
        size = trial.hyperparameters.Choice("batch_size", [8, 16])
        return super().run_trial(trial, *args, batch_size=size, **kwargs)
"""

INSIDE = """
class BatchSizes(keras_tuner.RandomSearch):
    def run_trial(self, trial, *args, **kwargs):
        hp = trial.hyperparameters
        model = self.hypermodel.build(hp)
        return self.hypermodel.fit(hp, model, *args, batch_size=hp.Choice("batch_size", [8, 16]), **kwargs)
"""

HYPERMODEL = """
tuner = BatchSizes(build_model, "val_loss")
build_model = None
hypermodel = TrialRuns(tuner, given=("epochs", "callbacks"), seen_by_probe=True)
"""


def train(folder: Path, code: str, trial: int, from_epoch: int, to_epoch: int) -> Conversation:
    """Train a segment of a trial of a space file in this process."""
    (folder / "space.py").write_text(SPACE + code)
    segment = Segment(
        trial=trial,
        execution=0,
        space=SpaceRef(str(folder / "space.py")),
        values={"units": 4, "batch_size": 8},
        seed=5,
        from_epoch=from_epoch,
        to_epoch=to_epoch,
        objective=Objective("val_loss", "min"),
        folder=str(folder / str(trial)),
    )
    return Conversation(InlineExecutor(), react=lambda _: None).run(segment)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """Return a training without a tuner."""
    return train(tmp_path_factory.mktemp("plain"), PLAIN, 0, 0, 4)


@pytest.mark.core
@pytest.mark.parametrize("code", [ABOVE, INSIDE], ids=["above", "inside"])
def test_the_training_of_a_run_trial_continues_exactly(tmp_path: Path, code: str, plain: Conversation) -> None:
    whole = train(tmp_path, code + HYPERMODEL, 0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert [message for message in whole.messages if isinstance(message, Question)] == []
    built = next(message for message in whole.messages if isinstance(message, Built))
    assert (built.runner, built.own_fit) == ("fused", True)
    assert whole.curve == plain.curve
    parts = [train(tmp_path, code + HYPERMODEL, 1, *epochs).curve for epochs in ((0, 1), (1, 4))]
    assert parts[0] + parts[1] == whole.curve
