"""examples/generative/real_nvp: the density of points, by a model whose `call` has two directions and two outputs."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops, regularizers

EXPECTED = {
    "special": "x alone, split by validation_split; own steps; data normalized by a layer that the file adapts",
    "exports": "weights",
    "reason": "RealNVP has no get_config for its sizes",
}

rng = np.random.default_rng(0)
angle = rng.uniform(0, np.pi, 600)
moons = np.stack([np.cos(angle), np.sin(angle)], axis=1)
moons[300:] = [1.0, 0.5] - moons[300:]
data = rng.permutation(moons + rng.normal(0, 0.05, moons.shape)).astype("float32")
norm = layers.Normalization()
norm.adapt(data)
normalized_data = norm(data)


def load_data():
    return (normalized_data,), None


def fit_options(hp):
    return {"batch_size": 64, "validation_split": 0.2}


def Coupling(input_shape, output_dim, reg):
    input = layers.Input(shape=(input_shape,))
    shift, scale = input, input
    for _ in range(2):
        shift = layers.Dense(output_dim, activation="relu", kernel_regularizer=regularizers.l2(reg))(shift)
        scale = layers.Dense(output_dim, activation="relu", kernel_regularizer=regularizers.l2(reg))(scale)
    shift = layers.Dense(input_shape, activation="linear", kernel_regularizer=regularizers.l2(reg))(shift)
    scale = layers.Dense(input_shape, activation="tanh", kernel_regularizer=regularizers.l2(reg))(scale)
    return keras.Model(inputs=input, outputs=[scale, shift])


class RealNVP(keras.Model):
    def __init__(self, num_coupling_layers, output_dim=16, reg=0.01):
        super().__init__()
        self.num_coupling_layers = num_coupling_layers
        self.masks = np.array([[0, 1], [1, 0]] * (num_coupling_layers // 2), dtype="float32")
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.layers_list = [Coupling(2, output_dim, reg) for i in range(num_coupling_layers)]

    @property
    def metrics(self):
        return [self.loss_tracker]

    def call(self, x, training=True):
        log_det_inv = 0
        direction = -1 if training else 1
        for i in range(self.num_coupling_layers)[::direction]:
            x_masked = x * self.masks[i]
            reversed_mask = 1 - self.masks[i]
            s, t = self.layers_list[i](x_masked)
            s *= reversed_mask
            t *= reversed_mask
            gate = (direction - 1) / 2
            x = reversed_mask * (x * ops.exp(direction * s) + direction * t * ops.exp(gate * s)) + x_masked
            log_det_inv += gate * ops.sum(s, axis=1)
        return x, log_det_inv

    def log_loss(self, x):
        y, logdet = self(x)
        log_likelihood = -0.5 * ops.sum(ops.square(y), axis=1) - np.log(2 * np.pi) + logdet
        return -ops.mean(log_likelihood)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.log_loss(data)
        g = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(g, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        loss = self.log_loss(data)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def build_model(hp):
    model = RealNVP(
        num_coupling_layers=hp.Int("num_coupling_layers", 2, 6, step=2),
        output_dim=hp.Int("output_dim", 8, 32, sampling="log"),
    )
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")))
    return model
