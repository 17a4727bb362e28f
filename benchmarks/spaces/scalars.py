"""A multilayer perceptron of fixed widths on scikit-learn's digits: only scalars are searched, no shapes."""

import keras
from keras import layers
from mlp import fit_options, load_data

__all__ = ["build_model", "fit_options", "load_data"]


def build_model(hp):
    dropout = hp.Float("dropout", 0.05, 0.5)
    l2 = hp.Float("l2", 1e-6, 1e-2, sampling="log")
    x = inputs = keras.Input((64,))
    for _ in range(2):
        x = layers.Dense(128, activation="relu", kernel_regularizer=keras.regularizers.L2(l2))(x)
        x = layers.Dropout(dropout)(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    rate = hp.Float("lr", 1e-4, 1e-1, sampling="log")
    adam = keras.optimizers.Adam(rate, hp.Float("beta_1", 0.8, 0.99), hp.Float("beta_2", 0.9, 0.9999))
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
