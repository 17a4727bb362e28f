"""Patients in a table: preprocessing layers within the model take a dict of raw columns, strings among them."""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

EXPECTED = {
    "exports": "keras",
    "kind": "strings within the model",
    "special": "the trained model takes raw strings and integers: StringLookup, IntegerLookup and Normalization "
    "layers, adapted on a tf.data pipeline whenever the model is built; scalars without a last axis",
}

NUMERIC, INTEGER, TEXT = ["age", "chol"], ["sex", "cp"], ["thal"]


def make_frame(samples):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(30, 80, samples),
            "chol": rng.normal(240, 40, samples),
            "sex": rng.integers(0, 2, samples),
            "cp": rng.integers(0, 5, samples),
            "thal": rng.choice(["normal", "fixed", "reversible"], samples),
        }
    )
    frame["target"] = ((frame.age > 55) ^ (frame.thal == "fixed")).astype(int)
    return frame


def dataframe_to_dataset(dataframe):
    dataframe = dataframe.copy()
    labels = dataframe.pop("target")
    ds = tf.data.Dataset.from_tensor_slices((dict(dataframe), labels))
    return ds.shuffle(buffer_size=len(dataframe)).batch(32)


dataframe = make_frame(400)
val_dataframe = dataframe.sample(frac=0.2, random_state=1337)
train_ds = dataframe_to_dataset(dataframe.drop(val_dataframe.index))
val_ds = dataframe_to_dataset(val_dataframe)


def load_data():
    return train_ds, val_ds


def encode_numerical_feature(feature, name, dataset):
    normalizer = layers.Normalization()
    normalizer.adapt(dataset.map(lambda x, y: tf.expand_dims(x[name], -1)))
    return normalizer(feature)


def encode_categorical_feature(feature, name, dataset, is_string):
    lookup_class = layers.StringLookup if is_string else layers.IntegerLookup
    lookup = lookup_class(output_mode="binary")
    lookup.adapt(dataset.map(lambda x, y: tf.expand_dims(x[name], -1)))
    return lookup(feature)


def build_model(hp):
    inputs = {name: keras.Input(shape=(1,), name=name) for name in NUMERIC}
    inputs |= {name: keras.Input(shape=(1,), name=name, dtype="int64") for name in INTEGER}
    inputs |= {name: keras.Input(shape=(1,), name=name, dtype="string") for name in TEXT}
    encoded = [encode_numerical_feature(inputs[name], name, train_ds) for name in NUMERIC]
    encoded += [encode_categorical_feature(inputs[name], name, train_ds, name in TEXT) for name in INTEGER + TEXT]
    x = layers.concatenate(encoded)
    x = layers.Dense(hp.Choice("units", [16, 32]), activation="relu")(x)
    x = layers.Dropout(hp.Float("dropout", 0.1, 0.5))(x)
    output = layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs, output)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model
