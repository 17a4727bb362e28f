"""examples/generative/wgan_gp: two networks with an optimizer each, and a `train_step` with steps of its own inside."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "special": "no call; compile with two optimizers and two losses; no metrics, so logs are plain tensors",
    "exports": "weights",
    "reason": "WGAN has no get_config for its two models",
    "tolerance": None,  # no evaluation gives a training loss
    "objective": "d_loss",
}

IMG_SHAPE = (12, 12, 1)
noise_dim = 8


def load_data():
    rng = np.random.default_rng(0)
    train_images = np.full((128, 12, 12), 20.0)
    for image, start in zip(train_images, rng.integers(0, 6, 128), strict=True):
        image[start : start + 5, start : start + 5] = rng.uniform(150, 255)
    train_images = train_images.reshape(train_images.shape[0], *IMG_SHAPE).astype("float32")
    train_images = (train_images - 127.5) / 127.5
    return (train_images,), None


def get_discriminator_model(filters, dropout):
    img_input = layers.Input(shape=IMG_SHAPE)
    x = layers.ZeroPadding2D((2, 2))(img_input)
    for factor in (1, 2):
        x = layers.Conv2D(factor * filters, (5, 5), strides=(2, 2), padding="same")(x)
        x = layers.LeakyReLU(0.2)(x)
        x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    return keras.models.Model(img_input, layers.Dense(1)(x), name="discriminator")


def get_generator_model(filters):
    noise = layers.Input(shape=(noise_dim,))
    x = layers.Dense(4 * 4 * filters, use_bias=False)(noise)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU(0.2)(x)
    x = layers.Reshape((4, 4, filters))(x)
    for _ in range(2):
        x = layers.UpSampling2D((2, 2))(x)
        x = layers.Conv2D(filters, (3, 3), padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(1, (3, 3), padding="same", activation="tanh")(x)
    x = layers.Cropping2D((2, 2))(x)
    return keras.models.Model(noise, x, name="generator")


class WGAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim, discriminator_extra_steps=3, gp_weight=10.0):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.d_steps = discriminator_extra_steps
        self.gp_weight = gp_weight

    def compile(self, d_optimizer, g_optimizer, d_loss_fn, g_loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.d_loss_fn = d_loss_fn
        self.g_loss_fn = g_loss_fn

    def gradient_penalty(self, batch_size, real_images, fake_images):
        alpha = tf.random.uniform([batch_size, 1, 1, 1], 0.0, 1.0)
        interpolated = real_images + alpha * (fake_images - real_images)
        with tf.GradientTape() as gp_tape:
            gp_tape.watch(interpolated)
            pred = self.discriminator(interpolated, training=True)
        grads = gp_tape.gradient(pred, [interpolated])[0]
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=[1, 2, 3]))
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, real_images):
        if isinstance(real_images, tuple):
            real_images = real_images[0]
        batch_size = tf.shape(real_images)[0]
        for _ in range(self.d_steps):
            random_latent_vectors = tf.random.normal(shape=(batch_size, self.latent_dim))
            with tf.GradientTape() as tape:
                fake_images = self.generator(random_latent_vectors, training=True)
                fake_logits = self.discriminator(fake_images, training=True)
                real_logits = self.discriminator(real_images, training=True)
                d_cost = self.d_loss_fn(real_img=real_logits, fake_img=fake_logits)
                d_loss = d_cost + self.gradient_penalty(batch_size, real_images, fake_images) * self.gp_weight
            d_gradient = tape.gradient(d_loss, self.discriminator.trainable_variables)
            self.d_optimizer.apply_gradients(zip(d_gradient, self.discriminator.trainable_variables, strict=True))
        random_latent_vectors = tf.random.normal(shape=(batch_size, self.latent_dim))
        with tf.GradientTape() as tape:
            generated_images = self.generator(random_latent_vectors, training=True)
            gen_img_logits = self.discriminator(generated_images, training=True)
            g_loss = self.g_loss_fn(gen_img_logits)
        gen_gradient = tape.gradient(g_loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(gen_gradient, self.generator.trainable_variables, strict=True))
        return {"d_loss": d_loss, "g_loss": g_loss}


def discriminator_loss(real_img, fake_img):
    return tf.reduce_mean(fake_img) - tf.reduce_mean(real_img)


def generator_loss(fake_img):
    return -tf.reduce_mean(fake_img)


class GANMonitor(keras.callbacks.Callback):
    """Look at pictures of the generator after each epoch."""

    def __init__(self, num_img=2, latent_dim=noise_dim):
        self.num_img = num_img
        self.latent_dim = latent_dim

    def on_epoch_end(self, epoch, logs=None):
        random_latent_vectors = tf.random.normal(shape=(self.num_img, self.latent_dim))
        generated_images = self.model.generator(random_latent_vectors)
        generated_images = (generated_images * 127.5) + 127.5
        for i in range(self.num_img):
            img = generated_images[i].numpy()
            print(f"generated_img_{i}_{epoch}: from {img.min():.0f} to {img.max():.0f}")


def build_model(hp):
    filters = hp.Int("filters", 4, 8)
    wgan = WGAN(
        discriminator=get_discriminator_model(filters, hp.Float("dropout", 0.0, 0.3)),
        generator=get_generator_model(filters),
        latent_dim=noise_dim,
        discriminator_extra_steps=2,
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    wgan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=rate, beta_1=0.5, beta_2=0.9),
        g_optimizer=keras.optimizers.Adam(learning_rate=rate, beta_1=0.5, beta_2=0.9),
        g_loss_fn=generator_loss,
        d_loss_fn=discriminator_loss,
    )
    return wgan


def callbacks(hp):
    return [GANMonitor()]


def fit_options(hp):
    return {"batch_size": 32}
