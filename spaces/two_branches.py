"""Two merged LSTM branches: do two scans show the same digit, and what is the sum of both?

A hyperparameter decides if the branches share their weights.

search run spaces/two_branches.py && python spaces/two_branches.py
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

ROWS, COLUMNS = 8, 8


def scans(images, rng):
    """Return images whose scanner stopped after five to eight rows. The missing rows are zeros."""
    ends = rng.integers(5, ROWS + 1, size=len(images))
    return (images * (np.arange(ROWS) < ends[:, None])[:, :, None]).astype("float32")


def pairs(images, digits, samples, seed):
    """Return pairs of scans, every second one of the same digit. Inputs and targets have the model's names."""
    rng = np.random.default_rng(seed)
    left = rng.integers(len(images), size=samples)
    right = rng.integers(len(images), size=samples)
    for i in range(0, samples, 2):
        right[i] = rng.choice(np.flatnonzero(digits == digits[left[i]]))
    x = {"left": scans(images[left], rng), "right": scans(images[right], rng)}
    y = {"same": digits[left] == digits[right], "sum": digits[left] + digits[right]}
    return x, {name: values.astype("float32")[:, None] for name, values in y.items()}


def load_data():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images, digits = data.images[order] / 16, data.target[order]
    return pairs(images[:1300], digits[:1300], 3000, seed=1), pairs(images[1300:], digits[1300:], 1000, seed=2)


def encoder(hp, name):
    """Return a branch: a model that turns rows into a vector. The LSTM skips the rows that Masking marks as missing."""
    branch = [
        keras.Input((ROWS, COLUMNS)),
        layers.Masking(0.0),
        layers.LSTM(hp.Int("units", 16, 64, sampling="log"), name="lstm"),
    ]
    return keras.Sequential(branch, name=name)


def build_model(hp):
    # Every layer with weights has a name, by which `copy_weights` finds it in any other configuration.
    left, right = (keras.Input((ROWS, COLUMNS), name=name) for name in ("left", "right"))
    encode_left = encode_right = encoder(hp, "encoder")
    if not hp.Boolean("shared"):
        encode_right = encoder(hp, "encoder_right")
    encoded = [encode_left(left), encode_right(right)]
    # An operation of `keras.ops` becomes part of the model. Unlike one in a Lambda, it can be loaded without this file.
    far = ops.abs(layers.Subtract(name="difference")(encoded))
    x = layers.Concatenate(name="merged")([*encoded, far])
    x = layers.Dense(hp.Int("hidden", 16, 128, sampling="log"), activation="relu", name="hidden")(x)
    same = layers.Dense(1, activation="sigmoid", name="same")(x)
    total = layers.Dense(1, name="sum")(x)
    model = keras.Model([left, right], [same, total])
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        # Losses and metrics are given by name, or as lists in the order of the outputs.
        loss={"same": "binary_crossentropy", "sum": "mse"},
        loss_weights={"same": 1.0, "sum": hp.Float("sum_weight", 1e-3, 1.0, sampling="log")},
        metrics={"same": ["accuracy"], "sum": ["mae"]},
    )
    return model


def fit_options(hp):
    return {"batch_size": 64}


search_options = {"objective": "val_same_accuracy", "max_epochs": 9}


# With a trained model ------------------------------------------------------------------------------------------------


def middle(model):
    """Return a model that gives the vectors of both branches. It shares the weights."""
    return keras.Model(model.inputs, model.get_layer("difference").input)


def copy_weights(source, target):
    """Copy weights to the layers of `target` that have the same name and shapes in `source`. Return their names."""
    copied = []
    for layer in target.layers:
        known = next((known for known in source.layers if known.name == layer.name), None)
        shapes = [weight.shape for weight in layer.weights]
        if known is not None and shapes and shapes == [weight.shape for weight in known.weights]:
            layer.set_weights(known.get_weights())
            copied.append(layer.name)
    return copied


if __name__ == "__main__":
    import keras_tuner

    import search

    (model,) = search.get_best_models("two_branches")
    x, y = load_data()[1]
    left, right = middle(model).predict(x, verbose=0)
    print("left and right, in the middle:", left.shape, right.shape)
    # A list of inputs does the same as inputs by name.
    same, _ = model.predict([x["left"], x["right"]], verbose=0)
    print("accuracy:", np.mean((same > 0.5) == y["same"]))
    hp = keras_tuner.HyperParameters()
    hp.Fixed("units", left.shape[1])
    print("copied into another configuration:", copy_weights(model, build_model(hp)))
