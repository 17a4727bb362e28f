"""Images of any size, cropped, rescaled and classified within one model. The objective is the area under the ROC curve.

search run spaces/images.py
"""

import keras
import numpy as np
from keras import layers

HEIGHT, WIDTH = 28, 32


def draw(samples, seed):
    """Return colour images and labels: a disc (0) or a cross (1) near the middle, on noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(120, 30, (samples, HEIGHT, WIDTH, 3))
    y = rng.integers(2, size=samples)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for image, label in zip(x, y, strict=True):
        radius = rng.uniform(4, 8)
        down = np.abs(rows - HEIGHT / 2 - rng.uniform(-3, 3))
        right = np.abs(columns - WIDTH / 2 - rng.uniform(-3, 3))
        cross = (np.minimum(down, right) < radius / 3) & (np.maximum(down, right) < radius)
        image[cross if label else np.hypot(down, right) < radius] += rng.choice([-1, 1]) * rng.uniform(40, 90, 3)
    return np.clip(x, 0, 255).astype("uint8"), y.astype("float32")


def load_data():
    # The third part is the test set. It is evaluated once, for the best trials at the end.
    return draw(800, seed=0), draw(300, seed=1), draw(300, seed=2)


def build_model(hp):
    # Height and width are not fixed: the model crops images itself, so a caller may send images of any size.
    inputs = keras.Input((None, None, 3))
    size = hp.Choice("crop", [16, 20, 24])
    x = layers.CenterCrop(size, size)(inputs)
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    filters = hp.Int("filters", 8, 32, sampling="log")
    for _ in range(hp.Int("blocks", 1, 3)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
        filters *= 2
    # Pooling over the whole image turns feature maps of any size into a vector.
    x = layers.GlobalMaxPooling2D()(x) if hp.Boolean("max_pooling") else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    outputs = layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        loss="binary_crossentropy",
        # The names appear in an epoch's logs as val_precision, val_recall and val_auc.
        metrics=[
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
            keras.metrics.AUC(name="auc"),
        ],
    )
    return model


# With several metrics, name the objective. `--objective val_recall` chooses another one.
search_options = {"objective": "val_auc", "max_epochs": 9}
