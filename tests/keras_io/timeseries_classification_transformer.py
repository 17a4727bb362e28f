"""Engine noise, classified by a transformer."""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "exports": "keras",
    "special": "labels of -1 and 1 made 0 and 1, of shape (n,); metrics that compile names as a list; EarlyStopping "
    "with restore_best_weights; the sizes of heads and blocks change the weights",
}

LENGTH = 40


def make_series(samples, seed):
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], samples)
    time = np.arange(LENGTH)
    x = np.sin(time * np.where(y > 0, 0.3, 0.5)[:, None] + rng.uniform(0, 6, (samples, 1)))
    return x + rng.normal(0, 0.2, x.shape), y


def load_data():
    (x_train, y_train), (x_val, y_val) = make_series(240, 0), make_series(80, 1)
    x_train = x_train.reshape((x_train.shape[0], x_train.shape[1], 1))
    x_val = x_val.reshape((x_val.shape[0], x_val.shape[1], 1))
    y_train[y_train == -1] = 0
    y_val[y_val == -1] = 0
    return (x_train, y_train), (x_val, y_val)


def transformer_encoder(inputs, head_size, num_heads, ff_dim, dropout=0):
    x = layers.MultiHeadAttention(key_dim=head_size, num_heads=num_heads, dropout=dropout)(inputs, inputs)
    x = layers.Dropout(dropout)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    res = x + inputs
    x = layers.Conv1D(filters=ff_dim, kernel_size=1, activation="relu")(res)
    x = layers.Dropout(dropout)(x)
    x = layers.Conv1D(filters=inputs.shape[-1], kernel_size=1)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return x + res


def build_model(hp):
    inputs = keras.Input(shape=(LENGTH, 1))
    x = inputs
    for _ in range(hp.Int("num_transformer_blocks", 1, 2)):
        x = transformer_encoder(x, hp.Choice("head_size", [4, 8]), num_heads=2, ff_dim=4, dropout=0.1)
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(x)
    x = layers.Dense(16, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    outputs = layers.Dense(2, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")),
        metrics=["sparse_categorical_accuracy"],
    )
    return model


def callbacks(hp):
    return [keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)]
