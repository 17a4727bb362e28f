"""Reviews from text files: the vocabulary is learnt when the file is loaded, and datasets are vectorized by a `map`."""

import re
import string
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "exports": "keras",
    "special": "TextVectorization with a standardization of its own, adapted at module level on a tf.data of strings; "
    "`text_dataset_from_directory`; datasets are module globals",
}

BATCH, WORDS, LENGTH = 32, 200, 24


def write_reviews(folder, each):
    """Write `each` good and `each` bad reviews, one file for each, into folders named after the class."""
    rng = np.random.default_rng(0)
    words = {"pos": ["lovely", "great", "fine"], "neg": ["awful", "dull", "bad"]}
    for label, own in words.items():
        (folder / label).mkdir(parents=True)
        for i in range(each):
            text = rng.choice([*own, "The", "film,", "was", "a", "plot!", "<br />"], 20)
            (folder / label / f"{i}.txt").write_text(" ".join(text))


reviews = Path(tempfile.mkdtemp()) / "train"
write_reviews(reviews, 120)
options = {"batch_size": BATCH, "validation_split": 0.25, "seed": 1337, "class_names": ["pos", "neg"], "verbose": False}
raw_train_ds = keras.utils.text_dataset_from_directory(reviews, subset="training", **options)
raw_val_ds = keras.utils.text_dataset_from_directory(reviews, subset="validation", **options)


def custom_standardization(texts):
    texts = tf.strings.regex_replace(tf.strings.lower(texts), "<br />", " ")
    return tf.strings.regex_replace(texts, f"[{re.escape(string.punctuation)}]", "")


vectorize_layer = layers.TextVectorization(
    standardize=custom_standardization, max_tokens=WORDS, output_mode="int", output_sequence_length=LENGTH
)
vectorize_layer.adapt(raw_train_ds.map(lambda x, y: x))


def vectorize_text(text, label):
    return vectorize_layer(tf.expand_dims(text, -1)), label


train_ds = raw_train_ds.map(vectorize_text).cache().prefetch(buffer_size=10)
val_ds = raw_val_ds.map(vectorize_text).cache().prefetch(buffer_size=10)


def load_data():
    return train_ds, val_ds


def build_model(hp):
    inputs = keras.Input(shape=(None,), dtype="int64")
    x = layers.Embedding(WORDS, hp.Choice("embedding_dim", [8, 16]))(inputs)
    x = layers.Dropout(0.5)(x)
    x = layers.Conv1D(hp.Choice("filters", [8, 16]), 3, padding="valid", activation="relu", strides=3)(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dense(16, activation="relu")(x)
    predictions = layers.Dense(1, activation="sigmoid", name="predictions")(x)
    model = keras.Model(inputs, predictions)
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
