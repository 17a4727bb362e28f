"""Data that `model.fit` takes are trained on by both runners, with its logs; data that it refuses are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from search.worker.data.arrays import prepare_data
from search.worker.runners.choose import choose_runner, create_weights

L = keras.layers
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 6)).astype("float32")
Y = X.sum(1)
LABELS = (Y > 0).astype("int64")
IMAGES = rng.normal(size=(40, 8, 8)).astype("float32")
A, B = X[:, :3], X[:, 3:]


def dense(units: int = 1, activation: str | None = None) -> Any:
    return keras.Sequential([keras.Input((6,)), L.Dense(units, activation=activation)])


def images() -> Any:
    return keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(2, 3), L.Flatten(), L.Dense(1)])


def two_inputs(named: bool) -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    return keras.Model({"b": b, "a": a} if named else [a, b], L.Dense(1)(L.Concatenate()([a, b])))


def two_outputs(named: bool) -> Any:
    x = keras.Input((6,))
    p, q = L.Dense(1, name="p")(x), L.Dense(1, name="q")(x)
    return keras.Model(x, {"p": p, "q": q} if named else [p, q])


class OwnStep(keras.Model):  # type: ignore[misc]  # keras is untyped
    """A model with the training step of Keras's guide."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


class Reconstructs(keras.Model):  # type: ignore[misc]
    """A model without `call`, whose step takes x alone."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.decode = L.Dense(2), L.Dense(6)

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self.decode(self.code(data)) - data) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "dense": (dense, "mse"),
    "deferred": (lambda: keras.Sequential([L.Dense(1)]), "mse"),
    "binary": (lambda: dense(1, "sigmoid"), "binary_crossentropy"),
    "sparse": (lambda: dense(2, "softmax"), "sparse_categorical_crossentropy"),
    "categorical": (lambda: dense(2, "softmax"), "categorical_crossentropy"),
    "images": (images, "mse"),
    "list in": (lambda: two_inputs(False), "mse"),
    "dict in": (lambda: two_inputs(True), "mse"),
    "list out": (lambda: two_outputs(False), "mse"),
    "dict out": (lambda: two_outputs(True), {"p": "mse", "q": "mae"}),
    "own step": (OwnStep, "mse"),
    "no call": (Reconstructs, None),
}
CASES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "y as a vector": ("dense", (X, Y)),
    "y as a column": ("dense", (X, Y[:, None])),
    "float64": ("deferred", (X.astype("float64"), Y.astype("float64"))),
    "whole numbers": ("dense", ((X * 10).astype("int32"), LABELS)),
    "flags": ("binary", (X > 0, LABELS > 0)),
    "sample weights": ("dense", (X, Y, np.linspace(0, 1, 40))),
    "labels": ("sparse", (X, LABELS)),
    "labels in a column": ("sparse", (X, LABELS[:, None])),
    "one-hot rows": ("categorical", (X, np.eye(2)[LABELS])),
    "labels for one-hot rows": ("categorical", (X, LABELS)),
    "images without channels": ("images", (IMAGES, Y)),
    "images of bytes": ("images", ((IMAGES > 0).astype("uint8")[..., None], Y)),
    "a list": ("list in", ([A, B], Y)),
    "a tuple": ("list in", ((A, B), Y)),
    "a dict for a list": ("list in", ({"a": A, "b": B}, Y)),
    "a dict in another order": ("dict in", ({"a": A, "b": B}, Y)),
    "a dict with more": ("dict in", ({"a": A, "b": B, "c": X}, Y)),
    "a dict with less": ("dict in", ({"a": A}, Y)),
    "two targets": ("list out", (X, [Y, Y])),
    "one target for two outputs": ("list out", (X, Y)),
    "named targets": ("dict out", (X, {"q": 2 * Y, "p": Y})),
    "a missing target": ("dict out", (X, {"p": Y})),
    "another width": ("dense", (X[:, :5], Y)),
    "x, y = data": ("own step", (X, Y)),
    "x alone": ("no call", (X,)),
}


def fresh(name: str) -> Any:
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    make, loss = MODELS[name]
    model = make()
    model.compile("sgd", loss)
    return model


def by_fit(name: str, data: tuple[Any, ...]) -> dict[str, Any]:
    arguments = dict(zip(("x", "y", "sample_weight"), data, strict=False))
    validation = data if len(data) > 1 else None
    history = fresh(name).fit(
        **arguments, validation_data=validation, batch_size=16, epochs=2, shuffle=False, verbose=0
    )
    return dict(history.history)


def by_runner(name: str, data: tuple[Any, ...], fuse: bool) -> tuple[str, dict[str, Any]]:
    model, history = fresh(name), keras.callbacks.History()
    prepared = prepare_data((data, data if len(data) > 1 else None))
    create_weights(model, prepared.train)
    runner = choose_runner(model, prepared, {"batch_size": 16, "shuffle": False}, 1, [history], fuse)
    runner.run(0, 2, [history])
    return runner.name, dict(history.history)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The structure of .inputs. doesn't match the expected structure")
@pytest.mark.parametrize("case", CASES)
def test_data_are_taken_and_refused_as_by_fit(case: str) -> None:
    name, data = CASES[case]
    try:
        expected = by_fit(name, data)
    except Exception:
        for fuse in (True, False):
            with pytest.raises(Exception):  # noqa: B017, PT011  # of any class, as in Keras
                by_runner(name, data, fuse)
        return
    for fuse in (True, False):
        runner, found = by_runner(name, data, fuse)
        assert runner == ("fused" if fuse else "fit: asked for")
        assert found.keys() == expected.keys()
        for log, values in expected.items():
            assert found[log] == pytest.approx(values, rel=1e-5), log
