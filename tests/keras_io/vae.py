"""examples/generative/vae: an encoder and a decoder that one `train_step` trains, in a model that cannot be called."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "no call, no test_step, no validation data: x alone, and the training loss is the objective",
    "exports": "weights",
    "reason": "VAE has no get_config for its two models",
    "tolerance": None,  # no evaluation gives a training loss
    "objective": "loss",
    "kind": "no call",
}


class Sampling(layers.Layer):
    """Use (z_mean, z_log_var) to sample z, the vector of a digit."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        batch = ops.shape(z_mean)[0]
        dim = ops.shape(z_mean)[1]
        epsilon = keras.random.normal(shape=(batch, dim), seed=self.seed_generator)
        return z_mean + ops.exp(0.5 * z_log_var) * epsilon


class VAE(keras.Model):
    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.reconstruction_loss_tracker = keras.metrics.Mean(name="reconstruction_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.reconstruction_loss_tracker, self.kl_loss_tracker]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            z_mean, z_log_var, z = self.encoder(data)
            reconstruction = self.decoder(z)
            reconstruction_loss = ops.mean(
                ops.sum(keras.losses.binary_crossentropy(data, reconstruction), axis=(1, 2)),
            )
            kl_loss = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
            kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
            total_loss = reconstruction_loss + kl_loss
        grads = tape.gradient(total_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        self.total_loss_tracker.update_state(total_loss)
        self.reconstruction_loss_tracker.update_state(reconstruction_loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {
            "loss": self.total_loss_tracker.result(),
            "reconstruction_loss": self.reconstruction_loss_tracker.result(),
            "kl_loss": self.kl_loss_tracker.result(),
        }


def load_data():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 12)
    centre, width = rng.uniform(0.2, 0.8, (2, 256, 1, 1)), rng.uniform(0.1, 0.3, (256, 1, 1))
    distance = (x[None, :, None] - centre[0]) ** 2 + (x[None, None, :] - centre[1]) ** 2
    mnist_digits = np.expand_dims(np.exp(-distance / width**2), -1).astype("float32")
    return (mnist_digits,), None


def build_model(hp):
    latent_dim = hp.Int("latent_dim", 2, 6)
    filters = hp.Int("filters", 4, 8)

    encoder_inputs = keras.Input(shape=(12, 12, 1))
    x = layers.Conv2D(filters, 3, activation="relu", strides=2, padding="same")(encoder_inputs)
    x = layers.Conv2D(2 * filters, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    z_mean = layers.Dense(latent_dim, name="z_mean")(x)
    z_log_var = layers.Dense(latent_dim, name="z_log_var")(x)
    z = Sampling()([z_mean, z_log_var])
    encoder = keras.Model(encoder_inputs, [z_mean, z_log_var, z], name="encoder")

    latent_inputs = keras.Input(shape=(latent_dim,))
    x = layers.Dense(3 * 3 * 8, activation="relu")(latent_inputs)
    x = layers.Reshape((3, 3, 8))(x)
    x = layers.Conv2DTranspose(filters, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(filters, 3, activation="relu", strides=2, padding="same")(x)
    decoder_outputs = layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")(x)
    decoder = keras.Model(latent_inputs, decoder_outputs, name="decoder")

    vae = VAE(encoder, decoder)
    vae.compile(optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")))
    return vae


def fit_options(hp):
    return {"batch_size": 64}
