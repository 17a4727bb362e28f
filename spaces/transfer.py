"""Transfer learning: a body from `keras.applications` without its top, and a new head.

The body is frozen first. Then a callback unfreezes it and compiles again with a lower learning rate.

search run spaces/transfer.py
"""

import keras
import numpy as np
from keras import layers

CLASSES = 3  # with 2 the model is binary: one sigmoid instead of a softmax
SIZE = 32
WEIGHTS = None  # random weights, which need no download; use "imagenet" for real work


def textures(samples, seed):
    """Return images of stripes on noise. The direction of the stripes is the class; width and colours vary."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=samples)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    x = rng.normal(128, 40, (samples, SIZE, SIZE, 3))
    for image, label in zip(x, y, strict=True):
        angle = np.pi * label / CLASSES + rng.normal(0, 0.15)
        across = np.cos(angle) * rows + np.sin(angle) * columns
        wave = np.sin(2 * np.pi * (rng.uniform(4, 8) * across + rng.random()))
        image += wave[..., None] * rng.uniform(30, 80, 3)
    return np.clip(x, 0, 255).astype("float32"), y


def load_data():
    return textures(400, seed=0), textures(200, seed=1)


def build_model(hp):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    network = keras.applications.MobileNet(
        input_shape=(SIZE, SIZE, 3), alpha=0.25, include_top=False, weights=WEIGHTS, name="mobilenet"
    )
    # The depth of the body is a hyperparameter, too: the first layers detect edges, the last ones detect cats.
    last = network.get_layer(hp.Choice("last_layer", ["conv_pw_2_relu", "conv_pw_3_relu"]))
    body = keras.Model(network.input, last.output, name="body")
    body.trainable = False
    x = layers.Flatten()(body(x))
    # The features of a random body have any norm; this layer makes the norm 1.
    x = layers.UnitNormalization()(x)
    x = layers.Dense(hp.Int("units", 16, 128, sampling="log"), activation="relu")(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    outputs = layers.Dense(1, activation="sigmoid")(x) if CLASSES == 2 else layers.Dense(CLASSES, "softmax")(x)
    return keras.Model(inputs, outputs)


def compile_with(model, rate):
    loss = "binary_crossentropy" if CLASSES == 2 else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])


def compile_model(hp, model):
    compile_with(model, hp.Float("learning_rate", 3e-3, 3e-2, sampling="log"))


class FineTune(keras.callbacks.Callback):
    """A callback that trains the body, too, after `epochs` epochs. A resumed trial trains the same layers.

    A search takes up the new compilation. Plain `model.fit` raises an error: call it twice there, once for each phase.
    """

    def __init__(self, epochs, rate):
        super().__init__()
        self.epochs, self.rate = epochs, rate

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            body = self.model.get_layer("body")
            body.trainable = True
            for layer in body.layers:
                # Batch normalization keeps the statistics of the images that the body was trained on.
                if isinstance(layer, layers.BatchNormalization):
                    layer.trainable = False
            compile_with(self.model, self.rate)


def callbacks(hp):
    return [FineTune(hp.Int("frozen_epochs", 1, 3), hp.Float("fine_tuning_rate", 3e-4, 1e-2, sampling="log"))]


search_options = {"max_epochs": 9, "max_trials": 12}
