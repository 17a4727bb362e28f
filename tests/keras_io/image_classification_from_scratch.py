"""examples/vision/image_classification_from_scratch: augmentation in a `Sequential` without a name, in the file."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "special": "an unnamed Sequential at module level, within each trial's functional model; tf.data, prefetched",
    "exports": "keras",
    "kind": "tf.data, augmentation",
}

image_size = (24, 24)
batch_size = 16

data_augmentation = keras.Sequential(
    [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.1),
    ]
)


def pet_images(samples, seed):
    """Return pictures of two sorts: light in the middle, or light at the rim."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=samples)
    images = rng.uniform(0, 120, (samples, *image_size, 3))
    images[labels == 1, 6:18, 6:18] += 120
    images[labels == 0, :4] += 120
    return tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(batch_size)


def load_data():
    train_ds, val_ds = pet_images(96, 0), pet_images(48, 1)
    train_ds = train_ds.prefetch(buffer_size=tf.data.AUTOTUNE)
    val_ds = val_ds.prefetch(buffer_size=tf.data.AUTOTUNE)
    return train_ds, val_ds


def make_model(input_shape, sizes, dropout):
    inputs = keras.Input(shape=input_shape)
    x = data_augmentation(inputs)
    x = layers.Rescaling(1.0 / 255)(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    previous_block_activation = x
    for size in sizes:
        x = layers.Activation("relu")(x)
        x = layers.SeparableConv2D(size, 3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        residual = layers.Conv2D(size, 1, strides=2, padding="same")(previous_block_activation)
        x = layers.add([x, residual])
        previous_block_activation = x
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    # The logits.
    outputs = layers.Dense(1, activation=None)(x)
    return keras.Model(inputs, outputs)


def build_model(hp):
    sizes = [12, 16][: hp.Int("blocks", 1, 2)]
    model = make_model((*image_size, 3), sizes, dropout=hp.Float("dropout", 0.0, 0.5))
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="acc")],
    )
    return model
