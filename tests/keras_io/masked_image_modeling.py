"""examples/vision/masked_image_modeling: an autoencoder of parts, without a `call`, on images alone."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "no call; images alone; a loss of compute_loss on patches; a variable made in a layer's __init__",
    "exports": "weights",
    "reason": "MaskedAutoencoder has no get_config for its parts",
    "tolerance": 0.1,
}

IMAGE_SIZE = 12
PATCH_SIZE = 3
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
PATCH_AREA = PATCH_SIZE * PATCH_SIZE * 3
PROJECTION_DIM = 16
BATCH_SIZE = 16


def images(samples, seed):
    """Return pictures with a colour that changes evenly from one side to the other."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, 10)[None, :, None, None] * rng.uniform(0, 255, (samples, 1, 1, 3))
    return (ramp + np.zeros((samples, 10, 10, 3))).astype("uint8")


def load_data():
    train_ds = tf.data.Dataset.from_tensor_slices(images(128, 0))
    train_ds = train_ds.shuffle(1024).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    val_ds = tf.data.Dataset.from_tensor_slices(images(64, 1))
    return train_ds, val_ds.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def get_train_augmentation_model():
    return keras.Sequential(
        [
            layers.Rescaling(1 / 255.0),
            layers.Resizing(IMAGE_SIZE + 4, IMAGE_SIZE + 4),
            layers.RandomCrop(IMAGE_SIZE, IMAGE_SIZE),
            layers.RandomFlip("horizontal"),
        ],
        name="train_data_augmentation",
    )


def get_test_augmentation_model():
    return keras.Sequential(
        [layers.Rescaling(1 / 255.0), layers.Resizing(IMAGE_SIZE, IMAGE_SIZE)], name="test_data_augmentation"
    )


class Patches(layers.Layer):
    """Cut images into patches."""

    def __init__(self, patch_size=PATCH_SIZE, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.resize = layers.Reshape((-1, patch_size * patch_size * 3))

    def call(self, images):
        patches = ops.image.extract_patches(images, size=self.patch_size, padding="valid")
        return self.resize(patches)


class PatchEncoder(layers.Layer):
    """Embed patches, and hide some of them."""

    def __init__(self, mask_proportion, **kwargs):
        super().__init__(**kwargs)
        self.num_mask = int(mask_proportion * NUM_PATCHES)
        self.mask_token = tf.Variable(tf.random.normal([1, PATCH_AREA]), trainable=True)

    def build(self, input_shape):
        (_, self.num_patches, self.patch_area) = input_shape
        self.projection = layers.Dense(units=PROJECTION_DIM)
        self.position_embedding = layers.Embedding(input_dim=self.num_patches, output_dim=PROJECTION_DIM)

    def call(self, patches):
        batch_size = tf.shape(patches)[0]
        positions = tf.range(start=0, limit=self.num_patches, delta=1)
        pos_embeddings = self.position_embedding(positions[tf.newaxis, ...])
        pos_embeddings = tf.tile(pos_embeddings, [batch_size, 1, 1])
        patch_embeddings = self.projection(patches) + pos_embeddings
        mask_indices, unmask_indices = self.get_random_indices(batch_size)
        unmasked_embeddings = tf.gather(patch_embeddings, unmask_indices, axis=1, batch_dims=1)
        unmasked_positions = tf.gather(pos_embeddings, unmask_indices, axis=1, batch_dims=1)
        masked_positions = tf.gather(pos_embeddings, mask_indices, axis=1, batch_dims=1)
        mask_tokens = tf.repeat(self.mask_token, repeats=self.num_mask, axis=0)
        mask_tokens = tf.repeat(mask_tokens[tf.newaxis, ...], repeats=batch_size, axis=0)
        masked_embeddings = self.projection(mask_tokens) + masked_positions
        return unmasked_embeddings, masked_embeddings, unmasked_positions, mask_indices, unmask_indices

    def get_random_indices(self, batch_size):
        rand_indices = tf.argsort(tf.random.uniform(shape=(batch_size, self.num_patches)), axis=-1)
        return rand_indices[:, : self.num_mask], rand_indices[:, self.num_mask :]


def transformer_block(x, dropout):
    x1 = layers.LayerNormalization(epsilon=1e-6)(x)
    attention_output = layers.MultiHeadAttention(num_heads=2, key_dim=PROJECTION_DIM, dropout=dropout)(x1, x1)
    x2 = layers.Add()([attention_output, x])
    x3 = layers.LayerNormalization(epsilon=1e-6)(x2)
    x3 = layers.Dense(PROJECTION_DIM, activation="gelu")(x3)
    return layers.Add()([x3, x2])


def create_encoder(dropout):
    inputs = layers.Input((None, PROJECTION_DIM))
    x = transformer_block(inputs, dropout)
    return keras.Model(inputs, layers.LayerNormalization(epsilon=1e-6)(x), name="mae_encoder")


def create_decoder(dropout):
    inputs = layers.Input((NUM_PATCHES, PROJECTION_DIM))
    x = transformer_block(inputs, dropout)
    x = layers.Flatten()(x)
    pre_final = layers.Dense(units=IMAGE_SIZE * IMAGE_SIZE * 3, activation="sigmoid")(x)
    return keras.Model(inputs, layers.Reshape((IMAGE_SIZE, IMAGE_SIZE, 3))(pre_final), name="mae_decoder")


class MaskedAutoencoder(keras.Model):
    def __init__(
        self, train_augmentation_model, test_augmentation_model, patch_layer, patch_encoder, encoder, decoder, **kwargs
    ):
        super().__init__(**kwargs)
        self.train_augmentation_model = train_augmentation_model
        self.test_augmentation_model = test_augmentation_model
        self.patch_layer = patch_layer
        self.patch_encoder = patch_encoder
        self.encoder = encoder
        self.decoder = decoder

    def calculate_loss(self, images, test=False):
        augmented_images = self.test_augmentation_model(images) if test else self.train_augmentation_model(images)
        patches = self.patch_layer(augmented_images)
        unmasked_embeddings, masked_embeddings, unmasked_positions, mask_indices, _ = self.patch_encoder(patches)
        encoder_outputs = self.encoder(unmasked_embeddings) + unmasked_positions
        decoder_outputs = self.decoder(tf.concat([encoder_outputs, masked_embeddings], axis=1))
        decoder_patches = self.patch_layer(decoder_outputs)
        loss_patch = tf.gather(patches, mask_indices, axis=1, batch_dims=1)
        loss_output = tf.gather(decoder_patches, mask_indices, axis=1, batch_dims=1)
        total_loss = self.compute_loss(y=loss_patch, y_pred=loss_output)
        return total_loss, loss_patch, loss_output

    def train_step(self, images):
        with tf.GradientTape() as tape:
            total_loss, loss_patch, loss_output = self.calculate_loss(images)
        train_vars = [
            *self.patch_encoder.trainable_variables,
            *self.encoder.trainable_variables,
            *self.decoder.trainable_variables,
        ]
        self.optimizer.apply_gradients(zip(tape.gradient(total_loss, train_vars), train_vars, strict=True))
        results = {}
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(total_loss)
            else:
                metric.update_state(loss_patch, loss_output)
            results.update(metric.result() if isinstance(metric.result(), dict) else {metric.name: metric.result()})
        return results

    def test_step(self, images):
        total_loss, loss_patch, loss_output = self.calculate_loss(images, test=True)
        results = {}
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(total_loss)
            else:
                metric.update_state(loss_patch, loss_output)
            results.update(metric.result() if isinstance(metric.result(), dict) else {metric.name: metric.result()})
        return results


def build_model(hp):
    dropout = hp.Float("dropout", 0.0, 0.3)
    mae_model = MaskedAutoencoder(
        train_augmentation_model=get_train_augmentation_model(),
        test_augmentation_model=get_test_augmentation_model(),
        patch_layer=Patches(),
        patch_encoder=PatchEncoder(hp.Choice("mask_proportion", [0.5, 0.75])),
        encoder=create_encoder(dropout),
        decoder=create_decoder(dropout),
    )
    optimizer = keras.optimizers.AdamW(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log"), weight_decay=1e-4)
    mae_model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError(), metrics=["mae"])
    return mae_model
