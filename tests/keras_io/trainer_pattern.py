"""One training step, in a Trainer, for models of different kinds."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

EXPECTED = {
    "exports": "weights",
    "reason": "the model has no get_config",
    "special": "a Trainer without `call` wraps an unbuilt Sequential or a functional model and overrides train_step "
    "and test_step with `x, y = data`; compiled with an optimizer alone; images without a channel axis",
}


def load_data():
    images, y = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16.0
    return (images[:600], y[:600]), (images[600:900], y[600:900])


class MyTrainer(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.loss_fn = keras.losses.SparseCategoricalCrossentropy()
        self.accuracy_metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    @property
    def metrics(self):
        return [self.accuracy_metric]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.model(x, training=True)
            loss = self.loss_fn(y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        x, y = data
        y_pred = self.model(x, training=False)
        for metric in self.metrics:
            metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


def sequential(units):
    return keras.models.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def functional(units):
    inputs = keras.Input(shape=(8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(units, activation="relu")(x)
    x = keras.layers.Dropout(0.4)(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def build_model(hp):
    kind = {"sequential": sequential, "functional": functional}[hp.Choice("kind", ["sequential", "functional"])]
    trainer = MyTrainer(kind(hp.Int("units", 16, 64, step=16)))
    optimizer = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[hp.Choice("optimizer", ["sgd", "adam"])]
    trainer.compile(optimizer=optimizer())
    return trainer


def fit_options(hp):
    return {"batch_size": 64}
