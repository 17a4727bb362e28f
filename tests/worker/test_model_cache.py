"""The model cache: a trial continues with its cached model, or trains by another model's graph, with equal results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from search.executors.inline import InlineExecutor
from search.messages import Segment
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker import model_cache
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache, count_scalars
from search.worker.segment import clear_caches

SPACE = """
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

KIND = "plain"
x = np.random.default_rng(0).random((70, 4)).astype("float32")
y = x.sum(axis=1)


class Unfreeze(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.layers[0].trainable = True
            self.model.compile(keras.optimizers.Adam(1e-3), "mse")


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        logs["batches"] = self.batches


def load_data():
    train = (x[:50], y[:50])
    if KIND == "stream":
        train = tf.data.Dataset.from_tensor_slices(train).shuffle(50, seed=3).batch(8)
    return train, (x[50:], y[50:])


def build_model(hp):
    with open(Path(__file__).with_name("built"), "a") as file:
        print("x", file=file)
    layers = keras.layers
    model = keras.Sequential([
        layers.Input((4,)),
        layers.Dense(hp.Int("units", 2, 9), kernel_regularizer=keras.regularizers.L2(hp.Float("l2", 0, 1))),
        layers.BatchNormalization(),
        layers.Dropout(hp.Float("dropout", 0, 0.5)),
        layers.Dense(1),
    ])
    if KIND == "unfreeze":
        model.layers[0].trainable = False
    rate = hp.Float("rate", 1e-3, 1e-1)
    model.compile(keras.optimizers.Adam(rate, use_ema=KIND == "average"), "mse")
    return model


def fit_options(hp):
    size = hp.Int("batch_size", 8, 32)
    return {} if KIND == "stream" else {"batch_size": size}


def callbacks(hp):
    return {
        "plain": [keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=10.0)],
        "average": [keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)],
        "unfreeze": [Unfreeze()],
        "batches": [Batches()],
    }.get(KIND, [])
"""


EMPTY: Mapping[str, Any] = {}


class Worker:
    """A worker for a space of one kind.

    Args:
        caches: whether models and graphs stay cached between segments.
    """

    def __init__(self, folder: Path, kind: str, *, caches: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self.caches = caches
        (folder / "space.py").write_text(SPACE.replace('KIND = "plain"', f'KIND = "{kind}"'))
        self._executor = InlineExecutor()

    def segment(
        self, trial: int, from_epoch: int, to_epoch: int, values: Mapping[str, Any] = EMPTY, **options: Any
    ) -> Segment:
        """Make a segment of a trial.

        Args:
            values: hyperparameters that differ from those of all trials.
        """
        defaults = {"units": 6, "rate": 0.01 * (1 + trial), "dropout": 0.2, "l2": 1e-4, "batch_size": 8}
        arguments: dict[str, Any] = {
            "seed": 7 + trial,
            "cached_trials": (0, 1) if self.caches else (),
            **options,
        }
        return Segment(
            trial=trial,
            execution=0,
            space=SpaceRef(str(self.folder / "space.py")),
            values={**defaults, **values},
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=Objective("val_loss", "min"),
            folder=str(self.folder / str(trial)),
            **arguments,
        )

    def train(self, *args: Any, **options: Any) -> list[Any]:
        """Train the segment of these arguments and return its curve."""
        if not self.caches:
            model_cache.clear_model_cache()
            clear_graph_cache()
        conversation = Conversation(self._executor).run(self.segment(*args, **options))
        assert conversation.end.outcome == "reached", conversation.end.error
        return conversation.curve

    @property
    def built(self) -> int:
        """The number of models built so far."""
        return len((self.folder / "built").read_text().splitlines())

    def state(self, trial: int) -> list[np.ndarray[Any, Any]]:
        """Return the arrays of the trial's checkpoint."""
        with np.load(TrialPaths(self.folder / str(trial)).checkpoint(0)) as file:
            return [file[name] for name in sorted(file.files) if name != "meta"]


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        ("plain", 2),
        pytest.param("average", 2, marks=pytest.mark.slow),
        pytest.param("stream", 2, marks=pytest.mark.slow),
        # A user's callback may have a state, or change its model, which a checkpoint may not hold.
        pytest.param("unfreeze", 5, marks=pytest.mark.slow),
        pytest.param("batches", 5, marks=pytest.mark.slow),
    ],
)
def test_a_cached_model_trains_as_a_new_one(tmp_path: Path, kind: str, built: int) -> None:
    caching, building = Worker(tmp_path / "a", kind, caches=True), Worker(tmp_path / "b", kind, caches=False)
    assert_same(caching, building, [(0, 0, 1), (1, 0, 2), (0, 1, 3), (1, 2, 3), (0, 3, 4)])
    assert (caching.built, building.built) == (built, 5)


def assert_same(one: Worker, other: Worker, parts: Sequence[tuple[Any, ...]]) -> None:
    """Train the same segments in both workers, one after the other, and compare the results."""
    curves = []
    for worker in (one, other):
        clear_caches()
        curves.append([worker.train(*part) for part in parts])
    model_cache.clear_model_cache()
    assert curves[0] == curves[1]
    assert len({str(curve) for curve in curves[0]}) == len(parts)
    for trial in {part[0] for part in parts}:
        for array, same in zip(one.state(trial), other.state(trial), strict=True):
            np.testing.assert_array_equal(array, same)


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each model traced from now on."""
    traced: list[Any] = []
    train_step = keras.Model.train_step

    def trace(model: Any, data: Any) -> Any:
        if not tf.executing_eagerly():  # else a graph is compared with it
            traced.append(model)
        return train_step(model, data)

    monkeypatch.setattr(keras.Model, "train_step", trace)
    return traced


@pytest.mark.slow
def test_one_graph_serves_trials_that_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = count_traces(monkeypatch)
    sharing, building = Worker(tmp_path / "a", "plain", caches=True), Worker(tmp_path / "b", "plain", caches=False)
    wide = {"units": 9, "dropout": 0.4, "l2": 1e-3, "batch_size": 16}
    parts = [(0, 0, 2), (1, 0, 1, wide), (0, 2, 3), (2, 0, 2, {"units": 2}), (1, 1, 3, wide)]
    assert_same(sharing, building, parts)
    assert (sharing.built, building.built) == (3, 5)
    assert len(traced) == 1 + 5


def test_a_trial_without_its_checkpoint_starts_with_a_new_model(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", caches=True)
    (first,) = worker.train(0, 0, 1)
    TrialPaths(worker.folder / "0").checkpoint(0).unlink()
    again = worker.train(0, 1, 2)
    assert again[0] == first
    assert len(again) == 2
    assert worker.built == 2


def test_a_different_training_gets_a_new_model(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", caches=True)
    model_cache.clear_model_cache()
    worker.train(0, 0, 1)
    assert worker.built == 1
    worker.train(0, 1, 2, seed=8)
    assert worker.built == 2
    other = {"units": 5, "rate": 0.1}
    worker.train(0, 2, 3, seed=8, values=other)
    assert worker.built == 3
    worker.train(0, 3, 4, seed=8, values=other, cached_trials=())  # the last use of this model
    assert worker.built == 3
    worker.train(1, 0, 1, values=other, cached_trials=(1,))
    assert worker.built == 4
    worker.train(0, 4, 5, seed=8, values=other)  # no longer cached
    assert worker.built == 5
    InlineExecutor()  # another search in the same process
    worker.train(0, 5, 6, seed=8, values=other)
    assert worker.built == 6


def test_the_cached_models_have_a_maximum_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(tmp_path / "a", "plain", caches=True)
    model_cache.clear_model_cache()
    values = [{"units": units} for units in (6, 7)]
    worker.train(0, 0, 1, values=values[0])
    cached = model_cache.find_cached(worker.segment(0, 1, 2, values=values[0]))
    assert cached is not None
    monkeypatch.setattr(model_cache, "MAX_CACHED_SCALARS", count_scalars(cached.model) * 3 // 2)
    worker.train(1, 0, 1, values=values[1])
    assert model_cache.cached_trials() == [1]
    worker.train(1, 1, 2, values=values[1])
    assert worker.built == 2
    worker.train(0, 1, 2, values=values[0])
    assert worker.built == 3


def test_models_of_other_trials_are_not_cached(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", caches=True)
    clear_caches()
    for trial in range(3):
        worker.train(trial, 0, 1, cached_trials=())
    assert model_cache.cached_trials() == []
    assert len(cached_graphs()) == 1
    clear_caches()
