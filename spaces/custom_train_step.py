"""A training step of your own, on TensorFlow or JAX: sharpness-aware minimization (Foret et al. 2021).

The step descends along the gradient at the worst point nearby. The file also shows a layer that adds a loss, and a
metric that only the step updates.

search run spaces/custom_train_step.py
search run spaces/custom_train_step.py --study sharp-jax --keras-backend jax
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits


def load_data():
    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype("float32"), digits.target[order].astype("int32")
    noisy = np.where(rng.random(800) < 0.2, rng.integers(10, size=800), y[:800])  # wrong labels: wide minima resist
    return (x[:800], noisy.astype("int32")), (x[800:], y[800:])


@keras.saving.register_keras_serializable("custom_train_step")
class Decorrelate(layers.Layer):
    """An identity layer that adds the squared covariances between its columns to the loss."""

    def __init__(self, rate, **options):
        super().__init__(**options)
        self.rate = rate

    def call(self, x):
        centred = x - ops.mean(x, axis=0)
        covariance = ops.matmul(ops.transpose(centred), centred) / ops.cast(ops.shape(x)[0], x.dtype)
        self.add_loss(self.rate * (ops.sum(covariance**2) - ops.sum(ops.diagonal(covariance) ** 2)))
        return x

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


class SharpnessAware(keras.Model):
    """The shared part of both versions: the step to the worst point within `radius`, and the metrics."""

    radius = 0.0  # set by compile_model

    def __init__(self, *args, **kwargs):  # with these two names, Keras can load the model from its file
        super().__init__(*args, **kwargs)
        # Keras finds it and resets it at each epoch. Validation takes no step, so `val_sharpness` stays 0.
        self.sharpness = keras.metrics.Mean(name="sharpness")

    def uphill(self, gradients):
        """Return the step to the worst point nearby for each variable: `radius` times the gradient's direction."""
        norm = ops.sqrt(sum(ops.sum(gradient**2) for gradient in gradients))
        return [self.radius * gradient / (norm + 1e-12) for gradient in gradients]

    def measure(self, loss, worst, y, y_pred, sample_weight):
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            elif metric is self.sharpness:
                metric.update_state(worst - loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return self.get_metrics_result()


@keras.saving.register_keras_serializable("custom_train_step")
class OnTensorFlow(SharpnessAware):
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        loss, y_pred, gradients = self.gradients(x, y, sample_weight)
        steps = self.uphill(gradients)
        for variable, step in zip(variables, steps, strict=True):
            variable.assign_add(step)
        worst, _, gradients = self.gradients(x, y, sample_weight)
        for variable, step in zip(variables, steps, strict=True):
            variable.assign_sub(step)
        self.optimizer.apply(gradients, variables)
        return self.measure(loss, worst, y, y_pred, sample_weight)

    def gradients(self, x, y, sample_weight):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            # This includes the losses that layers have added.
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        return loss, y_pred, tape.gradient(loss, self.trainable_variables)


@keras.saving.register_keras_serializable("custom_train_step")
class OnJax(SharpnessAware):
    def train_step(self, state, data):
        """Return the logs and the new state. JAX functions have no side effects, so values come in and go out."""
        import jax

        variables, others, optimizer, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradients_at = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)

        def gradients(variables, others):
            (_, (loss, y_pred, others, _)), found = gradients_at(
                variables, others, metrics, x, y, sample_weight, training=True, optimizer_variables=optimizer
            )
            return loss, y_pred, others, found

        loss, y_pred, others, found = gradients(variables, others)
        nearby = [value + step for value, step in zip(variables, self.uphill(found), strict=True)]
        worst, _, others, found = gradients(nearby, others)
        variables, optimizer = self.optimizer.stateless_apply(optimizer, found, variables)
        with keras.StatelessScope(zip(self.metrics_variables, metrics, strict=True)) as scope:
            logs = self.measure(loss, worst, y, y_pred, sample_weight)
        metrics = [scope.get_current_value(variable) for variable in self.metrics_variables]
        return logs, (variables, others, optimizer, metrics)


def build_model(hp):
    inputs = keras.Input((64,))
    x = inputs
    for _ in range(hp.Int("layers", 1, 2)):
        x = layers.Dense(hp.Int("units", 32, 256, sampling="log"), activation="relu")(x)
    x = Decorrelate(hp.Float("decorrelation", 1e-5, 1e-1, sampling="log"))(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    kind = {"tensorflow": OnTensorFlow, "jax": OnJax}[keras.config.backend()]
    return kind(inputs, outputs)


def compile_model(hp, model):
    model.radius = hp.Float("radius", 1e-3, 0.5, sampling="log")
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 3e-4, 3e-2, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


search_options = {"objective": "val_accuracy", "max_epochs": 9}
