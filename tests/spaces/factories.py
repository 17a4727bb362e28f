"""A space with every kind of model that people write, each as one value of `kind`."""

import keras
import numpy as np
from keras import layers

SIZE = 4
KINDS = ["functional", "deferred", "subclass", "registered", "unregistered", "lambda", "loss", "metric"]
search_options = {"objective": "val_mae", "direction": "min"}


@keras.saving.register_keras_serializable("tests")
class Registered(layers.Layer):
    """A layer with its own weight, registered in Keras by name."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return x * self.scale * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Unregistered(Registered):
    """The same layer, not registered."""


class Regressor(keras.Model):
    """A subclassed model without `build`, whose weights are made at the first batch."""

    def __init__(self, units):
        super().__init__()
        self.hidden = layers.Dense(units, activation="relu")
        self.dropout = layers.Dropout(0.2)
        self.out = layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.dropout(self.hidden(x), training=training))


class MaximumError(keras.metrics.Metric):
    """A metric with its own state."""

    def __init__(self, **options):
        super().__init__(**options)
        self.largest = self.add_weight(name="largest", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(keras.ops.abs(y_true - y_pred))))

    def result(self):
        return self.largest


def quartic(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 4, axis=-1)


def body(kind, units):
    if kind == "subclass":
        return Regressor(units)
    extra = {
        "registered": lambda: [Registered(0.5)],
        "unregistered": lambda: [Unregistered(0.5)],
        "lambda": lambda: [layers.Lambda(lambda x: x * SIZE)],
    }
    stack = [layers.Dense(units, activation="relu"), layers.Dropout(0.2), *extra.get(kind, list)(), layers.Dense(1)]
    if kind == "deferred":
        return keras.Sequential(stack)
    x = keras.Input((SIZE,))
    y = x
    for layer in stack:
        y = layer(y)
    return keras.Model(x, y)


def build_model(hp):
    kind = hp.Choice("kind", KINDS)
    # One name under two conditions, with two domains.
    if kind == "subclass":
        with hp.conditional_scope("kind", ["subclass"]):
            units = hp.Int("units", 20, 24, step=4)
    else:
        with hp.conditional_scope("kind", [name for name in KINDS if name != "subclass"]):
            units = hp.Int("units", 3, 5, step=2)
    model = body(kind, units)
    regularizer = hp.Choice("regularizer", [None, "l2"])
    if regularizer is not None and kind != "subclass":
        model.layers[-1].kernel_regularizer = keras.regularizers.get(regularizer)
    metrics = ["mae", MaximumError(name="worst")] if kind == "metric" else ["mae"]
    model.compile("adam", loss=quartic if kind == "loss" else "mse", metrics=metrics)
    return model


def load_data():
    x = np.random.default_rng(0).normal(size=(80, SIZE)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:48], y[:48]), (x[48:64], y[48:64]), (x[64:], y[64:])
