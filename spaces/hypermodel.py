"""A `keras_tuner.HyperModel` that comes with KerasTuner, on small images. (With a `fit`: `hypermodel_fit.py`.)

search run spaces/hypermodel.py
"""

import keras
from keras_tuner.applications import HyperXception
from sklearn.datasets import load_digits


def load_data():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    y = keras.utils.to_categorical(y)
    return (x[:600], y[:600]), (x[1500:], y[1500:])


class SmallXception(HyperXception):
    """An Xception that is small enough for an example.

    `HyperXception(input_shape=(8, 8, 1), classes=10)` would also run unchanged, but for as long as an Xception takes.
    Here some of its hyperparameters are fixed first. When `HyperXception` asks for them, it gets the fixed value.
    """

    def build(self, hp):
        hp.Fixed("activation", "selu")
        hp.Fixed("sep_num_filters", 128)
        hp.Fixed("num_residual_blocks", 2)
        hp.Fixed("learning_rate", 1e-3)
        return super().build(hp)


hypermodel = SmallXception(input_shape=(8, 8, 1), classes=10)

search_options = {"max_epochs": 6, "max_trials": 6}
