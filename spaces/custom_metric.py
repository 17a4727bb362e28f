"""An objective that plain Python computes: the F1 score by scikit-learn.

A callback adds the score to each epoch's logs. The learning rate's warm-up and schedule are hyperparameters.

search run spaces/custom_metric.py
"""

import functools

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

SIDE, TRAINING = 8, 1200


# The callback needs the data, too: cached, they are loaded once in each process.
@functools.cache
def load_data():
    """Return images labelled 1 for an eight and 0 otherwise. One in ten is an eight, so accuracy would say little."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x = digits.images[order].astype("float32")
    y = (digits.target[order] == 8).astype("float32")
    return (x[:TRAINING], y[:TRAINING]), (x[TRAINING:], y[TRAINING:])


def score(model):
    x, y = load_data()[1]
    return float(f1_score(y, model.predict(x, batch_size=256, verbose=0)[:, 0] > 0.5, zero_division=0))


class F1(keras.callbacks.Callback):
    """A callback that adds `val_f1` to the logs. The search reads the logs after all callbacks have run.

    Any Python code may compute such a value.
    """

    def on_epoch_end(self, epoch, logs=None):
        logs["val_f1"] = score(self.model)


def callbacks(hp):
    return [F1()]


@keras.saving.register_keras_serializable("custom_metric")
class Halves(layers.Layer):
    """A layer with one input and two outputs: the upper and the lower half of each image."""

    def call(self, images):
        middle = images.shape[1] // 2
        return images[:, :middle], images[:, middle:]


@keras.saving.register_keras_serializable("custom_metric")
class Noise(layers.Layer):
    """Random noise during training, and none at inference."""

    def __init__(self, stddev, **options):
        super().__init__(**options)
        self.stddev = stddev
        # The generator's state is part of the model: a resumed trial draws the numbers that it would have drawn.
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return x + keras.random.normal(ops.shape(x), stddev=self.stddev, seed=self.generator) if training else x

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}


def build_model(hp):
    images = keras.Input((SIDE, SIDE))
    # Lambda turns any operation without weights into a layer. A file with one is loaded with `safe_mode=False`, so take
    # a layer of Keras's if there is one: `layers.Rescaling(1 / 16)` does the same.
    x = layers.Lambda(lambda images: images / 16)(images)
    x = Noise(hp.Float("noise", 0.0, 0.3))(x)
    units = hp.Int("units", 8, 64, sampling="log")
    halves = [layers.Dense(units, activation="relu")(layers.Flatten()(half)) for half in Halves()(x)]
    x = layers.Dense(units, activation="relu")(layers.Concatenate()(halves))
    outputs = layers.Dense(1, activation="sigmoid")(x)
    return keras.Model(images, outputs)


@keras.saving.register_keras_serializable("custom_metric")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from nearly 0 to another schedule, over `steps` steps."""

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
    epoch = -(-TRAINING // batch_size(hp))  # in steps: the optimizer counts steps, not epochs
    rate = hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")
    kind = hp.Choice("schedule", ["cosine", "exponential"])
    with hp.conditional_scope("schedule", [kind]):
        if kind == "cosine":
            schedule = keras.optimizers.schedules.CosineDecay(rate, hp.Int("cosine_epochs", 5, 20) * epoch)
        else:
            # A factor of 1 keeps the rate constant.
            kept = hp.Float("kept_each_epoch", 0.7, 1.0)
            schedule = keras.optimizers.schedules.ExponentialDecay(rate, epoch, kept)
    warm_up = hp.Int("warm_up_epochs", 0, 3)
    if warm_up:
        schedule = WarmUp(schedule, warm_up * epoch)
    model.compile(keras.optimizers.Adam(schedule), "binary_crossentropy")


def fit_options(hp):
    return {"batch_size": batch_size(hp)}


# The direction of an objective that only a callback computes is known only if the words of its name are clear. It
# decides a trial's best epoch, and so which weights are kept.
search_options = {"objective": "val_f1", "direction": "max", "max_epochs": 9}
