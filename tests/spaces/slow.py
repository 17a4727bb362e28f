"""A space whose epochs take 0.3 seconds, so that there is time to kill the processes that run them.

A file `kill` beside this one orders a worker to kill itself, or to meet another of the `FATES`. Its format is
`<trial folder> <epoch> <once|always> [<fate>]`: the trial, the epoch (from 0) before which this happens, and whether
it happens on the first attempt or on each.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

import search


def load_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    return (x[:64], y[:64]), (x[64:], y[64:])


def build_model(hp):
    model = keras.Sequential([keras.Input((8,))])
    model.add(layers.Dense(hp.Int("units", 4, 32), activation=hp.Choice("activation", ["relu", "tanh"])))
    model.add(layers.Dropout(hp.Float("dropout", 0.0, 0.5)))
    model.add(layers.Dense(2, activation="softmax"))
    model.compile(
        keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class Fate(keras.callbacks.Callback):
    # With a callback that is not Keras's own, a model shares no graph, and tracing takes a second for each segment.
    __module__ = "keras"

    def on_epoch_begin(self, epoch, logs=None):
        time.sleep(float(os.environ.get("EPOCH_SECONDS", "0.3")))
        order = Path(__file__).with_name("kill")
        if not order.exists():
            return
        trial, when, how, *fate = order.read_text().split()
        done = search.trial_dir() / "killed"
        if search.trial_dir().name == trial and epoch == int(when) and (how == "always" or not done.exists()):
            done.touch()
            FATES[fate[0] if fate else "kill"]()


def run_out_of_memory():
    import tensorflow as tf

    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9999999]")


def hold_the_lock():
    """Hold the interpreter's lock, so that no other thread of this process can run."""
    search.trial_dir().joinpath("held").touch()
    ctypes.PyDLL(None).sleep(1000)


def fill_the_disk():
    with open(Path(os.environ["BALLAST"]), "wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


FATES = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "abort": os.abort,
    "exit": lambda: sys.exit(3),
    "hang": lambda: time.sleep(1000),
    "lock": hold_the_lock,
    "memory": run_out_of_memory,
    "disk": fill_the_disk,
}


def callbacks(hp):
    return [Fate()]


search_options = {"max_epochs": 4, "factor": 2, "backend": "hyperband"}
