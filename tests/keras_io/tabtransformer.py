"""A census in a CSV file: attention among the embeddings of the categorical columns."""

import tempfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from tensorflow import data as tf_data

EXPECTED = {
    "exports": "keras",
    "special": "make_csv_dataset with a column of sample weights taken out of the features; string columns and the "
    "string label go through StringLookup layers at module level; `functools.partial`; y (n,) for outputs (n, 1)",
}

rng = np.random.default_rng(0)
train_data = pd.DataFrame(
    {
        "age": rng.integers(20, 70, 600).astype(float),
        "workclass": rng.choice(["Private", "State-gov", "?"], 600),
        "fnlwgt": rng.uniform(0.5, 1.5, 600),
        "education": rng.choice(["Bachelors", "HS-grad", "Masters", "Doctorate"], 600),
        "hours_per_week": rng.integers(20, 60, 600).astype(float),
    }
)
rich = (train_data.education.isin(["Masters", "Doctorate"])) ^ (train_data.workclass == "Private")
train_data["income_bracket"] = np.where(rich, " >50K", " <=50K")

CSV_HEADER = list(train_data.columns)
NUMERIC_FEATURE_NAMES = ["age", "hours_per_week"]
CATEGORICAL_FEATURES_WITH_VOCABULARY = {name: sorted(train_data[name].unique()) for name in ("workclass", "education")}
WEIGHT_COLUMN_NAME = "fnlwgt"
FEATURE_NAMES = NUMERIC_FEATURE_NAMES + list(CATEGORICAL_FEATURES_WITH_VOCABULARY)
COLUMN_DEFAULTS = [[0.0] if name in [*NUMERIC_FEATURE_NAMES, WEIGHT_COLUMN_NAME] else ["NA"] for name in CSV_HEADER]

folder = Path(tempfile.mkdtemp())
train_data[:480].to_csv(folder / "train_data.csv", index=False, header=False)
train_data[480:].to_csv(folder / "test_data.csv", index=False, header=False)

target_label_lookup = layers.StringLookup(vocabulary=[" <=50K", " >50K"], mask_token=None, num_oov_indices=0)
lookup_dict = {
    name: layers.StringLookup(vocabulary=vocabulary, mask_token=None, num_oov_indices=0)
    for name, vocabulary in CATEGORICAL_FEATURES_WITH_VOCABULARY.items()
}


def prepare_example(features, target):
    target_index = target_label_lookup(target)
    weights = features.pop(WEIGHT_COLUMN_NAME)
    return dict(features), target_index, weights


def encode_categorical(batch_x, batch_y, weights):
    for name, lookup in lookup_dict.items():
        batch_x[name] = lookup(batch_x[name])
    return batch_x, batch_y, weights


def get_dataset_from_csv(csv_file_path, batch_size=128, shuffle=False):
    dataset = (
        tf_data.experimental.make_csv_dataset(
            str(csv_file_path),
            batch_size=batch_size,
            column_names=CSV_HEADER,
            column_defaults=COLUMN_DEFAULTS,
            label_name="income_bracket",
            num_epochs=1,
            header=False,
            shuffle=shuffle,
        )
        .map(prepare_example, num_parallel_calls=tf_data.AUTOTUNE, deterministic=False)
        .map(encode_categorical)
    )
    return dataset.cache()


def load_data():
    return (
        get_dataset_from_csv(folder / "train_data.csv", 64, shuffle=True),
        get_dataset_from_csv(folder / "test_data.csv", 64),
    )


def encode_inputs(inputs, embedding_dims):
    categorical, numerical = [], []
    for name in inputs:
        if name in CATEGORICAL_FEATURES_WITH_VOCABULARY:
            vocabulary = CATEGORICAL_FEATURES_WITH_VOCABULARY[name]
            categorical.append(layers.Embedding(input_dim=len(vocabulary), output_dim=embedding_dims)(inputs[name]))
        else:
            numerical.append(ops.expand_dims(inputs[name], -1))
    return categorical, numerical


def create_mlp(hidden_units, dropout_rate, activation, normalization_layer, name=None):
    mlp_layers = []
    for units in hidden_units:
        mlp_layers.append(normalization_layer())
        mlp_layers.append(layers.Dense(units, activation=activation))
        mlp_layers.append(layers.Dropout(dropout_rate))
    return keras.Sequential(mlp_layers, name=name)


def build_model(hp):
    embedding_dims, dropout_rate = hp.Choice("embedding_dims", [4, 8]), 0.2
    inputs = {name: layers.Input(name=name, shape=(), dtype="float32") for name in FEATURE_NAMES}
    categorical, numerical = encode_inputs(inputs, embedding_dims)
    x = ops.stack(categorical, axis=1)
    columns = x.shape[1]
    x = x + layers.Embedding(input_dim=columns, output_dim=embedding_dims)(ops.arange(start=0, stop=columns, step=1))
    for i in range(hp.Int("num_transformer_blocks", 1, 2)):
        attention = layers.MultiHeadAttention(
            num_heads=2, key_dim=embedding_dims, dropout=dropout_rate, name=f"multihead_attention_{i}"
        )(x, x)
        x = layers.Add(name=f"skip_connection1_{i}")([attention, x])
        x = layers.LayerNormalization(name=f"layer_norm1_{i}", epsilon=1e-6)(x)
        feedforward = create_mlp(
            hidden_units=[embedding_dims],
            dropout_rate=dropout_rate,
            activation=keras.activations.gelu,
            normalization_layer=partial(layers.LayerNormalization, epsilon=1e-6),
            name=f"feedforward_{i}",
        )(x)
        x = layers.Add(name=f"skip_connection2_{i}")([feedforward, x])
        x = layers.LayerNormalization(name=f"layer_norm2_{i}", epsilon=1e-6)(x)
    contextual = layers.Flatten()(x)
    numbers = layers.LayerNormalization(epsilon=1e-6)(layers.concatenate(numerical))
    features = layers.concatenate([contextual, numbers])
    features = create_mlp(
        hidden_units=[2 * features.shape[-1], features.shape[-1]],
        dropout_rate=dropout_rate,
        activation=keras.activations.selu,
        normalization_layer=layers.BatchNormalization,
        name="MLP",
    )(features)
    outputs = layers.Dense(units=1, activation="sigmoid", name="sigmoid")(features)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=0.01, weight_decay=0.0001),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
    )
    return model
