"""examples/vision/knowledge_distillation: a teacher that the file trains, and a student that learns from it."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "a teacher trained by the file; own compile, compute_loss and steps with x, y = data",
    "exports": "weights",
    "reason": "Distiller has no get_config for its two models",
    "kind": "own compile",
}


def digits(samples, seed):
    """Return images (12, 12, 1) with a bright row or column at the place that is their class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(6, size=samples)
    x = rng.uniform(0, 0.6, (samples, 12, 12))
    for image, label in zip(x, y, strict=True):
        image[4 * (label % 3) + 1 if label < 3 else slice(None), slice(None) if label < 3 else 4 * (label % 3) + 1] += 1
    return np.reshape(x, (-1, 12, 12, 1)).astype("float32"), y


def load_data():
    return digits(256, 0), digits(96, 1)


def convnet(filters, name):
    return keras.Sequential(
        [
            keras.Input(shape=(12, 12, 1)),
            layers.Conv2D(filters, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.MaxPooling2D(pool_size=(2, 2), strides=(1, 1), padding="same"),
            layers.Conv2D(2 * filters, (3, 3), strides=(2, 2), padding="same"),
            layers.Flatten(),
            layers.Dense(6),
        ],
        name=name,
    )


keras.utils.set_random_seed(1)
teacher = convnet(16, "teacher")
teacher.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
)
teacher.fit(*digits(256, 0), epochs=2, verbose=0)


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher_pred / self.temperature, axis=1),
            ops.softmax(y_pred / self.temperature, axis=1),
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.student(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        trainable_vars = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, trainable_vars), trainable_vars, strict=True))
        results = self.compute_metrics(x, y, y_pred, None)
        results.update({"distiller_loss": loss})
        return results

    def test_step(self, data):
        x, y = data
        y_pred = self.student(x, training=False)
        results = self.compute_metrics(x, y, y_pred, None)
        results.update({"student_loss": self.student_loss_fn(y, y_pred)})
        return results

    def call(self, x):
        return self.student(x)


def build_model(hp):
    distiller = Distiller(student=convnet(hp.Int("filters", 4, 8), "student"), teacher=teacher)
    distiller.compile(
        optimizer=keras.optimizers.Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
        alpha=hp.Float("alpha", 0.1, 0.5),
        temperature=hp.Int("temperature", 2, 10),
    )
    return distiller
