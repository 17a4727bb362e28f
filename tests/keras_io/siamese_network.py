"""examples/vision/siamese_network: three images are one batch, and steps of its own take them as they come."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, metrics, ops

EXPECTED = {
    "special": "batches (anchor, positive, negative), all of them inputs; a call that takes the three",
    "exports": "weights",
    "reason": "SiameseModel has no get_config for its network",
    "kind": "steps of its own on a triple",
}

target_shape = (10, 10)


def triplets(samples, seed):
    """Return pictures in groups of three. The first two are of one kind, and the third is of any kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.uniform(0, 1, (5, *target_shape, 3))

    def pictures(which):
        return (kinds[which] + rng.normal(0, 0.3, (samples, *target_shape, 3))).astype("float32")

    which = rng.integers(5, size=samples)
    return pictures(which), pictures(which), pictures(rng.integers(5, size=samples))


def load_data():
    anchor, positive, negative = map(tf.data.Dataset.from_tensor_slices, triplets(120, 0))
    negative = negative.shuffle(buffer_size=4096, seed=1)
    dataset = tf.data.Dataset.zip((anchor, positive, negative))
    train_dataset = dataset.take(90).shuffle(buffer_size=1024)
    val_dataset = dataset.skip(90)
    train_dataset = train_dataset.batch(16, drop_remainder=False).prefetch(tf.data.AUTOTUNE)
    val_dataset = tf.data.Dataset.from_tensor_slices(triplets(30, 1)).batch(16, drop_remainder=False)
    return train_dataset, val_dataset.prefetch(tf.data.AUTOTUNE)


class DistanceLayer(layers.Layer):
    """The distances of the anchor to the positive and the negative picture."""

    def call(self, anchor, positive, negative):
        ap_distance = ops.sum(ops.square(anchor - positive), -1)
        an_distance = ops.sum(ops.square(anchor - negative), -1)
        return (ap_distance, an_distance)


class SiameseModel(keras.Model):
    """A network of three pictures that trains with a triplet loss."""

    def __init__(self, siamese_network, margin=0.5):
        super().__init__()
        self.siamese_network = siamese_network
        self.margin = margin
        self.loss_tracker = metrics.Mean(name="loss")

    def call(self, inputs):
        return self.siamese_network(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self._compute_loss(data)
        gradients = tape.gradient(loss, self.siamese_network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.siamese_network.trainable_weights, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        loss = self._compute_loss(data)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def _compute_loss(self, data):
        ap_distance, an_distance = self.siamese_network(data)
        return ops.maximum(ap_distance - an_distance + self.margin, 0.0)

    @property
    def metrics(self):
        return [self.loss_tracker]


def build_model(hp):
    image = layers.Input(shape=(*target_shape, 3))
    x = layers.Flatten()(image)
    x = layers.Dense(hp.Int("units", 16, 64, sampling="log"), activation="relu")(x)
    x = layers.BatchNormalization()(x)
    embedding = keras.Model(image, layers.Dense(8)(x), name="Embedding")
    anchor_input = layers.Input(name="anchor", shape=(*target_shape, 3))
    positive_input = layers.Input(name="positive", shape=(*target_shape, 3))
    negative_input = layers.Input(name="negative", shape=(*target_shape, 3))
    distances = DistanceLayer()(embedding(anchor_input), embedding(positive_input), embedding(negative_input))
    siamese_network = keras.Model(inputs=[anchor_input, positive_input, negative_input], outputs=distances)
    model = SiameseModel(siamese_network, margin=hp.Float("margin", 0.2, 1.0))
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")))
    return model
