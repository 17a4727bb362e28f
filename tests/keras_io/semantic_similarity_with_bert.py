"""Pairs of sentences: the same or not. A `PyDataset` turns strings into the three inputs of a BERT-like model."""

import keras
import numpy as np
import pandas as pd
from keras import layers

EXPECTED = {
    "exports": "keras",
    "kind": "a PyDataset",
    "special": "a keras.utils.PyDataset that shuffles its own indices at the end of an epoch, on columns of a pandas "
    "frame; a tuple of three inputs for a model made from a list; a frozen part",
}

WORDS = ["a", "woman", "man", "cat", "dog", "sleeps", "runs", "sings", "eats", "quickly", "slowly"]
LENGTH, BATCH = 8, 16


def make_frame(samples, seed):
    rng = np.random.default_rng(seed)
    first = [" ".join(rng.choice(WORDS, 3)) for _ in range(samples)]
    same = rng.integers(2, size=samples)
    second = [text if equal else " ".join(rng.choice(WORDS, 3)) for text, equal in zip(first, same, strict=True)]
    return pd.DataFrame({"sentence1": first, "sentence2": second, "label": same})


class BertSemanticDataGenerator(keras.utils.PyDataset):
    """Batches of ((input_ids, attention_mask, token_type_ids), labels)."""

    def __init__(self, sentence_pairs, labels, batch_size=BATCH, shuffle=True, **kwargs):
        super().__init__(**kwargs)
        self.sentence_pairs, self.labels = sentence_pairs, labels
        self.shuffle, self.batch_size = shuffle, batch_size
        self.token_ids = {word: i + 2 for i, word in enumerate(WORDS)}
        self.indexes = np.arange(len(self.sentence_pairs))
        self.on_epoch_end()

    def __len__(self):
        return len(self.sentence_pairs) // self.batch_size

    def __getitem__(self, idx):
        indexes = self.indexes[idx * self.batch_size : (idx + 1) * self.batch_size]
        input_ids = np.zeros((len(indexes), LENGTH), "int32")
        token_type_ids = np.zeros((len(indexes), LENGTH), "int32")
        for row, (first, second) in enumerate(self.sentence_pairs[indexes]):
            ids = [[self.token_ids[word] for word in text.split()] for text in (first, second)]
            line = [*ids[0], 1, *ids[1]]
            input_ids[row, : len(line)] = line
            token_type_ids[row, len(ids[0]) + 1 : len(line)] = 1
        attention_masks = (input_ids != 0).astype("int32")
        return (input_ids, attention_masks, token_type_ids), np.array(self.labels[indexes], dtype="int32")

    def on_epoch_end(self):
        if self.shuffle:
            np.random.RandomState(42).shuffle(self.indexes)


def load_data():
    train_df, valid_df = make_frame(320, 0), make_frame(96, 1)
    parts = []
    for frame, shuffle in ((train_df, True), (valid_df, False)):
        labels = keras.utils.to_categorical(frame.label, num_classes=2)
        pairs = frame[["sentence1", "sentence2"]].values.astype("str")
        parts.append(BertSemanticDataGenerator(pairs, labels, shuffle=shuffle))
    return tuple(parts)


def build_model(hp):
    input_ids = layers.Input(shape=(LENGTH,), dtype="int32", name="input_ids")
    attention_masks = layers.Input(shape=(LENGTH,), dtype="int32", name="attention_masks")
    token_type_ids = layers.Input(shape=(LENGTH,), dtype="int32", name="token_type_ids")
    words = layers.Embedding(len(WORDS) + 2, 8)
    words.trainable = False
    x = words(input_ids) + layers.Embedding(2, 8)(token_type_ids)
    x = layers.Bidirectional(layers.LSTM(hp.Choice("lstm", [8, 16]), return_sequences=True))(
        x, mask=keras.ops.cast(attention_masks, "bool")
    )
    avg_pool = layers.GlobalAveragePooling1D()(x)
    max_pool = layers.GlobalMaxPooling1D()(x)
    concat = layers.concatenate([avg_pool, max_pool])
    dropout = layers.Dropout(hp.Float("dropout", 0.1, 0.5))(concat)
    output = layers.Dense(2, activation="softmax")(dropout)
    model = keras.Model(inputs=[input_ids, attention_masks, token_type_ids], outputs=output)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="categorical_crossentropy", metrics=["acc"])
    return model
