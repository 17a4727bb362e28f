"""examples/vision/object_detection_using_vision_transformer, with a second output: the class beside the box."""

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {
    "special": "two outputs by name; y, losses, loss weights and metrics are dicts; layers with get_config",
    "exports": "keras",
    "kind": "two outputs, dict targets",
}

image_size = 16
patch_size = 4
num_patches = (image_size // patch_size) ** 2
projection_dim = 16


def scenes(samples, seed):
    """Return images that show a bright or a dark box, with the box's corners in [0, 1] and its class."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.3, 0.6, (samples, image_size, image_size, 3)).astype("float32")
    corners = rng.integers(0, 8, (samples, 2))
    sizes = rng.integers(4, 8, (samples, 2))
    classes = rng.integers(2, size=samples)
    for image, (top, left), (height, width), kind in zip(images, corners, sizes, classes, strict=True):
        image[top : top + height, left : left + width] = kind
    boxes = np.concatenate([corners, corners + sizes], axis=1) / image_size
    return images, {"box": boxes.astype("float32"), "label": classes.astype("float32")[:, None]}


def load_data():
    return scenes(192, 0), scenes(64, 1)


class Patches(layers.Layer):
    def __init__(self, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size

    def get_config(self):
        config = super().get_config().copy()
        config.update({"patch_size": self.patch_size})
        return config

    def call(self, images):
        input_shape = ops.shape(images)
        batch_size, height, width, channels = input_shape
        num_patches_h = height // self.patch_size
        num_patches_w = width // self.patch_size
        patches = ops.image.extract_patches(images, size=self.patch_size)
        return ops.reshape(
            patches, (batch_size, num_patches_h * num_patches_w, self.patch_size * self.patch_size * channels)
        )


class PatchEncoder(layers.Layer):
    def __init__(self, num_patches, projection_dim, **kwargs):
        super().__init__(**kwargs)
        self.num_patches = num_patches
        self.projection_dim = projection_dim
        self.projection = layers.Dense(units=projection_dim)
        self.position_embedding = layers.Embedding(input_dim=num_patches, output_dim=projection_dim)

    def get_config(self):
        config = super().get_config().copy()
        config.update({"num_patches": self.num_patches, "projection_dim": self.projection_dim})
        return config

    def call(self, patch):
        positions = ops.expand_dims(ops.arange(start=0, stop=self.num_patches, step=1), axis=0)
        return self.projection(patch) + self.position_embedding(positions)


def build_model(hp):
    inputs = keras.Input(shape=(image_size, image_size, 3))
    encoded_patches = PatchEncoder(num_patches, projection_dim)(Patches(patch_size)(inputs))
    for _ in range(hp.Int("transformer_layers", 1, 2)):
        x1 = layers.LayerNormalization(epsilon=1e-6)(encoded_patches)
        attention_output = layers.MultiHeadAttention(num_heads=2, key_dim=projection_dim, dropout=0.1)(x1, x1)
        x2 = layers.Add()([attention_output, encoded_patches])
        x3 = layers.LayerNormalization(epsilon=1e-6)(x2)
        x3 = layers.Dense(projection_dim, activation=keras.activations.gelu)(x3)
        encoded_patches = layers.Add()([x3, x2])
    representation = layers.LayerNormalization(epsilon=1e-6)(encoded_patches)
    representation = layers.Flatten()(representation)
    representation = layers.Dropout(hp.Float("dropout", 0.0, 0.4))(representation)
    box = layers.Dense(4, name="box")(representation)
    label = layers.Dense(1, activation="sigmoid", name="label")(representation)
    model = keras.Model(inputs=inputs, outputs={"box": box, "label": label})
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4),
        loss={"box": keras.losses.MeanSquaredError(), "label": "binary_crossentropy"},
        loss_weights={"box": 1.0, "label": hp.Float("label_weight", 0.1, 1.0)},
        metrics={"label": ["accuracy"], "box": ["mae"]},
    )
    return model


def fit_options(hp):
    return {"batch_size": 32}
