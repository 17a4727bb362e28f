"""Hidden words predicted by a small BERT. The weight of a sample says which words are hidden."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "exports": "keras",
    "special": "a functional subclass with its own compute_loss, compute_metrics and metrics; loss and metric objects "
    "are module globals; compiled without a loss; (x, y, sample_weight) with a weight for each word",
}


@dataclass
class Config:
    MAX_LEN = 12
    BATCH_SIZE = 32
    VOCAB_SIZE = 30
    NUM_HEAD = 2


config = Config()
MASK = config.VOCAB_SIZE - 1


def get_masked_input_and_labels(rng, texts):
    """Return the texts with some words hidden, the texts, and 1 for each hidden word."""
    hidden = rng.random(texts.shape) < 0.15
    return np.where(hidden, MASK, texts), texts.copy(), hidden.astype("float64")


def load_data():
    rng = np.random.default_rng(0)
    # Every word follows from the one before, so hidden ones can be guessed.
    first = rng.integers(3, MASK, (400, 1))
    texts = 3 + (first + np.arange(config.MAX_LEN)) % (MASK - 3)
    dataset = tf.data.Dataset.from_tensor_slices(get_masked_input_and_labels(rng, texts))
    train, validation = dataset.take(320), dataset.skip(320)
    return train.shuffle(1000).batch(config.BATCH_SIZE), validation.batch(config.BATCH_SIZE)


def bert_module(query, key, value, i, width):
    attention_output = layers.MultiHeadAttention(
        num_heads=config.NUM_HEAD, key_dim=width // config.NUM_HEAD, name=f"encoder_{i}_multiheadattention"
    )(query, key, value)
    attention_output = layers.Dropout(0.1, name=f"encoder_{i}_att_dropout")(attention_output)
    attention_output = layers.LayerNormalization(epsilon=1e-6, name=f"encoder_{i}_att_layernormalization")(
        query + attention_output
    )
    ffn = keras.Sequential([layers.Dense(width, activation="relu"), layers.Dense(width)], name=f"encoder_{i}_ffn")
    ffn_output = layers.Dropout(0.1, name=f"encoder_{i}_ffn_dropout")(ffn(attention_output))
    return layers.LayerNormalization(epsilon=1e-6, name=f"encoder_{i}_ffn_layernormalization")(
        attention_output + ffn_output
    )


loss_fn = keras.losses.SparseCategoricalCrossentropy(reduction=None)
loss_tracker = keras.metrics.Mean(name="loss")


class MaskedLanguageModel(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = loss_fn(y, y_pred, sample_weight)
        loss_tracker.update_state(loss, sample_weight=sample_weight)
        return keras.ops.sum(loss)

    def compute_metrics(self, x, y, y_pred, sample_weight):
        return {"loss": loss_tracker.result()}

    @property
    def metrics(self):
        return [loss_tracker]


def build_model(hp):
    width = hp.Choice("width", [8, 16])
    inputs = layers.Input((config.MAX_LEN,), dtype="int64")
    x = layers.Embedding(config.VOCAB_SIZE, width, name="word_embedding")(inputs)
    for i in range(hp.Int("num_layers", 1, 2)):
        x = bert_module(x, x, x, i, width)
    output = layers.Dense(config.VOCAB_SIZE, name="mlm_cls", activation="softmax")(x)
    model = MaskedLanguageModel(inputs, output, name="masked_bert_model")
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")))
    return model
