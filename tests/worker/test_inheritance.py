"""A trial that continues another one with other hyperparameters, compared with a continuation by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from search.driver.hand_on import Files
from search.executors.inline import InlineExecutor
from search.messages import Inherited, Interrupt, Segment, Verdict
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.records import EpochDone
from search.study.trial import Objective
from search.testing import Conversation
from search.worker.checkpoint import load_checkpoint
from search.worker.plain_values import decode

SPACE = """
import keras
import numpy as np


def make_model(values):
    layers = keras.layers
    model = keras.Sequential([layers.Input((4,)), layers.Dense(values["units"], "relu",
        kernel_initializer=keras.initializers.GlorotUniform(seed=3)), layers.BatchNormalization()])
    if values["dropout"]:
        model.add(layers.Dropout(values["dropout"], seed=5))
    model.add(layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=4)))
    return model


def make_optimizer(values):
    if values["optimizer"] == "adam":
        return keras.optimizers.Adam(values["rate"])
    if values["optimizer"] == "decaying":
        return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(values["rate"], 5, 0.5))
    return keras.optimizers.SGD(values["rate"], momentum=values["momentum"])


def build_model(hp):
    values = {"units": hp.Int("units", 2, 8), "dropout": hp.Float("dropout", 0.0, 0.5),
              "optimizer": hp.Choice("optimizer", ["adam", "decaying", "sgd"]), "rate": hp.Float("rate", 1e-5, 1e-1),
              "momentum": hp.Float("momentum", 0.0, 0.9)}
    model = make_model(values)
    model.compile(make_optimizer(values), "mse")
    return model


def callbacks(hp):
    return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)] if hp.Boolean("halves") else []


def fit_options(hp):
    return {"shuffle": False, "batch_size": 8}


def load_data():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:32], y[:32]), (x[32:], y[32:])
"""

VALUES = {"units": 5, "dropout": 0.0, "optimizer": "adam", "rate": 0.01, "momentum": 0.0, "halves": False}
LOWER = {**VALUES, "rate": 0.001}


class Trials:
    """Trials of one space, each in a folder of its own; trial n has the seed n."""

    def __init__(self, executor: InlineExecutor, folder: Path, space: str) -> None:
        self.folder = folder
        self._executor = executor
        folder.mkdir(exist_ok=True)
        (folder / "space.py").write_text(space)
        self._ref = SpaceRef(str(folder / "space.py"))

    def files(self, trial: int) -> TrialPaths:
        return TrialPaths(self.folder / str(trial))

    def train(
        self,
        trial: int,
        first: int,
        last: int,
        values: Mapping[str, Any] = VALUES,
        *,
        parent: tuple[int, int] | None = None,
        react: Callable[[EpochDone], Any] = lambda _: None,
        **options: Any,
    ) -> Conversation:
        """Train a trial after epoch `first` up to `last`; `parent` is the trial and the epoch that it continues."""
        inherited = None if parent is None else Inherited(*parent, execution=0, seed=parent[0])
        segment = Segment(
            trial, 0, self._ref, dict(values), trial, first, last, Objective("val_loss", "min"),
            str(self.files(trial).folder), inherited=inherited, **options
        )  # fmt: skip
        return Conversation(self._executor, react=react).run(segment)

    def continue_parent(self, trial: int, parent: int, last: int, values: Mapping[str, Any], **options: Any) -> Any:
        """Let a new trial continue `parent`, as it is now, up to epoch `last`."""
        epoch = load_checkpoint(self.files(parent).checkpoint(0)).epoch
        Files().hand_on(self.files(parent), self.files(trial), 0, again=False)
        return self.train(trial, epoch, last, values, parent=(parent, epoch), **options)


@pytest.fixture(scope="module")
def executor() -> Iterator[InlineExecutor]:
    made = InlineExecutor()
    yield made
    made.close()


@pytest.fixture(scope="module")
def trials(executor: InlineExecutor, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """Return trials, of which trial 1 was trained for three epochs."""
    made = Trials(executor, tmp_path_factory.mktemp("inheritance"), SPACE)
    made.train(1, 0, 3)
    return made


def scope_of(space: str = SPACE) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(space, scope)
    return scope


def continue_by_hand(values: Mapping[str, Any], *, slots: bool = True, parent: Mapping[str, Any] = VALUES) -> Any:
    """Train by plain Keras: three epochs with the values `parent`, then two with `values`.

    Args:
        slots: whether the optimizer's variables but its learning rate are taken over.

    Returns:
        The model, and the logs of the two epochs.
    """
    scope = scope_of()
    train, validation = scope["load_data"]()
    options: dict[str, Any] = {"batch_size": 8, "shuffle": False, "validation_data": validation, "verbose": 0}
    before, model = scope["make_model"](parent), scope["make_model"](values)
    before.compile(scope["make_optimizer"](parent), "mse")
    before.fit(*train, epochs=3, **options)
    model.compile(scope["make_optimizer"](values), "mse")
    model.set_weights(before.get_weights())
    model.optimizer.build(model.trainable_variables)
    states = [[v for v in m.optimizer.variables if v.name != "learning_rate"] for m in (model, before)]
    for variable, known in zip(*states, strict=False) if slots else ():
        variable.assign(known)
    history = model.fit(*train, initial_epoch=3, epochs=5, **options).history
    return model, [{name: history[name][i] for name in history} for i in range(2)]


def assert_same_state(trials: Trials, trial: int, model: keras.Model) -> None:
    saved = load_checkpoint(trials.files(trial).checkpoint(0))
    for array, variable in zip(saved.arrays("model"), model.variables, strict=True):
        np.testing.assert_array_equal(array, variable)
    for array, variable in zip(saved.arrays("optimizer"), model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array, variable, err_msg=variable.path)


# What is inherited ----------------------------------------------------------------------------------------------------


def test_a_lower_learning_rate_continues_bit_for_bit_as_by_hand(trials: Trials) -> None:
    model, logs = continue_by_hand(LOWER)
    assert trials.continue_parent(2, 1, 5, LOWER).curve == logs
    assert_same_state(trials, 2, model)


def test_an_interrupted_child_goes_on_with_the_same_bits_and_its_parent_unaffected(trials: Trials) -> None:
    whole = trials.continue_parent(3, 1, 6, LOWER)

    def interrupt(message: EpochDone) -> Verdict | Interrupt:
        return Interrupt() if message.epoch == 4 else Verdict(False)

    first = trials.continue_parent(4, 1, 6, LOWER, react=interrupt, judged=True)
    assert (first.end.outcome, first.end.epoch) == ("interrupted", 4)
    before = trials.files(4).inherited(0).read_bytes()
    alone = trials.train(5, 0, 5)
    assert trials.train(1, 3, 5).curve == alone.curve[3:]
    second = trials.train(4, 4, 6, LOWER, parent=(1, 3))
    assert first.curve + second.curve == whole.curve
    assert trials.files(4).inherited(0).read_bytes() == before
    # Without its own checkpoint it begins anew, from what its parent has handed on.
    trials.files(4).checkpoint(0).unlink()
    assert trials.train(4, 3, 6, LOWER, parent=(1, 3)).curve == whole.curve


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "values", "slots"),
    [
        (10, {**VALUES, "optimizer": "decaying"}, True),
        (11, {**VALUES, "optimizer": "sgd"}, False),
        (12, {**VALUES, "halves": True, "dropout": 0.0}, True),
    ],
    ids=["schedule", "another-class", "callback"],
)
def test_schedules_other_optimizers_and_callbacks_are_the_childs_own(
    executor: InlineExecutor, tmp_path: Path, number: int, values: dict[str, Any], slots: bool
) -> None:
    trials = Trials(executor, tmp_path / "own", SPACE)
    trials.train(1, 0, 3)
    if values["halves"]:
        # The parent's callback has lowered its rate. A child without that callback has the rate of its own values.
        trials = Trials(executor, tmp_path / "halved", SPACE)
        trials.train(1, 0, 3, values)
        trials.continue_parent(number, 1, 4, VALUES)
        saved = load_checkpoint(trials.files(number).checkpoint(0))
        assert saved.slots is not None
        rate = saved.slots["slots"].index([None, "learning_rate"])
        assert saved.arrays("optimizer")[rate] == np.float32(0.01)
        return
    model, logs = continue_by_hand(values, slots=slots)
    assert trials.continue_parent(number, 1, 5, values).curve == logs
    assert_same_state(trials, number, model)


@pytest.mark.slow
def test_slots_that_the_parent_lacks_begin_anew(executor: InlineExecutor, tmp_path: Path) -> None:
    trials = Trials(executor, tmp_path / "sgd", SPACE)
    before, values = {**VALUES, "optimizer": "sgd"}, {**VALUES, "optimizer": "sgd", "momentum": 0.9}
    # Fused, SGD with momentum may differ from plain Keras in the last bit of a BatchNormalization's scale.
    trials.train(1, 0, 3, before, fuse=False)
    model, logs = continue_by_hand(values, parent=before)
    assert trials.continue_parent(2, 1, 5, values, fuse=False).curve == logs
    assert_same_state(trials, 2, model)
    assert int(model.optimizer.iterations) == 20


@pytest.mark.slow
def test_a_child_may_drop_a_layer_without_weights(executor: InlineExecutor, tmp_path: Path) -> None:
    trials = Trials(executor, tmp_path / "dropout", SPACE)
    trials.train(1, 0, 1, {**VALUES, "dropout": 0.3})
    child = trials.continue_parent(2, 1, 2, LOWER)
    assert child.end.outcome == "reached", child.end
    back = trials.continue_parent(3, 2, 3, {**LOWER, "dropout": 0.5})
    assert back.end.outcome == "reached", back.end
    one, other = (load_checkpoint(trials.files(number).checkpoint(0)) for number in (1, 3))
    assert len(one.random) == len(other.random) == 1


# What is refused ------------------------------------------------------------------------------------------------------


def test_another_shape_fails_with_the_variable_and_both_shapes(trials: Trials) -> None:
    end = trials.continue_parent(20, 1, 9, {**VALUES, "units": 7}).end
    assert end.outcome == "failed"
    assert end.error is not None
    assert "trial 20 cannot continue trial 1 after epoch" in end.error
    assert "its weight sequential/dense/kernel is float32[4, 7], and the parent's is float32[4, 5]" in end.error
    assert "\n" not in end.error


def test_a_damaged_state_fails_with_its_path(trials: Trials) -> None:
    Files().hand_on(trials.files(1), trials.files(21), 0, again=False)
    path = trials.files(21).inherited(0)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    end = trials.train(21, 3, 5, parent=(1, 3)).end
    assert (end.outcome, str(path) in str(end.error)) == ("failed", True)


# A user's own code ----------------------------------------------------------------------------------------------------

OWN_FIT = """

def fit(hp, model, train, validation, epochs, callbacks):
    if hp.Choice("way", ["one call", "loop", "black box"]) == "one call":
        return model.fit(
            *train, validation_data=validation, epochs=epochs, callbacks=callbacks, batch_size=8, shuffle=False
        )
    if hp.get("way") == "black box":
        open("trained", "w").close()
        return {"val_loss": 1.0}
    for callback in callbacks:
        callback.set_model(model)
    for epoch in range(epochs):
        model.train_on_batch(*train)
        for callback in callbacks:
            callback.on_epoch_end(epoch, {"val_loss": 1.0})
"""


@pytest.mark.slow
def test_a_users_fit_continues_another_trial_if_it_is_one_call(executor: InlineExecutor, tmp_path: Path) -> None:
    trials = Trials(executor, tmp_path / "fit", SPACE + OWN_FIT)
    trials.train(1, 0, 3, {**VALUES, "way": "one call"})
    _, logs = continue_by_hand(LOWER)
    child = trials.continue_parent(2, 1, 5, {**LOWER, "way": "one call"})
    assert child.curve == logs
    assert [message.epoch for message in child.messages if isinstance(message, EpochDone)] == [4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["loop", "black box"])
def test_a_users_fit_that_begins_anew_continues_no_trial(
    executor: InlineExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trials = Trials(executor, tmp_path / "fit", SPACE + OWN_FIT)
    trials.train(1, 0, 2, {**VALUES, "way": way})
    (tmp_path / "trained").unlink(missing_ok=True)
    end = trials.continue_parent(2, 1, 4, {**LOWER, "way": way}).end
    assert (end.outcome, "its fit begins anew in each segment" in str(end.error)) == ("failed", True), end
    assert not (tmp_path / "trained").exists(), "refused before the user's fit takes its time"
    # A parent whose state is there, and a child whose own way begins anew.
    trials.train(3, 0, 2, {**VALUES, "way": "one call"})
    end = trials.continue_parent(4, 3, 4, {**LOWER, "way": way}).end
    assert (end.outcome, "its fit begins anew in each segment" in str(end.error)) == ("failed", True), end


OWN_STEP = """

class Own(keras.Model):
    def __init__(self, rate, noise):
        super().__init__()
        self.inner = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=4))
        self.second = keras.optimizers.Adam(rate)
        self.steps = tf.Variable(0.0)
        self.seed = keras.random.SeedGenerator(noise)
        self.rate = rate

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((y - self(x)) ** 2)
        weights = self.inner.trainable_variables
        self.second.apply(tape.gradient(loss, weights), weights)
        self.steps.assign_add(1.0)
        return {"loss": loss}

    def test_step(self, data):
        x, y = data
        return {"loss": keras.ops.mean((y - self(x)) ** 2)}


def build_model(hp):
    model = Own(hp.Float("rate", 1e-5, 1e-1), hp.Int("noise", 0, 9))
    model.compile()
    return model
"""


@pytest.mark.slow
def test_a_models_other_optimizers_and_variables_are_inherited_and_its_random_states_are_not(
    executor: InlineExecutor, tmp_path: Path
) -> None:
    trials = Trials(executor, tmp_path / "step", "import tensorflow as tf\n" + SPACE + OWN_STEP)
    trials.train(1, 0, 2, {"rate": 0.01, "noise": 1, "halves": False})
    child = trials.continue_parent(2, 1, 3, {"rate": 0.001, "noise": 2, "halves": False})
    assert child.end.outcome == "reached", child.end
    parent, own = (load_checkpoint(trials.files(number).checkpoint(0)).attributes for number in (1, 2))
    steps, optimizer = (next(each for each in own.entries if each["path"][-1] == [".", n]) for n in ("steps", "second"))
    names = [name for _, name in optimizer["slots"]["slots"]]
    value = dict(zip(names, decode(optimizer["data"], own.arrays), strict=True))
    assert decode(steps["data"], own.arrays) == [12.0]  # four steps an epoch
    assert (value["iteration"], value["learning_rate"]) == (12, np.float32(0.001))
    assert len(parent.entries) == len(own.entries)
