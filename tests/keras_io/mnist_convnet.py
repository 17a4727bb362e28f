"""examples/vision/mnist_convnet: images without the axis of their one channel, as `mnist.load_data` returns them."""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "special": "images (n, 14, 14) for Input((14, 14, 1))",
    "exports": "keras",
    "kind": "arrays",
}

num_classes = 4
input_shape = (14, 14, 1)


def make_digits(samples, seed):
    """Return images that have a bright bar at the place that is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=samples)
    images = rng.integers(0, 90, (samples, 14, 14))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 3] += 120
    return images.astype("uint8"), labels


def load_data():
    (x_train, y_train), (x_test, y_test) = make_digits(256, 0), make_digits(96, 1)
    x_train = x_train.astype("float32") / 255
    x_test = x_test.astype("float32") / 255
    y_train = keras.utils.to_categorical(y_train, num_classes)
    y_test = keras.utils.to_categorical(y_test, num_classes)
    return (x_train, y_train), (x_test, y_test)


def build_model(hp):
    filters = hp.Int("filters", 4, 16, step=4)
    model = keras.Sequential(
        [
            keras.Input(shape=input_shape),
            layers.Conv2D(filters, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(2 * filters, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def fit_options(hp):
    return {"batch_size": 32}
