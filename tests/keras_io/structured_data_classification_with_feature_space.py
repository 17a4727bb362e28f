"""Patients in a table: `FeatureSpace` encodes numbers, categories and crosses of both."""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras.utils import FeatureSpace

EXPECTED = {
    "exports": "keras",
    # The bins of `age` depend on the order of an unseeded shuffle, so another process encodes some rows differently.
    "tolerance": 0.1,
    "special": "a pandas frame at module level, turned into tf.data of a dict of columns, strings among them; "
    "FeatureSpace, adapted at module level, encodes within `map`; the model begins at the space's encoded features",
}


def make_frame(samples):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(30, 80, samples),
            "sex": rng.integers(0, 2, samples),
            "cp": rng.integers(0, 5, samples),
            "chol": rng.normal(240, 40, samples),
            "oldpeak": rng.exponential(1.0, samples),
            "thal": rng.choice(["normal", "fixed", "reversible"], samples),
        }
    )
    frame["target"] = ((frame.age > 55) ^ (frame.thal == "fixed")).astype(int)
    return frame


dataframe = make_frame(400)
val_dataframe = dataframe.sample(frac=0.2, random_state=1337)
train_dataframe = dataframe.drop(val_dataframe.index)


def dataframe_to_dataset(dataframe):
    dataframe = dataframe.copy()
    labels = dataframe.pop("target")
    ds = tf.data.Dataset.from_tensor_slices((dict(dataframe), labels))
    return ds.shuffle(buffer_size=len(dataframe))


train_ds = dataframe_to_dataset(train_dataframe).batch(32)
val_ds = dataframe_to_dataset(val_dataframe).batch(32)

feature_space = FeatureSpace(
    features={
        "sex": FeatureSpace.integer_categorical(num_oov_indices=0),
        "cp": FeatureSpace.integer_categorical(num_oov_indices=0),
        "thal": FeatureSpace.string_categorical(num_oov_indices=0),
        "age": FeatureSpace.float_discretized(num_bins=10),
        "chol": FeatureSpace.float_normalized(),
        "oldpeak": FeatureSpace.float_normalized(),
    },
    crosses=[FeatureSpace.cross(feature_names=("thal", "age"), crossing_dim=32)],
    output_mode="concat",
)
feature_space.adapt(train_ds.map(lambda x, _: x))


def preprocessed(ds):
    return ds.map(lambda x, y: (feature_space(x), y), num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def load_data():
    return preprocessed(train_ds), preprocessed(val_ds)


def build_model(hp):
    encoded_features = feature_space.get_encoded_features()
    x = keras.layers.Dense(hp.Choice("units", [16, 32]), activation="relu")(encoded_features)
    x = keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5))(x)
    predictions = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs=encoded_features, outputs=predictions)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model
