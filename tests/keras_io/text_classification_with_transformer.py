"""Token sequences, padded lists of Python integers, classified by a transformer made of own layers."""

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {
    "exports": "weights",
    "reason": "the layers have no get_config",
    "special": "own layers that hold a Sequential and no get_config; y of shape (n,) for two softmax outputs; "
    "`validation_data` of the same form",
}

VOCABULARY, LENGTH = 50, 12


def sequences(samples, seed):
    """Return lists of tokens of different lengths and 1 for each that has more even tokens than odd ones."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, VOCABULARY, rng.integers(6, 16)).tolist() for _ in range(samples)]
    return tokens, np.array([sum(t % 2 == 0 for t in line) * 2 > len(line) for line in tokens], "int64")


def load_data():
    (x_train, y_train), (x_val, y_val) = sequences(320, 0), sequences(96, 1)
    x_train = keras.utils.pad_sequences(x_train, maxlen=LENGTH)
    x_val = keras.utils.pad_sequences(x_val, maxlen=LENGTH)
    return (x_train, y_train), (x_val, y_val)


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs):
        attended = self.dropout1(self.att(inputs, inputs))
        out1 = self.layernorm1(inputs + attended)
        return self.layernorm2(out1 + self.dropout2(self.ffn(out1)))


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        positions = ops.arange(start=0, stop=ops.shape(x)[-1], step=1)
        return self.token_emb(x) + self.pos_emb(positions)


def build_model(hp):
    embed_dim = hp.Choice("embed_dim", [8, 16])
    inputs = layers.Input(shape=(LENGTH,))
    x = TokenAndPositionEmbedding(LENGTH, VOCABULARY, embed_dim)(inputs)
    x = TransformerBlock(embed_dim, hp.Int("num_heads", 1, 2), 16)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(20, activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    outputs = layers.Dense(2, activation="softmax")(x)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
