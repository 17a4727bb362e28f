"""State that Keras does not know of: it is saved and restored, or the training begins anew, and never lost silently."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas
import pytest
from kills import history
from places import ADVERSARIAL

from search.errors import SpaceError
from search.executors.inline import InlineExecutor
from search.messages import Notice, Probe, Probed, Segment
from search.results.study_results import StudyResults
from search.space.file import SpaceRef, read_space
from search.study.paths import StudyPaths, TrialPaths
from search.study.records import EpochDone
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker import attributes, checkpoint, model_state
from search.worker.evaluate_best import rebuild_model

# Keras warns of models that have untracked layers and no `build` of their own.
pytestmark = pytest.mark.filterwarnings("ignore:.build... was called on layer")


SEED = 7


class Training:
    """One trial's training in this process, in as many segments as are asked for.

    Attributes:
        curve: the logs of each epoch, the first time that it was reported.
        epochs: the epochs in the order in which they were reported.
        notices: all notices.
    """

    def __init__(self, space: Path, folder: Path, values: dict[str, Any], objective: str = "val_distance") -> None:
        self._space, self._folder, self._values, self._objective = space, folder, values, objective
        self.curve: list[dict[str, float]] = []
        self.epochs: list[int] = []
        self.notices: list[str] = []

    def run(self, *ends: int, outcome: str = "reached") -> Training:
        """Train segments up to these epochs, each with what a new process has."""
        for to_epoch in ends:
            segment = Segment(
                trial=0,
                execution=0,
                space=SpaceRef(str(self._space)),
                values=self._values,
                seed=SEED,
                from_epoch=len(self.curve),
                to_epoch=to_epoch,
                objective=Objective(self._objective, "min"),
                folder=str(self._folder),
                checkpoint_every=0.0,
            )
            conversation = Conversation(InlineExecutor()).run(segment)
            assert conversation.end.outcome == outcome, conversation.end
            for message in conversation.messages:
                if isinstance(message, EpochDone):
                    self.epochs.append(message.epoch)
                    if message.epoch > len(self.curve):
                        self.curve.append(dict(message.logs))
                elif isinstance(message, Notice):
                    self.notices.append(message.text)
        return self

    @property
    def checkpoint(self) -> checkpoint.Checkpoint:
        """The checkpoint of the last epoch."""
        return checkpoint.load_checkpoint(TrialPaths(self._folder).checkpoint(0))

    def retrieve(self) -> Any:
        """Return the model of the best epoch."""
        weights = TrialPaths(self._folder).best(0)
        return rebuild_model(read_space(SpaceRef(str(self._space))), self._values, weights, SEED)[0]


def same_state(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> None:
    """Assert that two checkpoints hold the same bits."""
    assert json.dumps(one.attributes.meta) == json.dumps(other.attributes.meta)
    assert one._groups.keys() == other._groups.keys()
    for name, arrays in one._groups.items():
        for a, b in zip(arrays, other._groups[name], strict=True):
            assert np.array_equal(a, b), name


@pytest.mark.slow
def test_a_training_with_two_optimizers_goes_on_after_promotions_and_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"width": 5, "rate": 0.02}
    whole = Training(ADVERSARIAL, tmp_path / "whole", values).run(6)
    cut = Training(ADVERSARIAL, tmp_path / "cut", values).run(2)
    monkeypatch.setenv("DIE_AT", "3:raise")
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    cut.run(4, outcome="raised")
    monkeypatch.delenv("DIE_AT")
    cut.run(6)
    assert cut.curve == whole.curve
    assert [logs["seen"] for logs in cut.curve] == [logs["steps"] for logs in cut.curve] == [1, 2, 3, 4, 5, 6]
    assert cut.notices == []
    same_state(whole.checkpoint, cut.checkpoint)
    best = 1 + int(np.argmin([logs["val_distance"] for logs in whole.curve]))
    model = cut.retrieve()
    assert (int(model.rounds), int(model.parts["tools"].average.updates)) == (best, best)
    assert model.level == whole.curve[best - 1]["level"]
    average = model.parts["tools"].average.copies[0](np.ones((1, 3), "float32"))
    distances = keras.ops.mean((average - LAST_ROWS) ** 2)
    assert float(distances) + 0.001 * best == pytest.approx(whole.curve[best - 1]["val_distance"], abs=1e-6)


def test_a_train_step_that_unpacks_its_batch_is_probed() -> None:
    probed = InlineExecutor().probe(Probe(SpaceRef(str(ADVERSARIAL))))
    assert isinstance(probed, Probed), probed
    assert {"val_distance", "generated"} <= set(probed.metrics)


DRIVER = """
import os, sys
os.environ["DRIVER"] = str(os.getpid())
from search.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_search_that_loses_a_worker_and_its_driver_equals_an_undisturbed_one(workplace: Path) -> None:
    shutil.copy(ADVERSARIAL, workplace)
    found = []
    for study, deaths in (("undisturbed", [""]), ("disturbed", ["3:driver", "5:worker"])):
        arguments = ["run", "adversarial.py", "--study", study, "--seed", "0", "--workers", "1", "--resume"]
        for death in deaths:
            environment = {**os.environ, "DIE_AT": death, "DIED": str(workplace / f"died-{death}")}
            command = [sys.executable, "-c", DRIVER, *arguments, "--no-progress", "--checkpoint-every", "0"]
            done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == (-signal.SIGKILL if "driver" in death else 0), done.stderr
            assert "cannot be saved" not in done.stderr
            assert not death or (workplace / f"died-{death}").exists()
        found.append(history(StudyResults(StudyPaths.of(workplace / "runs", study)).study))
    undisturbed, disturbed = found
    assert max(len(curve) for *_, curve in undisturbed) == 6
    assert disturbed == undisturbed


LAST_ROWS = np.random.default_rng(0).normal(1.0, 0.5, size=(48, 2)).astype("float32")[32:]

SPACE = """
import io
import itertools
import threading

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def load_data():
    x = np.ones((8, 2), "float32")
    return (x, x), (x, x)


class Holder:
    pass


class Counting(keras.Model):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.dense, self.total = kind, layers.Dense(2), tf.Variable(0.0)
        self.holder = Holder()
        self.holder.lock = threading.Lock()
        self.head = keras.Sequential([layers.Dense(2), layers.Dense(1)])
        if kind == "iterator":
            self.numbers = itertools.count(1)
        if kind == "created by a callback":
            self.average = None

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        if self.kind == "other":
            self.total.assign_add(1.0)
        if self.kind == "iterator":
            self.total.assign(next(self.numbers))
        if self.kind == "new variable":
            if not hasattr(self.holder, "count"):
                self.holder.count = tf.Variable(0.0)
            self.total.assign(self.holder.count.assign_add(1.0))
        if self.kind == "new lock":
            self.holder.lock = threading.Lock()
        if self.kind == "new layer":
            if not hasattr(self.holder, "extra"):
                self.holder.extra = layers.Dense(1)
            self.holder.extra(data[0])
            self.holder.extra.bias.assign_add([1.0])
            self.total.assign(self.holder.extra.bias[0])
        if self.kind == "late layer":
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.head(self.dense(data[0])) ** 2)
            weights = self.head.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            self.total.assign(tf.reduce_sum(weights[-1]))
        if self.kind == "created by a callback":
            self.total.assign(self.average.assign_add(1.0))
        return {"total": self.total.read_value()}

    def test_step(self, data):
        return {"total": self.total.read_value()}


def build_model(hp):
    model = Counting(hp.Choice("kind", ["iterator", "other"]))
    model.compile("adam", "mse", run_eagerly=True)
    return model


class Average(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.average = tf.Variable(0.0)


def callbacks(hp):
    return [Average()] if hp.get("kind") == "created by a callback" else []
"""


@pytest.fixture
def counting(tmp_path: Path) -> Any:
    (tmp_path / "counting.py").write_text(SPACE)

    def make(kind: str, folder: str) -> Training:
        return Training(tmp_path / "counting.py", tmp_path / folder, {"kind": kind}, "val_total")

    return make


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("iterator", "numbers"),
        ("new variable", "holder.count"),
        ("new lock", "holder.lock"),
        ("new layer", "holder.extra"),
    ],
)
def test_a_training_whose_state_cannot_be_saved_begins_anew(counting: Any, kind: str, name: str) -> None:
    whole = counting(kind, "whole").run(3)
    assert whole.notices == [
        f"training changes the model's {name}, which cannot be saved: a trial that continues later is trained anew "
        "from its first epoch"
    ]
    cut = counting(kind, "cut").run(2, 3)
    assert cut.curve == whole.curve
    assert [logs["total"] for logs in cut.curve] == ([0, 0, 0] if kind == "new lock" else [1, 2, 3])
    assert cut.epochs == [1, 2, 1, 2, 3]
    assert set(cut.notices) == set(whole.notices)
    cut.curve.pop()  # the driver may have died before it received the last messages: no epoch is trained again
    assert cut.run(3).epochs == [1, 2, 1, 2, 3, 3]
    if kind != "new lock":
        with pytest.warns(UserWarning, match=f"not its {name}, which only training makes"):
            cut.retrieve()


@pytest.mark.parametrize("kind", ["late layer", "created by a callback", "other"])
def test_what_training_makes_is_made_again(counting: Any, kind: str) -> None:
    whole, cut = counting(kind, "whole").run(3), counting(kind, "cut").run(1, 2, 3)
    assert cut.curve == whole.curve
    assert len({logs["total"] for logs in whole.curve}) == 3
    assert cut.epochs == [1, 2, 3]
    assert whole.notices == cut.notices == []
    same_state(whole.checkpoint, cut.checkpoint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = cut.retrieve()
    assert float(model.total) == min(logs["total"] for logs in whole.curve)
    said = [str(warning.message) for warning in caught if "the model has its weights" in str(warning.message)]
    only_training = "the model has its weights, and not its average, which only training makes"
    assert said == ([only_training] if kind == "created by a callback" else [])


@pytest.mark.core
def test_keras_own_layers_have_no_attributes_that_keras_does_not_assign() -> None:
    """Their walk is short, and nothing of them is taken for the user's."""
    layers = keras.layers
    x = keras.Input((8, 4))
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True, dropout=0.1))(x)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = layers.LayerNormalization()(layers.Conv1D(4, 2)(y))
    y = layers.BatchNormalization()(layers.TimeDistributed(layers.Dense(3, kernel_regularizer="l2"))(y))
    y = layers.Dense(1)(layers.SpectralNormalization(layers.Dense(2))(layers.GaussianNoise(0.1)(layers.Flatten()(y))))
    model = keras.Sequential([keras.Input((8, 4)), layers.Normalization(), keras.Model(x, y)])
    inner = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 10), use_ema=True)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), keras.losses.Huber(), metrics=["mae", "mse"])
    model.optimizer.build(model.trainable_variables)
    assert attributes.find_attributes(model) == []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), validation_split=0.5, verbose=0)
    model.evaluate(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.counter = 3
    assert [(found.path, found.kind) for found in attributes.find_attributes(model)] == [
        (("model", (".", "counter")), "plain")
    ]


Pair = namedtuple("Pair", ["net", "count"])


class Own:
    pass


def make_odd() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.own = Own()
    model.own.pair = Pair(keras.layers.Dense(1), 1)
    model.own.mixed = [threading.Lock(), 1, {"a": 2.0}]
    model.own.same = model.own.table = np.zeros(3)
    model.own.names, model.own.scores = {"x"}, defaultdict(list)
    model.own.itself, model.own.history = model.own, [1.0]
    model.own.position, model.own.file = itertools.count(), sys.stderr
    model.own.words = {str(n): n for n in range(10)}
    return model


def test_plain_values_are_restored_wherever_they_are(tmp_path: Path) -> None:
    model, new = make_odd(), make_odd()
    baseline = model_state.Baseline(model)
    assert model_state.capture_attributes(model, (), baseline).entries == []
    own = model.own
    own.pair = own.pair._replace(count=2)
    own.mixed[1] = 5
    own.mixed[2]["b"] = (1, b"two", 3j, None, float("inf"))
    own.table += 1
    own.names.add("y")
    own.history.append(2.0)
    own.scores["a"].append(np.float32(0.5))
    own.tensor, own.ordered = keras.ops.ones((2,), "int32"), OrderedDict(z=deque([1], maxlen=2))
    state = checkpoint.capture_state(model, (), baseline)
    assert state.attributes.lost == []
    assert "words" not in json.dumps(state.attributes.meta)
    file = tmp_path / "c.npz"
    checkpoint.save_checkpoint(file, state, owner={}, history=[], best_epoch=None, best_value=None)
    lock, table, names = new.own.mixed[0], new.own.table, new.own.names
    checkpoint.load_checkpoint(file).restore(new)
    found = new.own
    assert (found.pair.count, found.mixed[1:], found.mixed[0]) == (2, own.mixed[1:], lock)
    assert (found.names, found.scores, found.ordered) == (own.names, own.scores, own.ordered)
    assert found.ordered["z"].maxlen == 2
    assert type(found.scores["a"][0]) is np.float32
    assert type(found.tensor) is type(own.tensor)
    assert found.tensor.numpy().tolist() == [1, 1]
    assert found.names is names
    assert found.history == [1.0, 2.0]
    assert found.same is found.table is table
    assert table.tolist() == [1, 1, 1]


@pytest.mark.core
def test_an_optimizer_of_a_part_of_the_variables_is_built_for_them_again(tmp_path: Path) -> None:
    model, new = make_odd(), make_odd()
    model.optimizer = keras.optimizers.Adam()
    new.optimizer = keras.optimizers.Adam()
    model.optimizer.apply([keras.ops.ones((1,))], [model.layers[0].bias])
    file = tmp_path / "c.npz"
    state = checkpoint.capture_state(model, ())
    checkpoint.save_checkpoint(file, state, owner={}, history=[], best_epoch=None, best_value=None)
    checkpoint.load_checkpoint(file).restore(new)
    for each in (model, new):
        each.optimizer.apply([keras.ops.ones((1,))], [each.layers[0].bias])
    assert float(model.layers[0].bias[0]) == float(new.layers[0].bias[0]) != 0
    assert int(new.optimizer.iterations) == 2


def test_a_model_without_a_saved_value_is_refused(tmp_path: Path) -> None:
    model = make_odd()
    model.own.tools = [keras.optimizers.SGD()]
    file = tmp_path / "c.npz"
    state = checkpoint.capture_state(model, ())
    checkpoint.save_checkpoint(file, state, owner={}, history=[], best_epoch=None, best_value=None)
    saved = checkpoint.load_checkpoint(file)
    with pytest.raises(SpaceError, match=r"holds own\.tools\[0\], which the model that was built lacks"):
        saved.restore(make_odd())


class Restless(keras.callbacks.Callback):
    """A callback with all that a checkpoint can hold, and a file."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.dice, self.nets = keras.Variable(0.0), np.random.RandomState(3), [keras.layers.Dense(1)]
        self.nets[0].build((None, 2))
        self.file = sys.stdout


def test_the_variables_of_callbacks_are_restored(tmp_path: Path) -> None:
    model, callback, new = make_odd(), Restless(), Restless()
    callback.total.assign(3.0)
    callback.nets[0].bias.assign([4.0])
    callback.dice.rand()
    baseline = model_state.Baseline(model, [callback])
    callback.file = io.StringIO()
    state = checkpoint.capture_state(model, [callback], baseline)
    assert state.lost == ["Restless.file"]
    file = tmp_path / "c.npz"
    checkpoint.save_checkpoint(file, state, owner={}, history=[], best_epoch=None, best_value=None)
    checkpoint.load_checkpoint(file).restore_others(make_odd(), [new])
    assert (float(new.total.value), float(new.nets[0].bias[0]), new.dice.rand()) == (3.0, 4.0, callback.dice.rand())


class Watching(keras.callbacks.Callback):
    """A callback with data, and with objects of classes that no checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.data = np.arange(100_000.0)
        self.pairs = [("a", np.zeros(1000)), ("b", np.ones(1000))]
        self.words = ["x", "y"]
        self.frame = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
        self.table = np.array([object(), None])
        self.file = sys.stdout
        self.queue = iter([1, 2, 3])
        self.armed = False

    def on_train_begin(self, logs: Any = None) -> None:
        self.armed = True


def test_what_training_leaves_as_it_is_in_callbacks_is_neither_saved_nor_lost() -> None:
    model, callback = make_odd(), Watching()
    callback.on_train_begin()
    baseline = model_state.Baseline(model, [callback])
    state = checkpoint.capture_state(model, [callback], baseline)
    assert state.lost == []
    assert list(state.groups["callbacks"]) == []
    # Numbers are saved in any case, as `on_train_begin` may set them.
    assert state.callbacks[0]["attributes"] == {"armed": True}


def test_what_training_changes_in_callbacks_is_saved_or_lost(tmp_path: Path) -> None:
    model, callback, new = make_odd(), Watching(), Watching()
    callback.on_train_begin()
    baseline = model_state.Baseline(model, [callback])
    callback.data[7] = -1.0
    callback.pairs[1][1][:] = 5.0
    callback.words.append("z")
    callback.armed = False
    callback.frame.loc[0, "a"] = 9.0
    callback.table = np.array([None, None])
    next(callback.queue)
    state = checkpoint.capture_state(model, [callback], baseline)
    assert state.lost == ["Watching.frame", "Watching.table", "Watching.queue"]
    file = tmp_path / "c.npz"
    checkpoint.save_checkpoint(file, state, owner={}, history=[], best_epoch=None, best_value=None)
    saved = checkpoint.load_checkpoint(file)
    new.on_train_begin()
    later = model_state.Baseline(model, [new], saved=saved.callback_states)
    saved.restore_callbacks([new])
    assert (new.data[7], new.pairs[1][1][0], new.words, new.armed) == (-1.0, 5.0, ["x", "y", "z"], False)
    # A change stays in later checkpoints, also if a segment has undone it.
    new.words.pop()
    (again,) = checkpoint.capture_state(model, [new], later).callbacks
    assert set(again["attributes"]) == {"data", "pairs", "words", "armed"}
