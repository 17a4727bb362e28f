"""A layer with weights and a loss of its own.

The loss draws features to the centre of their class; the centres are learned, too. The weight of this loss is a
hyperparameter, which a callback lowers during training.

search run spaces/center_loss.py
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

CLASSES = 10


def load_data():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype("float32"), digits.target[order].astype("int32")
    # The true class is the target of both outputs.
    parts = [(x[part], {"digit": y[part], "distances": y[part]}) for part in (slice(400), slice(400, 1000))]
    return tuple(parts)


@keras.saving.register_keras_serializable("center_loss")
class Centres(layers.Layer):
    """The squared distances of the features to the centre of every class.

    The loss weight is a variable of the layer. So it can change while training runs, the trial's checkpoints contain
    it, and the compiled training step reads its present value.
    """

    def __init__(self, classes, loss_weight, **options):
        super().__init__(**options)
        self.classes, self.initial = classes, loss_weight
        self.loss_weight = self.add_weight(
            name="loss_weight", initializer=keras.initializers.Constant(loss_weight), trainable=False
        )

    def build(self, shape):
        self.centres = self.add_weight(name="centres", shape=(self.classes, shape[-1]), initializer="random_normal")

    def call(self, features):
        return ops.sum((features[:, None] - self.centres) ** 2, axis=-1)

    def loss(self, y_true, distances):
        """Return the weighted distance to the centre of the true class, one value for each sample."""
        own = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), (-1,)), self.classes)
        return self.loss_weight * ops.sum(own * distances, axis=-1)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "loss_weight": self.initial}


class Lower(keras.callbacks.Callback):
    """A callback that multiplies the loss weight by `kept` after each epoch.

    The weight is a function of the epoch's number, so it is also right after the trial was paused.
    """

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def on_epoch_begin(self, epoch, logs=None):
        centres = self.model.get_layer("distances")
        centres.loss_weight.assign(centres.initial * self.kept**epoch)

    def on_epoch_end(self, epoch, logs=None):
        logs["loss_weight"] = float(self.model.get_layer("distances").loss_weight)  # shown as a curve in MLflow


def callbacks(hp):
    return [Lower(hp.Float("loss_weight_kept", 0.5, 1.0))]


def build_model(hp):
    inputs = keras.Input((64,))
    x = layers.Dense(hp.Int("units", 32, 256, sampling="log"), activation="relu")(inputs)
    features = layers.Dense(hp.Int("features", 2, 32, sampling="log"), name="features")(x)
    digit = layers.Dense(CLASSES, activation="softmax", name="digit")(features)
    centres = Centres(CLASSES, hp.Float("loss_weight", 1e-3, 1.0, sampling="log"), name="distances")
    model = keras.Model(inputs, {"digit": digit, "distances": centres(features)})
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        loss={"digit": "sparse_categorical_crossentropy", "distances": centres.loss},
        metrics={"digit": ["accuracy"]},
    )
    return model


search_options = {"objective": "val_digit_accuracy", "max_epochs": 9}
