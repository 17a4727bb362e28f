"""A metric of scikit-learn, computed by a callback after each epoch, for TensorBoard and as the objective."""

import tempfile

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.metrics import jaccard_score

EXPECTED = {
    "exports": "keras",
    "special": "a callback without super().__init__ that predicts on its own arrays, keeps a Keras metric and a "
    "summary writer, and puts its value into the logs; `validation_split` in fit_options",
}

NUM_CLASSES, INPUT_SHAPE = 10, (8, 8, 1)

log_dir = tempfile.mkdtemp()

images, labels = load_digits(return_X_y=True)
images = np.expand_dims(images.reshape(-1, 8, 8).astype("float32") / 16, -1)
x_train, x_test = images[:600], images[600:800]
y_train, y_test = (keras.utils.to_categorical(part, NUM_CLASSES) for part in (labels[:600], labels[600:800]))


class JaccardScoreCallback(keras.callbacks.Callback):
    def __init__(self, name, x_test, y_test, log_dir):
        self.x_test = x_test
        self.y_test = y_test
        self.keras_metric = keras.metrics.Mean("jaccard_score")
        self.epoch = 0
        self.summary_writer = tf.summary.create_file_writer(f"{log_dir}/{name}")

    def on_epoch_end(self, batch, logs=None):
        self.epoch += 1
        self.keras_metric.reset_state()
        predictions = self.model.predict(self.x_test, verbose=0)
        jaccard_value = jaccard_score(np.argmax(predictions, axis=-1), self.y_test, average=None)
        self.keras_metric.update_state(jaccard_value)
        value = self.keras_metric.result().numpy().astype(float)
        with self.summary_writer.as_default():
            tf.summary.scalar(self.keras_metric.name, value, step=self.epoch)
            self.summary_writer.flush()


def load_data():
    return (x_train, y_train), None


def fit_options(hp):
    return {"batch_size": 64, "validation_split": 0.1}


def build_model(hp):
    model = keras.Sequential(
        [
            keras.Input(shape=INPUT_SHAPE),
            layers.Conv2D(hp.Choice("filters", [8, 16]), kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(hp.Float("dropout", 0.1, 0.5)),
            layers.Dense(NUM_CLASSES, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def callbacks(hp, model):
    return [JaccardScoreCallback(model.name, x_test, np.argmax(y_test, axis=-1), log_dir)]
