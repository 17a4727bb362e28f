"""examples/generative/ddim: a network that removes noise, and one with the moving average of its weights."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "no call; images alone; a clone holds the moving average; adapt in build_model; metrics made by compile",
    "exports": "weights",
    "reason": "DiffusionModel has no get_config for its sizes",
    "tolerance": 0.3,
    "objective": "val_kid",
    "direction": "min",
}

image_size = 8
batch_size = 16
kid_diffusion_steps = 2
min_signal_rate, max_signal_rate = 0.02, 0.95
embedding_dims = 8
embedding_max_frequency = 1000.0


def flowers(samples, seed):
    """Return images of round spots in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, image_size)
    radius = np.sqrt(x[:, None] ** 2 + x[None, :] ** 2)[None, :, :, None]
    spots = np.exp(-((radius / rng.uniform(0.3, 0.9, (samples, 1, 1, 1))) ** 2))
    return (spots * rng.uniform(0.2, 1, (samples, 1, 1, 3))).astype("float32")


def prepare_dataset(images):
    return (
        tf.data.Dataset.from_tensor_slices(images)
        .map(lambda image: tf.clip_by_value(image, 0.0, 1.0), num_parallel_calls=tf.data.AUTOTUNE)
        .cache()
        .repeat(2)
        .shuffle(10 * batch_size)
        .batch(batch_size, drop_remainder=True)
        .prefetch(buffer_size=tf.data.AUTOTUNE)
    )


train_dataset = prepare_dataset(flowers(64, 0))
val_dataset = prepare_dataset(flowers(48, 1))


def load_data():
    return train_dataset, val_dataset


class KID(keras.metrics.Metric):
    """The distance between the features of real and of generated images."""

    def __init__(self, name="kid", **kwargs):
        super().__init__(name=name, **kwargs)
        self.kid_tracker = keras.metrics.Mean(name="kid_tracker")
        self.encoder = keras.Sequential(
            [
                keras.Input(shape=(image_size, image_size, 3)),
                layers.Rescaling(2.0, -1.0),
                layers.AveragePooling2D(4),
                layers.Flatten(),
            ],
            name="inception_encoder",
        )

    def polynomial_kernel(self, features_1, features_2):
        feature_dimensions = ops.cast(ops.shape(features_1)[1], dtype="float32")
        return (features_1 @ ops.transpose(features_2) / feature_dimensions + 1.0) ** 3.0

    def update_state(self, real_images, generated_images, sample_weight=None):
        real_features = self.encoder(real_images, training=False)
        generated_features = self.encoder(generated_images, training=False)
        kernel_real = self.polynomial_kernel(real_features, real_features)
        kernel_generated = self.polynomial_kernel(generated_features, generated_features)
        kernel_cross = self.polynomial_kernel(real_features, generated_features)
        kid = ops.mean(kernel_real) + ops.mean(kernel_generated) - 2.0 * ops.mean(kernel_cross)
        self.kid_tracker.update_state(kid)

    def result(self):
        return self.kid_tracker.result()

    def reset_state(self):
        self.kid_tracker.reset_state()


@keras.saving.register_keras_serializable()
def sinusoidal_embedding(x):
    frequencies = ops.exp(ops.linspace(math.log(1.0), math.log(embedding_max_frequency), embedding_dims // 2))
    angular_speeds = ops.cast(2.0 * math.pi * frequencies, "float32")
    return ops.concatenate([ops.sin(angular_speeds * x), ops.cos(angular_speeds * x)], axis=3)


def ResidualBlock(width):
    def apply(x):
        residual = x if x.shape[3] == width else layers.Conv2D(width, kernel_size=1)(x)
        x = layers.BatchNormalization(center=False, scale=False)(x)
        x = layers.Conv2D(width, kernel_size=3, padding="same", activation="swish")(x)
        x = layers.Conv2D(width, kernel_size=3, padding="same")(x)
        return layers.Add()([x, residual])

    return apply


def get_network(image_size, widths):
    noisy_images = keras.Input(shape=(image_size, image_size, 3))
    noise_variances = keras.Input(shape=(1, 1, 1))
    e = layers.Lambda(sinusoidal_embedding, output_shape=(1, 1, embedding_dims))(noise_variances)
    e = layers.UpSampling2D(size=image_size, interpolation="nearest")(e)
    x = layers.Conv2D(widths[0], kernel_size=1)(noisy_images)
    x = layers.Concatenate()([x, e])
    skip = ResidualBlock(widths[0])(x)
    x = layers.AveragePooling2D(pool_size=2)(skip)
    x = ResidualBlock(widths[1])(x)
    x = layers.UpSampling2D(size=2, interpolation="bilinear")(x)
    x = ResidualBlock(widths[0])(layers.Concatenate()([x, skip]))
    x = layers.Conv2D(3, kernel_size=1, kernel_initializer="zeros")(x)
    return keras.Model([noisy_images, noise_variances], x, name="residual_unet")


class DiffusionModel(keras.Model):
    def __init__(self, image_size, widths, ema):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = get_network(image_size, widths)
        self.ema_network = keras.models.clone_model(self.network)
        self.ema = ema

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")
        self.kid = KID(name="kid")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker, self.kid]

    def denormalize(self, images):
        images = self.normalizer.mean + images * self.normalizer.variance**0.5
        return ops.clip(images, 0.0, 1.0)

    def diffusion_schedule(self, diffusion_times):
        start_angle = ops.cast(ops.arccos(max_signal_rate), "float32")
        end_angle = ops.cast(ops.arccos(min_signal_rate), "float32")
        diffusion_angles = start_angle + diffusion_times * (end_angle - start_angle)
        return ops.sin(diffusion_angles), ops.cos(diffusion_angles)

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        network = self.network if training else self.ema_network
        pred_noises = network([noisy_images, noise_rates**2], training=training)
        pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
        return pred_noises, pred_images

    def reverse_diffusion(self, initial_noise, diffusion_steps):
        num_images = initial_noise.shape[0]
        step_size = 1.0 / diffusion_steps
        next_noisy_images = initial_noise
        for step in range(diffusion_steps):
            noisy_images = next_noisy_images
            diffusion_times = ops.ones((num_images, 1, 1, 1)) - step * step_size
            noise_rates, signal_rates = self.diffusion_schedule(diffusion_times)
            pred_noises, pred_images = self.denoise(noisy_images, noise_rates, signal_rates, training=False)
            next_noise_rates, next_signal_rates = self.diffusion_schedule(diffusion_times - step_size)
            next_noisy_images = next_signal_rates * pred_images + next_noise_rates * pred_noises
        return pred_images

    def generate(self, num_images, diffusion_steps):
        initial_noise = keras.random.normal(shape=(num_images, image_size, image_size, 3))
        return self.denormalize(self.reverse_diffusion(initial_noise, diffusion_steps))

    def add_noise(self, images):
        noises = keras.random.normal(shape=(batch_size, image_size, image_size, 3))
        diffusion_times = keras.random.uniform(shape=(batch_size, 1, 1, 1), minval=0.0, maxval=1.0)
        noise_rates, signal_rates = self.diffusion_schedule(diffusion_times)
        return signal_rates * images + noise_rates * noises, noises, noise_rates, signal_rates

    def train_step(self, images):
        images = self.normalizer(images, training=True)
        noisy_images, noises, noise_rates, signal_rates = self.add_noise(images)
        with tf.GradientTape() as tape:
            pred_noises, pred_images = self.denoise(noisy_images, noise_rates, signal_rates, training=True)
            noise_loss = self.loss(noises, pred_noises)
            image_loss = self.loss(images, pred_images)
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights, strict=True))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights, strict=True):
            ema_weight.assign(self.ema * ema_weight + (1 - self.ema) * weight)
        return {m.name: m.result() for m in self.metrics[:-1]}

    def test_step(self, images):
        images = self.normalizer(images, training=False)
        noisy_images, noises, noise_rates, signal_rates = self.add_noise(images)
        pred_noises, pred_images = self.denoise(noisy_images, noise_rates, signal_rates, training=False)
        self.image_loss_tracker.update_state(self.loss(images, pred_images))
        self.noise_loss_tracker.update_state(self.loss(noises, pred_noises))
        images = self.denormalize(images)
        generated_images = self.generate(num_images=batch_size, diffusion_steps=kid_diffusion_steps)
        self.kid.update_state(images, generated_images)
        return {m.name: m.result() for m in self.metrics}


def build_model(hp):
    width = hp.Int("width", 4, 12, step=4)
    model = DiffusionModel(image_size, [width, 2 * width], ema=hp.Choice("ema", [0.5, 0.9]))
    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate=hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"), weight_decay=1e-4
        ),
        loss=keras.losses.mean_absolute_error,
    )
    model.normalizer.adapt(train_dataset)
    return model
