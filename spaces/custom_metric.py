"""An objective that is no tensor operation: the F1 score by scikit-learn of whole predictions, which a callback adds to
each epoch's logs. Warm-up and schedule of the learning rate are hyperparameters.

search run spaces/custom_metric.py
"""

import functools

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

SIDE, TRAINING = 8, 1200


# The callback asks for the data, too: once a process is enough.
@functools.cache
def load_data():
    """Is it an eight? One in ten is, so that accuracy would say little."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x = digits.images[order].astype("float32")
    y = (digits.target[order] == 8).astype("float32")
    return (x[:TRAINING], y[:TRAINING]), (x[TRAINING:], y[TRAINING:])


def score(model):
    x, y = load_data()[1]
    return float(f1_score(y, model.predict(x, batch_size=256, verbose=0)[:, 0] > 0.5, zero_division=0))


class F1(keras.callbacks.Callback):
    """Anything that Python can compute may stand here. The search looks at the logs when all callbacks have."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_f1"] = score(self.model)


def callbacks(hp):
    return [F1()]


@keras.saving.register_keras_serializable("custom_metric")
class Halves(layers.Layer):
    """One input, two outputs: an image's upper and lower half."""

    def call(self, images):
        middle = images.shape[1] // 2
        return images[:, :middle], images[:, middle:]


@keras.saving.register_keras_serializable("custom_metric")
class Noise(layers.Layer):
    """Random in training, nothing at all when it is over."""

    def __init__(self, stddev, **options):
        super().__init__(**options)
        self.stddev = stddev
        # The generator's state belongs to the model's: a trial that goes on draws what it would have drawn.
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return x + keras.random.normal(ops.shape(x), stddev=self.stddev, seed=self.generator) if training else x

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}


def build_model(hp):
    images = keras.Input((SIDE, SIDE))
    x = layers.Lambda(lambda images: images / 16)(images)  # any operation that has no weights
    x = Noise(hp.Float("noise", 0.0, 0.3))(x)
    units = hp.Int("units", 8, 64, sampling="log")
    halves = [layers.Dense(units, activation="relu")(layers.Flatten()(half)) for half in Halves()(x)]
    x = layers.Dense(units, activation="relu")(layers.Concatenate()(halves))
    outputs = layers.Dense(1, activation="sigmoid")(x)
    return keras.Model(images, outputs)


@keras.saving.register_keras_serializable("custom_metric")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """From nearly nothing up to another schedule in so many steps."""

    def __init__(self, schedule, steps):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        done = (ops.cast(step, "float32") + 1) / self.steps
        return ops.minimum(done, 1.0) * self.schedule(step)

    def get_config(self):
        return {"schedule": self.schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["steps"])


def batch_size(hp):
    return hp.Choice("batch_size", [16, 32, 64])


def compile_model(hp, model):
    epoch = -(-TRAINING // batch_size(hp))  # in steps, as the optimizer counts
    rate = hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")
    kind = hp.Choice("schedule", ["cosine", "exponential"])
    with hp.conditional_scope("schedule", [kind]):
        if kind == "cosine":
            schedule = keras.optimizers.schedules.CosineDecay(rate, hp.Int("cosine_epochs", 5, 20) * epoch)
        else:
            # 1 keeps the rate as it is.
            kept = hp.Float("kept_each_epoch", 0.7, 1.0)
            schedule = keras.optimizers.schedules.ExponentialDecay(rate, epoch, kept)
    warm_up = hp.Int("warm_up_epochs", 0, 3)
    if warm_up:
        schedule = WarmUp(schedule, warm_up * epoch)
    model.compile(keras.optimizers.Adam(schedule), "binary_crossentropy")


def fit_options(hp):
    return {"batch_size": batch_size(hp)}


# What only a callback knows needs a direction. A trial's best epoch, and the weights that are kept, are those by it.
search_options = {"objective": "val_f1", "direction": "max", "max_epochs": 9}
