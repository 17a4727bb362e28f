"""A wider convolutional network on noisy digits of 32 × 32: arithmetic is all but a few per cent of an epoch."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_data():
    digits = load_digits()
    rng = np.random.default_rng(0)
    x = np.kron((digits.data / 16).reshape(-1, 8, 8), np.ones((4, 4)))[..., None]
    x = (x + rng.normal(0, 0.3, x.shape)).astype("float32")
    y = digits.target.astype("int32")
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    return (x[:640], y[:640]), (x[640:800], y[640:800])


def build_model(hp):
    width = hp.Choice("width", [48, 64])
    inputs = keras.Input((32, 32, 1))
    x = inputs
    for filters in (width, 2 * width):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    rate = hp.Float("lr", 1e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit_options(hp):
    return {"batch_size": 32}
