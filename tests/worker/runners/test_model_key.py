"""A model's description, the base of its key, has all that its graph depends on, and no values of variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from search.worker.keras_session import session
from search.worker.runners.model_key import describe_callbacks, describe_model

pytestmark = pytest.mark.core


def network(
    units: int = 4,
    activation: Any = "relu",
    dropout: float = 0.2,
    l2: float = 0.0,
    loss: Any = "mse",
    optimizer: Callable[[], Any] | None = None,
    metrics: Any = (),
    extra: Callable[[], Any] | None = None,
    trainable: bool = True,
    seed: int = 0,
    **compile_options: Any,
) -> Any:
    with session(seed):
        inputs = keras.Input((3,))
        x = layers.Dense(units, activation=activation, kernel_regularizer=keras.regularizers.L2(l2))(inputs)
        x = layers.BatchNormalization(trainable=trainable)(x)
        x = layers.Dropout(dropout)(x)
        if extra is not None:
            x = extra()(x)
        model = keras.Model(inputs, layers.Dense(1)(x))
        made = keras.optimizers.Adam(0.01) if optimizer is None else optimizer()
        model.compile(made, loss, metrics=list(metrics), **compile_options)
        return model


def test_learning_rates_and_seeds_are_left_out() -> None:
    expected = describe_model(network())
    assert expected is not None
    assert describe_model(network(seed=1)) == expected
    assert describe_model(network(optimizer=lambda: keras.optimizers.Adam(0.3), seed=2)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"units": 5},
        {"activation": "tanh"},
        {"dropout": 0.3},
        {"l2": 1e-4},
        {"loss": "mae"},
        {"loss": keras.losses.Huber(2.0)},
        {"metrics": ["mae"]},
        {"trainable": False},
        {"optimizer": lambda: keras.optimizers.Adam(0.01, beta_1=0.8)},
        {"optimizer": lambda: keras.optimizers.Adam(0.01, clipnorm=1.0)},
        {"optimizer": lambda: keras.optimizers.Adam(0.01, use_ema=True)},
        {"optimizer": lambda: keras.optimizers.SGD(0.01)},
        {"optimizer": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 100))},
        {"loss_weights": [0.5]},
        {"run_eagerly": True},
        {"extra": lambda: layers.LayerNormalization()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_everything_a_graph_depends_on_is_described(options: dict[str, Any]) -> None:
    found = describe_model(network(**options))
    assert found is not None
    assert found != describe_model(network())
    assert found == describe_model(network(**options, seed=3))


def test_attributes_missing_in_configurations_are_described() -> None:
    one, other = (network(loss=keras.losses.Huber(delta)) for delta in (1.0, 2.0))
    assert describe_model(one) != describe_model(other)
    smooth = [network(loss=keras.losses.BinaryCrossentropy(label_smoothing=share)) for share in (0.0, 0.1)]
    assert describe_model(smooth[0]) != describe_model(smooth[1])


def test_the_order_of_connections_is_described() -> None:
    def branches(swapped: bool) -> Any:
        with session(0):
            inputs = keras.Input((3,))
            one, two = layers.Dense(4)(inputs), layers.Dense(4)(inputs)
            joined = layers.Subtract()([two, one] if swapped else [one, two])
            model = keras.Model(inputs, joined)
            model.compile("adam", "mse")
            return model

    assert describe_model(branches(False)) == describe_model(branches(False)) is not None
    assert describe_model(branches(False)) != describe_model(branches(True))


def test_attributes_of_a_variable_are_described() -> None:
    """Weight decay may be added to a loaded model so: tracing reads it from the variable, not from its layer."""
    plain, decayed, constrained = network(), network(), network()
    decayed.layers[1].kernel.regularizer = keras.regularizers.L2(0.1)
    constrained.layers[1].kernel.constraint = keras.constraints.NonNeg()
    descriptions = [describe_model(model) for model in (plain, decayed, constrained)]
    assert None not in descriptions
    assert len(set(descriptions)) == 3


def test_a_deep_model_is_described() -> None:
    with session(0):
        x = inputs = keras.Input((1,))
        for _ in range(500):
            x = layers.Activation("relu")(x)
        model = keras.Model(inputs, x)
        model.compile("adam", "mse")
    assert describe_model(model) is not None


class Own(layers.Layer):
    def call(self, x: Any) -> Any:
        return x


class Subclass(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def subclass() -> Any:
    model = Subclass()
    model.compile("adam", "mse")
    model(np.zeros((1, 3), "float32"))
    return model


def normalized() -> Any:
    layer = layers.Normalization()
    layer.adapt(np.arange(12.0).reshape(4, 3))
    model = keras.Sequential([layers.Input((3,)), layer, layers.Dense(1)])
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: network(extra=Own), id="layer"),
        pytest.param(lambda: network(extra=lambda: layers.Lambda(lambda x: x * 2)), id="Lambda"),
        pytest.param(lambda: network(activation=lambda x: x), id="activation"),
        pytest.param(lambda: network(loss=lambda y, p: (y - p) ** 2), id="loss"),
        pytest.param(lambda: network(metrics=[lambda y, p: y - p]), id="metric"),
        pytest.param(subclass, id="subclass"),
        pytest.param(normalized, id="constants of TensorFlow"),
    ],
)
def test_a_model_with_parts_of_the_users_is_not_described(make: Callable[[], Any]) -> None:
    assert describe_model(make()) is None


def test_callbacks_that_may_know_more_are_not_described() -> None:
    known = [keras.callbacks.EarlyStopping(patience=2), keras.callbacks.ReduceLROnPlateau()]
    assert describe_callbacks([]) is not None
    assert describe_callbacks(known) is not None
    for callback in (
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
        type("Own", (keras.callbacks.Callback,), {})(),
    ):
        assert describe_callbacks([*known, callback]) is None
