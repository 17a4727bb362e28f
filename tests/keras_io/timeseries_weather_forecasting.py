"""The temperature some hours ahead, from windows of measurements."""

import keras
import numpy as np
import pandas as pd
from keras import layers

EXPECTED = {
    "exports": "keras",
    "special": "timeseries_dataset_from_array, whose targets are a pandas frame; a regression by mse alone, so the "
    "objective is val_loss; ModelCheckpoint of the weights and EarlyStopping",
}

STEP, PAST, FUTURE, BATCH = 2, 24, 6, 64

rng = np.random.default_rng(0)
hours = np.arange(600)
df = pd.DataFrame(
    {
        "p (mbar)": 990 + rng.normal(0, 5, 600),
        "T (degC)": 10 + 8 * np.sin(hours / 12) + rng.normal(0, 0.5, 600),
        "rh (%)": 60 + 20 * np.cos(hours / 12) + rng.normal(0, 2, 600),
    }
)
train_split = int(0.7 * len(df))


def normalize(data, train_split):
    return (data - data[:train_split].mean(axis=0)) / data[:train_split].std(axis=0)


features = pd.DataFrame(normalize(df.values, train_split))
train_data, val_data = features.loc[0 : train_split - 1], features.loc[train_split:]


def load_data():
    start = PAST + FUTURE
    options = {"sequence_length": PAST // STEP, "sampling_rate": STEP, "batch_size": BATCH}
    dataset_train = keras.preprocessing.timeseries_dataset_from_array(
        train_data[list(range(3))].values, features.iloc[start : start + train_split][[1]], **options
    )
    x_end = len(val_data) - start
    dataset_val = keras.preprocessing.timeseries_dataset_from_array(
        val_data.iloc[:x_end][list(range(3))].values, features.iloc[train_split + start :][[1]], **options
    )
    return dataset_train, dataset_val


def build_model(hp):
    inputs = layers.Input(shape=(PAST // STEP, 3))
    lstm_out = layers.LSTM(hp.Choice("units", [8, 16]))(inputs)
    outputs = layers.Dense(1)(lstm_out)
    model = keras.Model(inputs=inputs, outputs=outputs)
    rate = hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=rate), loss="mse")
    return model


def callbacks(hp):
    return [
        keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=0, patience=5),
        keras.callbacks.ModelCheckpoint(
            monitor="val_loss", filepath="model_checkpoint.weights.h5", save_weights_only=True, save_best_only=True
        ),
    ]
