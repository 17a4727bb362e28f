"""Forests in a CSV file: wide, deep and cross networks on numbers and strings."""

import math
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers
from tensorflow import data as tf_data

EXPECTED = {
    "exports": "keras",
    "special": "make_csv_dataset of strings and numbers, of unknown length; dict inputs of shape () and dtype string, "
    "the same lookup twice; the architecture is a hyperparameter",
}

rng = np.random.default_rng(0)
data = pd.DataFrame(
    {
        "Elevation": rng.normal(3000, 300, 600).round(),
        "Slope": rng.integers(0, 60, 600),
        "Wilderness_Area": rng.choice(["area_type_1", "area_type_2", "area_type_3"], 600),
        "Soil_Type": rng.choice([f"soil_type_{i}" for i in range(8)], 600),
    }
)
data["Cover_Type"] = (data.Slope > 30).astype(int) + (data.Wilderness_Area == "area_type_2")

CSV_HEADER = list(data.columns)
TARGET_FEATURE_NAME = "Cover_Type"
NUM_CLASSES = 3
NUMERIC_FEATURE_NAMES = ["Elevation", "Slope"]
CATEGORICAL_FEATURES_WITH_VOCABULARY = {
    "Soil_Type": list(data["Soil_Type"].unique()),
    "Wilderness_Area": list(data["Wilderness_Area"].unique()),
}
FEATURE_NAMES = NUMERIC_FEATURE_NAMES + list(CATEGORICAL_FEATURES_WITH_VOCABULARY)
COLUMN_DEFAULTS = [[0.0] if name in NUMERIC_FEATURE_NAMES else ["NA"] for name in CSV_HEADER[:-1]] + [[0]]

folder = Path(tempfile.mkdtemp())
data[:480].to_csv(folder / "train_data.csv", index=False)
data[480:].to_csv(folder / "test_data.csv", index=False)


def process(features, target):
    return dict(features), target


def get_dataset_from_csv(csv_file_path, batch_size, shuffle=False):
    dataset = tf_data.experimental.make_csv_dataset(
        str(csv_file_path),
        batch_size=batch_size,
        column_names=CSV_HEADER,
        column_defaults=COLUMN_DEFAULTS,
        label_name=TARGET_FEATURE_NAME,
        num_epochs=1,
        header=True,
        shuffle=shuffle,
    ).map(process)
    return dataset.cache()


def load_data():
    return (
        get_dataset_from_csv(folder / "train_data.csv", 64, shuffle=True),
        get_dataset_from_csv(folder / "test_data.csv", 64),
    )


def create_model_inputs():
    return {
        name: layers.Input(name=name, shape=(), dtype="float32" if name in NUMERIC_FEATURE_NAMES else "string")
        for name in FEATURE_NAMES
    }


def encode_inputs(inputs, use_embedding=False):
    encoded_features = []
    for name in inputs:
        if name in CATEGORICAL_FEATURES_WITH_VOCABULARY:
            vocabulary = CATEGORICAL_FEATURES_WITH_VOCABULARY[name]
            lookup = layers.StringLookup(
                vocabulary=vocabulary,
                mask_token=None,
                num_oov_indices=0,
                output_mode="int" if use_embedding else "binary",
            )
            if use_embedding:
                embedding = layers.Embedding(input_dim=len(vocabulary), output_dim=int(math.sqrt(len(vocabulary))))
                encoded = embedding(lookup(inputs[name]))
            else:
                encoded = lookup(keras.ops.expand_dims(inputs[name], -1))
        else:
            encoded = keras.ops.expand_dims(inputs[name], -1)
        encoded_features.append(encoded)
    return layers.concatenate(encoded_features)


def deep_part(x, hidden_units, dropout_rate):
    for units in hidden_units:
        x = layers.Dense(units)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.Dropout(dropout_rate)(x)
    return x


def build_model(hp):
    hidden_units = [hp.Choice("units", [8, 16])] * 2
    inputs = create_model_inputs()
    x0 = encode_inputs(inputs, use_embedding=True)
    deep = deep_part(x0, hidden_units, dropout_rate=0.1)
    if hp.Choice("network", ["wide and deep", "deep and cross"]) == "wide and deep":
        other = layers.BatchNormalization()(encode_inputs(inputs))
    else:
        other = x0
        for _ in hidden_units:
            other = x0 * layers.Dense(other.shape[-1])(other) + other
        other = layers.BatchNormalization()(other)
    merged = layers.concatenate([other, deep])
    outputs = layers.Dense(units=NUM_CLASSES, activation="softmax")(merged)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return model
