"""Two LSTM branches, merged: whether two scans show the same digit, and how much both make together. Whether the
branches share their weights is a hyperparameter.

search run spaces/two_branches.py
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

ROWS, COLUMNS = 8, 8


def scans(images, rng):
    """Images whose scanner stopped after five to eight rows: what is missing is zeros."""
    ends = rng.integers(5, ROWS + 1, size=len(images))
    return (images * (np.arange(ROWS) < ends[:, None])[:, :, None]).astype("float32")


def pairs(images, digits, samples, seed):
    """Pairs of scans, every second of the same digit; inputs and targets by the names that the model gives them."""
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
    """A branch, itself a model: rows in, a vector out. The LSTM skips the rows that Masking finds missing."""
    branch = [
        keras.Input((ROWS, COLUMNS)),
        layers.Masking(0.0),
        layers.LSTM(hp.Int("units", 16, 64, sampling="log"), name="lstm"),
    ]
    return keras.Sequential(branch, name=name)


def build_model(hp):
    # Every layer that has weights has a name: by that it is found again in any other configuration.
    left, right = (keras.Input((ROWS, COLUMNS), name=name) for name in ("left", "right"))
    encode_left = encode_right = encoder(hp, "encoder")
    if not hp.Boolean("shared"):
        encode_right = encoder(hp, "encoder_right")
    encoded = [encode_left(left), encode_right(right)]
    # Any operation is a layer, if Lambda holds it.
    far = layers.Lambda(lambda both: ops.abs(both[0] - both[1]), name="far")(encoded)
    x = layers.Concatenate(name="merged")([*encoded, far])
    x = layers.Dense(hp.Int("hidden", 16, 128, sampling="log"), activation="relu", name="hidden")(x)
    same = layers.Dense(1, activation="sigmoid", name="same")(x)
    total = layers.Dense(1, name="sum")(x)
    model = keras.Model([left, right], [same, total])
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        # By name, or as lists in the order of the outputs.
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
    """What both branches make of their scans: the same model, looked at before it merges."""
    return keras.Model(model.inputs, model.get_layer("far").input)


def copy_weights(source, target):
    """Give the layers of another configuration the weights of those that have their name and shapes; say which."""
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
    # By list it is the same as by name.
    same, _ = model.predict([x["left"], x["right"]], verbose=0)
    print("accuracy:", np.mean((same > 0.5) == y["same"]))
    hp = keras_tuner.HyperParameters()
    hp.Fixed("units", left.shape[1])
    print("copied into another configuration:", copy_weights(model, build_model(hp)))
