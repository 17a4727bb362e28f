"""A small convolutional network on scikit-learn's digits, enlarged to 24 × 24: tracing takes longer than an epoch."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_data():
    digits = load_digits()
    x = (digits.data / 16).astype("float32")
    x = np.kron(x.reshape(-1, 8, 8), np.ones((3, 3), "float32"))[..., None]
    y = digits.target.astype("int32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def build_model(hp):
    inputs = keras.Input((24, 24, 1))
    x = inputs
    for i in range(hp.Int("blocks", 1, 3)):
        x = layers.Conv2D(hp.Int(f"filters_{i}", 8, 32, step=8), 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for i in range(hp.Int("layers", 1, 3)):
        units = hp.Int(f"units_{i}", 16, 256, sampling="log")
        x = layers.Dense(units, activation=hp.Choice("activation", ["relu", "tanh"]))(x)
        x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    rate = hp.Float("lr", 1e-4, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit_options(hp):
    return {"batch_size": 32}
