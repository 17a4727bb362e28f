"""One trial on several devices: each device has a copy of the model and takes its part of every batch.

search run spaces/data_parallel.py --gpus-per-trial 2
search run spaces/data_parallel.py --logical-devices 2     # the same without GPUs
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_data():
    images, y = load_digits(return_X_y=True)
    x = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype("int32")
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def build_model(hp):
    # Nothing here depends on the devices. The command line sets their number, and the same file runs on one device.
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(hp.Int("filters", 8, 32, step=8), 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * hp.get("filters"), 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D() if hp.Boolean("average") else layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def batch_size(hp):
    # The batch size of all devices together, so results do not depend on their number. Use multiples of that number.
    return hp.Choice("batch_size", [64, 128, 256])


def compile_model(hp, model):
    # With Adam, the learning rate grows with the square root of the batch size (Malladi et al., 2022,
    # arXiv:2205.10287). So a `learning_rate` that suits one batch size about suits the others, too.
    rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log") * (batch_size(hp) / 64) ** 0.5
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])


def fit_options(hp):
    return {"batch_size": batch_size(hp)}


search_options = {"max_epochs": 9}
