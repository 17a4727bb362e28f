"""The multilayer perceptron of `mlp.py` on a `PyDataset`, whose batches are made in Python."""

import math

import keras
from mlp import build_model, load_digit_images

__all__ = ["build_model", "fit_options", "load_data"]


class Digits(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return math.ceil(len(self.x) / 32)

    def __getitem__(self, index):
        batch = slice(32 * index, 32 * (index + 1))
        return self.x[batch].astype("float32") / 16, self.y[batch]


def load_data():
    train, validation = load_digit_images()
    return Digits(*train), Digits(*validation)


def fit_options(hp):
    return {}
