"""A space whose training has state that Keras does not know of: two optimizers, counters, averaged weights and seeds.

A training that is cut anywhere and continues must have the same results, and the same state.
`DIE_AT=<epoch>:<worker|driver|raise>` makes a worker kill itself or the driver (`DRIVER`), or fail, at the beginning of
that epoch (from 0), once.
"""

import os
import random
import signal
import threading
from collections import deque
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

search_options = {
    "backend": "hyperband",
    "objective": "val_distance",
    "direction": "min",
    "max_epochs": 6,
    "factor": 3,
    "max_trials": 4,
}
NOISE = 3


def load_data():
    x = np.random.default_rng(0).normal(1.0, 0.5, size=(48, 2)).astype("float32")
    return (x[:32], x[:32]), (x[32:], x[32:])


def make_net(width, outputs):
    return keras.Sequential(
        [keras.Input((NOISE if outputs == 2 else 2,)), layers.Dense(width, "relu"), layers.Dense(outputs)]
    )


class Average:
    """Keeps an averaged copy of the generator, out of Keras's sight."""

    __slots__ = ("copies", "updates")

    def __init__(self, net):
        copy = keras.models.clone_model(net)
        copy.set_weights(net.get_weights())
        self.copies = (copy,)
        self.updates = tf.Variable(0, dtype="int64")

    def update(self, net):
        for kept, present in zip(self.copies[0].weights, net.weights, strict=True):
            kept.assign(0.9 * kept + 0.1 * present)
        self.updates.assign_add(1)


class Tools:
    def __init__(self, generator):
        self.average = Average(generator)
        self.seeds = keras.random.SeedGenerator(3)
        self.coin = random.Random(5)
        self.dice = np.random.default_rng(6)


class Adversarial(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.generator, self.critic = make_net(width, 2), make_net(width, 1)
        self.parts = {"tools": Tools(self.generator)}
        self.rounds, self.recent = tf.Variable(0), deque(maxlen=3)
        self.level = 1.0
        self.lock, self.words = threading.Lock(), {"a": 1, "b": 2}
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

    def compile(self, critic_optimizer, generator_optimizer, **options):
        super().compile(optimizer="sgd", **options)
        self.critic_optimizer, self.generator_optimizer = critic_optimizer, generator_optimizer

    def call(self, x):
        return self.critic(x)

    def draw(self, like):
        return self.generator(keras.random.normal((tf.shape(like)[0], NOISE), seed=self.parts["tools"].seeds))

    def train_step(self, data):
        x, _ = data
        x += 0.01 * keras.random.normal(tf.shape(x))  # of Keras's global state
        with tf.GradientTape() as tape:
            real, drawn = self.critic(x), self.critic(self.draw(x))
            loss = self.bce(tf.ones_like(real), real) + self.bce(tf.zeros_like(drawn), drawn)
        weights = self.critic.trainable_variables
        self.critic_optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            drawn = self.critic(self.draw(x))
            generated = self.bce(tf.ones_like(drawn), drawn)
        weights = self.generator.trainable_variables
        # The learning rate follows the number of steps.
        self.generator_optimizer.apply(tape.gradient(generated, weights), weights)
        self.rounds.assign_add(1)
        self.parts["tools"].average.update(self.generator)
        return {"loss": loss, "generated": generated, "steps": self.generator_optimizer.iterations}

    def test_step(self, data):
        x, _ = data
        average = self.parts["tools"].average.copies[0]
        drawn = average(tf.ones((1, NOISE)))
        return {"distance": tf.reduce_mean((drawn - x) ** 2) + 0.001 * tf.cast(self.rounds, "float32")}


def build_model(hp):
    model = Adversarial(hp.Int("width", 4, 9))
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1)), keras.optimizers.Adam(schedule))
    model(np.zeros((1, 2), "float32"))
    return model


class Keep(keras.callbacks.Callback):
    """Changes plain attributes of the model, and keeps a variable of its own."""

    def __init__(self):
        super().__init__()
        self.seen = tf.Variable(0)

    def on_epoch_begin(self, epoch, logs=None):
        when, _, how = os.environ.get("DIE_AT", "").partition(":")
        if when == str(epoch) and not (done := Path(os.environ["DIED"])).exists():
            done.touch()
            if how == "raise":
                raise RuntimeError("as asked for")
            os.kill(os.getpid() if how == "worker" else int(os.environ["DRIVER"]), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        model, tools = self.model, self.model.parts["tools"]
        self.seen.assign_add(1)
        model.losses_kept = getattr(model, "losses_kept", 0.0) + logs["loss"]
        model.recent.append(np.float32(logs["loss"]))
        model.level *= 0.5 + tools.coin.random() + tools.dice.random()
        logs |= {"level": model.level, "seen": int(self.seen), "kept": model.losses_kept, "recent": len(model.recent)}


def callbacks(hp):
    return [Keep()]
