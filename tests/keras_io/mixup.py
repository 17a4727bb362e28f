"""examples/vision/mixup: batches that are mixed at random from two shuffled streams of the same images."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "special": "tf.data zipped from two shuffled datasets and mapped with random numbers",
    "exports": "keras",
}

BATCH_SIZE = 32


def clothes(samples, seed):
    """Return images (12, 12, 1) with a bright square in the corner that is their class, in one-hot form."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=samples)
    images = rng.uniform(0, 0.5, (samples, 12, 12))
    for image, label in zip(images, labels, strict=True):
        image[6 * (label // 2) : 6 * (label // 2) + 6, 6 * (label % 2) : 6 * (label % 2) + 6] += 0.4
    return np.reshape(images, (-1, 12, 12, 1)).astype("float32"), tf.one_hot(labels, 4)


def sample_beta_distribution(size, concentration_0=0.2, concentration_1=0.2):
    gamma_1_sample = tf.random.gamma(shape=[size], alpha=concentration_1)
    gamma_2_sample = tf.random.gamma(shape=[size], alpha=concentration_0)
    return gamma_1_sample / (gamma_1_sample + gamma_2_sample)


def mix_up(ds_one, ds_two, alpha=0.2):
    images_one, labels_one = ds_one
    images_two, labels_two = ds_two
    batch_size = tf.shape(images_one)[0]
    lam = sample_beta_distribution(batch_size, alpha, alpha)
    x_l = tf.reshape(lam, (batch_size, 1, 1, 1))
    y_l = tf.reshape(lam, (batch_size, 1))
    images = images_one * x_l + images_two * (1 - x_l)
    labels = labels_one * y_l + labels_two * (1 - y_l)
    return (images, labels)


def load_data():
    x_train, y_train = clothes(224, 0)
    train_ds_one, train_ds_two = (
        tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(BATCH_SIZE * 100).batch(BATCH_SIZE)
        for _ in range(2)
    )
    train_ds = tf.data.Dataset.zip((train_ds_one, train_ds_two))
    val_ds = tf.data.Dataset.from_tensor_slices(clothes(96, 1)).batch(BATCH_SIZE)
    train_ds_mu = train_ds.map(
        lambda ds_one, ds_two: mix_up(ds_one, ds_two, alpha=0.2), num_parallel_calls=tf.data.AUTOTUNE
    )
    return train_ds_mu, val_ds


def build_model(hp):
    model = keras.Sequential(
        [
            layers.Input(shape=(12, 12, 1)),
            layers.Conv2D(hp.Int("filters", 8, 16), (3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Dropout(hp.Float("dropout", 0.0, 0.4)),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
