"""examples/generative/conditional_gan: generator and discriminator of the file's own sizes, conditioned on a label."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "no call; compile with two optimizers; labels made images by shape; logs named unlike the trackers",
    "exports": "weights",
    "reason": "ConditionalGAN has no get_config for its two models",
    "tolerance": None,  # no evaluation gives a training loss
    "objective": "g_loss",
    "kind": "two optimizers",
}

batch_size = 32
num_channels = 1
num_classes = 4
image_size = 12
latent_dim = 8
generator_in_channels = latent_dim + num_classes
discriminator_in_channels = num_channels + num_classes


def load_data():
    rng = np.random.default_rng(0)
    all_labels = rng.integers(num_classes, size=160)
    all_digits = rng.uniform(0, 60, (160, image_size, image_size))
    for image, label in zip(all_digits, all_labels, strict=True):
        image[3 * label : 3 * label + 3] += 190
    all_digits = np.reshape(all_digits.astype("float32") / 255.0, (-1, image_size, image_size, 1))
    all_labels = keras.utils.to_categorical(all_labels, num_classes)
    dataset = tf.data.Dataset.from_tensor_slices((all_digits, all_labels))
    return dataset.shuffle(buffer_size=1024).batch(batch_size), None


class ConditionalGAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.gen_loss_tracker = keras.metrics.Mean(name="generator_loss")
        self.disc_loss_tracker = keras.metrics.Mean(name="discriminator_loss")

    @property
    def metrics(self):
        return [self.gen_loss_tracker, self.disc_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    def train_step(self, data):
        real_images, one_hot_labels = data
        image_one_hot_labels = one_hot_labels[:, :, None, None]
        image_one_hot_labels = ops.repeat(image_one_hot_labels, repeats=[image_size * image_size])
        image_one_hot_labels = ops.reshape(image_one_hot_labels, (-1, image_size, image_size, num_classes))

        batch_size = ops.shape(real_images)[0]
        random_latent_vectors = keras.random.normal(shape=(batch_size, self.latent_dim), seed=self.seed_generator)
        random_vector_labels = ops.concatenate([random_latent_vectors, one_hot_labels], axis=1)
        generated_images = self.generator(random_vector_labels)
        fake_image_and_labels = ops.concatenate([generated_images, image_one_hot_labels], -1)
        real_image_and_labels = ops.concatenate([real_images, image_one_hot_labels], -1)
        combined_images = ops.concatenate([fake_image_and_labels, real_image_and_labels], axis=0)
        labels = ops.concatenate([ops.ones((batch_size, 1)), ops.zeros((batch_size, 1))], axis=0)

        with tf.GradientTape() as tape:
            predictions = self.discriminator(combined_images)
            d_loss = self.loss_fn(labels, predictions)
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_weights, strict=True))

        random_latent_vectors = keras.random.normal(shape=(batch_size, self.latent_dim), seed=self.seed_generator)
        random_vector_labels = ops.concatenate([random_latent_vectors, one_hot_labels], axis=1)
        misleading_labels = ops.zeros((batch_size, 1))
        with tf.GradientTape() as tape:
            fake_images = self.generator(random_vector_labels)
            fake_image_and_labels = ops.concatenate([fake_images, image_one_hot_labels], -1)
            predictions = self.discriminator(fake_image_and_labels)
            g_loss = self.loss_fn(misleading_labels, predictions)
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights, strict=True))

        self.gen_loss_tracker.update_state(g_loss)
        self.disc_loss_tracker.update_state(d_loss)
        return {
            "g_loss": self.gen_loss_tracker.result(),
            "d_loss": self.disc_loss_tracker.result(),
        }


def build_model(hp):
    filters = hp.Int("filters", 4, 12)
    discriminator = keras.Sequential(
        [
            keras.layers.InputLayer((image_size, image_size, discriminator_in_channels)),
            layers.Conv2D(filters, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(2 * filters, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    generator = keras.Sequential(
        [
            keras.layers.InputLayer((generator_in_channels,)),
            layers.Dense(3 * 3 * generator_in_channels),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Reshape((3, 3, generator_in_channels)),
            layers.Conv2DTranspose(filters, (4, 4), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(filters, (4, 4), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(1, (7, 7), padding="same", activation="sigmoid"),
        ],
        name="generator",
    )
    cond_gan = ConditionalGAN(discriminator=discriminator, generator=generator, latent_dim=latent_dim)
    cond_gan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=hp.Float("d_rate", 1e-4, 1e-2, sampling="log")),
        g_optimizer=keras.optimizers.Adam(learning_rate=hp.Float("g_rate", 1e-4, 1e-2, sampling="log")),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return cond_gan
