"""A multilayer perceptron, built with the functional API, for scikit-learn's digits (1,797 images of 8 × 8).

search run spaces/digits.py
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_data():
    digits = load_digits()
    x = (digits.data / 16).astype("float32")
    y = digits.target.astype("int32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def mlp(units=(128,), activation="relu", batch_norm=False, dropout=0.2):
    """Return the model. Its plain arguments have sensible defaults, so `mlp()` also works outside a search."""
    inputs = keras.Input((64,))
    x = inputs
    for width in units:
        x = layers.Dense(width, activation=activation)(x)
        if batch_norm:
            x = layers.BatchNormalization()(x)
        x = layers.Dropout(dropout)(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    return keras.Model(inputs, outputs)


def build_model(hp):
    # The search needs only this thin function around the factory: it says which values to try.
    return mlp(
        units=[hp.Int(f"units_{i}", 16, 256, sampling="log") for i in range(hp.Int("layers", 1, 3))],
        activation=hp.Choice("activation", ["relu", "tanh"]),
        batch_norm=hp.Boolean("batch_norm"),
        dropout=hp.Float("dropout", 0.0, 0.5),
    )


def compile_model(hp, model):
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def fit_options(hp):
    return {"batch_size": hp.Choice("batch_size", [32, 64, 128])}


search_options = {"max_epochs": 27}
