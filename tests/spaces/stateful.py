"""A space whose training has all kinds of state: weights, optimizer, random seeds, sample order, counters of callbacks.

A training that is cut anywhere and continues must have the same results.
`DIE_IN_CHECKPOINT=<n>:<write|rename>` makes a worker kill itself within its n-th checkpoint, once. `CHILDREN=1` gives
each worker two processes of its own, a forked one and another program, which have all that it has open.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

search_options = {"objective": "val_loss", "direction": "min", "max_epochs": 6, "factor": 2, "checkpoint_every": 0.0}


def load_data():
    if os.environ.get("CHILDREN"):
        subprocess.Popen(["sleep", "600"], close_fds=False)
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype("float32")
    y = np.sin(x[:, :1] * x[:, 1:2]).astype("float32")
    return (x[:56], y[:56]), (x[56:], y[56:])


def build_model(hp):
    x = keras.Input((6,))
    y = layers.GaussianNoise(0.1)(x)
    y = layers.Dense(hp.Int("units", 4, 24), activation=hp.Choice("activation", ["relu", "tanh"]))(y)
    y = layers.BatchNormalization()(y)
    y = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(y)
    model = keras.Model(x, layers.Dense(1)(y))
    if hp.Choice("optimizer", ["adam", "sgd"]) == "adam":
        optimizer = keras.optimizers.Adam(hp.Float("adam_rate", 1e-4, 1e-1, sampling="log"))
    else:
        optimizer = keras.optimizers.SGD(hp.Float("sgd_rate", 1e-3, 1e-1, sampling="log"), momentum=0.9)
    model.compile(optimizer, "mse")
    return model


class WarmUp(keras.callbacks.Callback):
    """Raises the learning rate over four epochs. The counter is a plain attribute."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.seen += 1
        assert self.seen == epoch + 1, "a counter was forgotten"
        if self.seen <= 4:
            self.model.optimizer.learning_rate.assign(self.model.optimizer.learning_rate * 1.2)


def callbacks(hp):
    # A model with a user's callback is built and traced for each segment. Other models are cached, and share graphs.
    own = [WarmUp()] if hp.Int("quarter", 1, 4) == 1 else []
    return [
        *own,
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=0.01),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=3),
    ]


def _die_in_a_checkpoint(when, where):
    from search.worker import checkpoint

    done, count = Path(__file__).with_name(f"died-{when}-{where}"), 0
    fsync, replace = os.fsync, Path.replace

    def die():
        nonlocal count
        count += 1
        if count == when and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    if where == "write":

        def dying(number):
            die()
            fsync(number)

        checkpoint.os = type("", (), {"fsync": staticmethod(dying), "getpid": staticmethod(os.getpid)})
    else:

        def renaming(self, target):
            die()
            return replace(self, target)

        Path.replace = renaming


if "DIE_IN_CHECKPOINT" in os.environ:
    _when, _where = os.environ["DIE_IN_CHECKPOINT"].split(":")
    _die_in_a_checkpoint(int(_when), _where)
