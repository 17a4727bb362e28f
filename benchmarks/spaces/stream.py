"""The multilayer perceptron of `mlp.py` on a `tf.data.Dataset` that is batched before its `map`."""

import tensorflow as tf
from mlp import build_model, load_digit_images

__all__ = ["build_model", "fit_options", "load_data"]


def load_data():
    train, validation = load_digit_images()
    return as_stream(train, shuffled=True), as_stream(validation, shuffled=False)


def as_stream(arrays, shuffled):
    samples = tf.data.Dataset.from_tensor_slices(arrays)
    if shuffled:
        samples = samples.shuffle(len(arrays[0]), seed=0)
    return samples.batch(32).map(lambda x, y: (tf.cast(x, tf.float32) / 16, y))


def fit_options(hp):
    return {}
