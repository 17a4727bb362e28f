"""Translation with an encoder and a decoder, from batches of a dict of both sequences and the sequence to predict."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "exports": "keras",
    "special": "({'encoder_inputs', 'decoder_inputs'}, y) from tf.data, vectorized by two TextVectorization layers at "
    "module level; inputs of open length; masks; nested models with list inputs; layers with get_config",
}

VOCABULARY, LENGTH, BATCH = 30, 8, 32


def make_pairs(count):
    """Return sentences and their translations: each word has one of its own, and the order is turned around."""
    rng = np.random.default_rng(0)
    sentences = [rng.choice(list("abcdefgh"), rng.integers(3, LENGTH)).tolist() for _ in range(count)]
    return [(" ".join(line), "[start] " + " ".join(w + "o" for w in line[::-1]) + " [end]") for line in sentences]


def keep_brackets(texts):
    return tf.strings.lower(texts)


train_pairs, val_pairs = make_pairs(320)[:256], make_pairs(320)[256:]
eng_vectorization = layers.TextVectorization(VOCABULARY, output_mode="int", output_sequence_length=LENGTH)
spa_vectorization = layers.TextVectorization(
    VOCABULARY, output_mode="int", output_sequence_length=LENGTH + 1, standardize=keep_brackets
)
eng_vectorization.adapt([pair[0] for pair in train_pairs])
spa_vectorization.adapt([pair[1] for pair in train_pairs])


def format_dataset(eng, spa):
    eng, spa = eng_vectorization(eng), spa_vectorization(spa)
    return {"encoder_inputs": eng, "decoder_inputs": spa[:, :-1]}, spa[:, 1:]


def make_dataset(pairs):
    eng_texts, spa_texts = zip(*pairs, strict=True)
    dataset = tf.data.Dataset.from_tensor_slices((list(eng_texts), list(spa_texts)))
    dataset = dataset.batch(BATCH).map(format_dataset)
    return dataset.cache().shuffle(2048).prefetch(16)


def load_data():
    return make_dataset(train_pairs), make_dataset(val_pairs)


class TransformerEncoder(layers.Layer):
    def __init__(self, embed_dim, dense_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim, self.dense_dim, self.num_heads = embed_dim, dense_dim, num_heads
        self.attention = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.dense_proj = keras.Sequential([layers.Dense(dense_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm_1 = layers.LayerNormalization()
        self.layernorm_2 = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        padding_mask = None if mask is None else ops.cast(mask[:, None, :], dtype="int32")
        attended = self.attention(query=inputs, value=inputs, key=inputs, attention_mask=padding_mask)
        proj_input = self.layernorm_1(inputs + attended)
        return self.layernorm_2(proj_input + self.dense_proj(proj_input))

    def get_config(self):
        own = {"embed_dim": self.embed_dim, "dense_dim": self.dense_dim, "num_heads": self.num_heads}
        return {**super().get_config(), **own}


class PositionalEmbedding(layers.Layer):
    def __init__(self, sequence_length, vocab_size, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.token_embeddings = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.position_embeddings = layers.Embedding(input_dim=sequence_length, output_dim=embed_dim)
        self.sequence_length, self.vocab_size, self.embed_dim = sequence_length, vocab_size, embed_dim

    def call(self, inputs):
        positions = ops.arange(0, ops.shape(inputs)[-1], 1)
        return self.token_embeddings(inputs) + self.position_embeddings(positions)

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0)

    def get_config(self):
        own = {"sequence_length": self.sequence_length, "vocab_size": self.vocab_size, "embed_dim": self.embed_dim}
        return {**super().get_config(), **own}


class TransformerDecoder(layers.Layer):
    def __init__(self, embed_dim, latent_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim, self.latent_dim, self.num_heads = embed_dim, latent_dim, num_heads
        self.attention_1 = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.attention_2 = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.dense_proj = keras.Sequential([layers.Dense(latent_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm_1 = layers.LayerNormalization()
        self.layernorm_2 = layers.LayerNormalization()
        self.layernorm_3 = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        inputs, encoder_outputs = inputs
        causal_mask = self.get_causal_attention_mask(inputs)
        inputs_mask, encoder_mask = (None, None) if mask is None else mask
        attended_1 = self.attention_1(
            query=inputs, value=inputs, key=inputs, attention_mask=causal_mask, query_mask=inputs_mask
        )
        out_1 = self.layernorm_1(inputs + attended_1)
        attended_2 = self.attention_2(
            query=out_1,
            value=encoder_outputs,
            key=encoder_outputs,
            query_mask=inputs_mask,
            key_mask=encoder_mask,
        )
        out_2 = self.layernorm_2(out_1 + attended_2)
        return self.layernorm_3(out_2 + self.dense_proj(out_2))

    def get_causal_attention_mask(self, inputs):
        batch_size, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        mask = ops.cast(ops.arange(length)[:, None] >= ops.arange(length), dtype="int32")
        return ops.broadcast_to(mask, (batch_size, length, length))

    def get_config(self):
        own = {"embed_dim": self.embed_dim, "latent_dim": self.latent_dim, "num_heads": self.num_heads}
        return {**super().get_config(), **own}


def build_model(hp):
    embed_dim, latent_dim = hp.Choice("embed_dim", [8, 16]), hp.Choice("latent_dim", [16, 32])
    encoder_inputs = keras.Input(shape=(None,), dtype="int64", name="encoder_inputs")
    x = PositionalEmbedding(LENGTH, VOCABULARY, embed_dim)(encoder_inputs)
    encoder_outputs = TransformerEncoder(embed_dim, latent_dim, 2)(x)

    decoder_inputs = keras.Input(shape=(None,), dtype="int64", name="decoder_inputs")
    encoded_seq_inputs = keras.Input(shape=(None, embed_dim), name="decoder_state_inputs")
    x = PositionalEmbedding(LENGTH, VOCABULARY, embed_dim)(decoder_inputs)
    x = TransformerDecoder(embed_dim, latent_dim, 2)([x, encoded_seq_inputs])
    x = layers.Dropout(0.5)(x)
    decoder_outputs = layers.Dense(VOCABULARY, activation="softmax")(x)
    decoder = keras.Model([decoder_inputs, encoded_seq_inputs], decoder_outputs)

    decoder_outputs = decoder([decoder_inputs, encoder_outputs])
    transformer = keras.Model(
        {"encoder_inputs": encoder_inputs, "decoder_inputs": decoder_inputs}, decoder_outputs, name="transformer"
    )
    transformer.compile(
        "rmsprop",
        loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        metrics=["accuracy"],
    )
    return transformer
