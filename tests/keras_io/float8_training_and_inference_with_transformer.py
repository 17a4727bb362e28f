"""A small transformer that trains in float8."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "exports": "weights",
    "reason": "Keras saves a quantized MultiHeadAttention and cannot load it",
    "special": "`model.quantize('float8')` before compile, which has no eager training step; the global policy "
    "mixed_bfloat16; dict inputs {'input_ids'} for a model of one input of open length",
}

keras.config.set_dtype_policy("mixed_bfloat16")

VOCABULARY, LENGTH = 40, 10


def load_data():
    rng = np.random.default_rng(0)
    x = rng.integers(2, VOCABULARY, (400, LENGTH))
    y = (x > VOCABULARY / 2).sum(axis=1) > LENGTH // 2
    dataset = tf.data.Dataset.from_tensor_slices((x, y.astype("int32"))).batch(32)
    dataset = dataset.map(lambda ids, label: ({"input_ids": ids}, label))
    return dataset.take(10).cache().shuffle(512), dataset.skip(10)


def build_model(hp):
    width, dropout = hp.Choice("hidden_dim", [16, 32]), 0.1
    token_id_input = keras.Input(shape=(None,), dtype="int32", name="input_ids")
    x = layers.Embedding(VOCABULARY, width)(token_id_input)
    x = layers.Dropout(rate=dropout)(x)
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=16, dropout=dropout)(x, x, use_causal_mask=True)
    x = layers.LayerNormalization()(x + attended)
    x = layers.LayerNormalization()(x + layers.Dense(width)(layers.Dense(width, activation="relu")(x)))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(dropout)(x)
    x = layers.Dense(16, activation="relu")(x)
    outputs = layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs=token_id_input, outputs=outputs)
    model.quantize("float8")
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model
