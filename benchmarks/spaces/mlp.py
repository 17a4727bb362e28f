"""A small multilayer perceptron on scikit-learn's digits: an epoch is a few milliseconds of arithmetic."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_digit_images():
    """Return the images as whole numbers from 0 to 16."""
    digits = load_digits()
    x, y = digits.data.astype("uint8"), digits.target.astype("int32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def load_data():
    (x, y), (x_validation, y_validation) = load_digit_images()
    return ((x / 16).astype("float32"), y), ((x_validation / 16).astype("float32"), y_validation)


def build_model(hp):
    inputs = keras.Input((64,))
    x = inputs
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
