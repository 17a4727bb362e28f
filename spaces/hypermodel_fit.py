"""A `keras_tuner.HyperModel` with a `fit` of its own, written as in KerasTuner's guide. It runs unchanged.

search run spaces/hypermodel_fit.py
"""

import keras
import keras_tuner
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load_data():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8).astype("float32")
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


class Digits(keras_tuner.HyperModel):
    def build(self, hp):
        model = keras.Sequential([keras.Input((8, 8)), layers.Flatten()])
        for i in range(hp.Int("layers", 1, 2)):
            model.add(layers.Dense(hp.Int(f"units_{i}", 16, 128, sampling="log"), activation="relu"))
        model.add(layers.Dense(10, activation="softmax"))
        rate = hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, hp, model, x, y, **kwargs):
        """Train with two more hyperparameters: copies of each image moved sideways, and the batch size."""
        if hp.Boolean("moved_copies"):
            x = np.concatenate([x, np.roll(x, 1, axis=2), np.roll(x, -1, axis=2)])
            y = np.tile(y, 3)
        return model.fit(x, y, batch_size=hp.Choice("batch_size", [32, 64]), **kwargs)


hypermodel = Digits()

search_options = {"max_epochs": 9}
