"""What a worker holds: trials go on without being built anew, or train by the graph of another, with equal results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.executors.inline import InlineExecutor
from search.messages import Segment
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.trial import Objective
from search.testing.executors import Conversation
from search.worker import checkpoint
from search.worker import model_cache as held
from search.worker import segment as training
from search.worker.runners import graph_cache as graphs
from search.worker.runners.tensorflow import epochs as fused_tensorflow

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
    """A worker for a space of one kind."""

    def __init__(self, folder: Path, kind: str, *, holds: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self.hold: tuple[int, ...] = (0, 1) if holds else ()
        self.drops = not holds
        (folder / "space.py").write_text(SPACE.replace('KIND = "plain"', f'KIND = "{kind}"'))
        self._executor = InlineExecutor()

    def train(
        self, trial: int, from_epoch: int, to_epoch: int, values: Mapping[str, Any] = EMPTY, **options: Any
    ) -> list[Any]:
        """Train a part of a trial.

        Args:
            values: its hyperparameters, where they are not those of all.
        """
        usual = {"units": 6, "rate": 0.01 * (1 + trial), "dropout": 0.2, "l2": 1e-4, "batch_size": 8}
        given: dict[str, Any] = {
            "values": {**usual, **values},
            "seed": 7 + trial,
            "folder": str(self.folder / str(trial)),
            "hold": self.hold,
            **options,
        }
        if self.drops:
            held.drop_all()
            graphs.drop_all()
        segment = Segment(
            trial=trial,
            execution=0,
            space=SpaceRef(str(self.folder / "space.py")),
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=Objective("val_loss", "min"),
            **given,
        )
        conversation = Conversation(self._executor).run(segment)
        assert conversation.end.outcome == "reached", conversation.end.error
        return conversation.curve

    @property
    def built(self) -> int:
        return len((self.folder / "built").read_text().splitlines())

    def state(self, trial: int) -> list[np.ndarray[Any, Any]]:
        saved = checkpoint.load(TrialPaths(self.folder / str(trial)).checkpoint(0))
        return [array for group in saved._groups.values() for array in group]


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        ("plain", 2),
        pytest.param("average", 2, marks=pytest.mark.slow),
        pytest.param("stream", 2, marks=pytest.mark.slow),
        # What a callback of the user's remembers, or does to its model, no checkpoint may hold.
        pytest.param("unfreeze", 5, marks=pytest.mark.slow),
        pytest.param("batches", 5, marks=pytest.mark.slow),
    ],
)
def test_what_is_held_goes_on_as_if_it_had_been_built_anew(tmp_path: Path, kind: str, built: int) -> None:
    holding, building = Worker(tmp_path / "a", kind, holds=True), Worker(tmp_path / "b", kind, holds=False)
    assert_same(holding, building, [(0, 0, 1), (1, 0, 2), (0, 1, 3), (1, 2, 3), (0, 3, 4)])
    assert (holding.built, building.built) == (built, 5)


def assert_same(one: Worker, other: Worker, parts: Sequence[tuple[Any, ...]]) -> None:
    """Both workers, one after the other, train the same parts with the same results."""
    curves = []
    for worker in (one, other):
        training.forget()
        curves.append([worker.train(*part) for part in parts])
    held.drop_all()
    assert curves[0] == curves[1]
    assert len({str(curve) for curve in curves[0]}) == len(parts)
    for trial in {part[0] for part in parts}:
        for array, same in zip(one.state(trial), other.state(trial), strict=True):
            np.testing.assert_array_equal(array, same)


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are traced from now on."""
    traced: list[Any] = []
    trace = fused_tensorflow._functions

    def functions(model: Any, plan: Any) -> Any:
        traced.append(model)
        return trace(model, plan)

    monkeypatch.setattr(fused_tensorflow, "_functions", functions)
    return traced


@pytest.mark.slow
def test_one_graph_serves_trials_that_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = count_traces(monkeypatch)
    sharing, building = Worker(tmp_path / "a", "plain", holds=True), Worker(tmp_path / "b", "plain", holds=False)
    wide = {"units": 9, "dropout": 0.4, "l2": 1e-3, "batch_size": 16}
    parts = [(0, 0, 2), (1, 0, 1, wide), (0, 2, 3), (2, 0, 2, {"units": 2}), (1, 1, 3, wide)]
    assert_same(sharing, building, parts)
    assert (sharing.built, building.built) == (3, 5)
    assert len(traced) == 1 + 5


def test_a_trial_whose_checkpoint_is_gone_begins_anew(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", holds=True)
    (first,) = worker.train(0, 0, 1)
    TrialPaths(worker.folder / "0").checkpoint(0).unlink()
    again = worker.train(0, 1, 2)
    assert again[0] == first
    assert len(again) == 2
    assert worker.built == 2


def test_what_is_not_the_same_training_is_built_anew(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", holds=True)
    held.drop_all()
    worker.train(0, 0, 1)
    assert worker.built == 1
    worker.train(0, 1, 2, seed=8)
    assert worker.built == 2
    other = {"units": 5, "rate": 0.1}
    worker.train(0, 2, 3, seed=8, values=other)
    assert worker.built == 3
    worker.train(0, 3, 4, seed=8, values=other, cached_trials=())  # for the last time
    assert worker.built == 3
    worker.train(1, 0, 1, values=other, cached_trials=(1,))
    assert worker.built == 4
    worker.train(0, 4, 5, seed=8, values=other)  # let go of
    assert worker.built == 5
    InlineExecutor()  # another search in the same process
    worker.train(0, 5, 6, seed=8, values=other)
    assert worker.built == 6


def test_no_more_is_held_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(tmp_path / "a", "plain", holds=True)
    held.drop_all()
    values = [{"units": units} for units in (6, 7)]
    worker.train(0, 0, 1, values=values[0])
    size = graphs.size(held._held[0].training.model)
    monkeypatch.setattr(held, "MOST", size * 3 // 2)
    worker.train(1, 0, 1, values=values[1])
    assert [each.trial for each in held._held] == [1]
    worker.train(1, 1, 2, values=values[1])
    assert worker.built == 2
    worker.train(0, 1, 2, values=values[0])
    assert worker.built == 3


def test_what_nobody_comes_back_to_is_not_held(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "a", "plain", holds=True)
    training.forget()
    for trial in range(3):
        worker.train(trial, 0, 1, cached_trials=())
    assert len(held._held) == 0
    assert len(graphs._made) == 1
    training.forget()
