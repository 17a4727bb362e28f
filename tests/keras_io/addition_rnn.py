"""Sums of two numbers, read and written as characters."""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "exports": "keras",
    "special": "x and y are boolean arrays; a stack of LSTMs; a module-level object that encodes; a callback that "
    "predicts after each epoch",
}

DIGITS = 2
MAXLEN = DIGITS + 1 + DIGITS


class CharacterTable:
    """One-hot rows for characters, and back."""

    def __init__(self, chars):
        self.chars = sorted(set(chars))
        self.char_indices = {c: i for i, c in enumerate(self.chars)}
        self.indices_char = dict(enumerate(self.chars))

    def encode(self, text, num_rows):
        x = np.zeros((num_rows, len(self.chars)))
        for i, c in enumerate(text):
            x[i, self.char_indices[c]] = 1
        return x

    def decode(self, x):
        return "".join(self.indices_char[i] for i in x.argmax(axis=-1))


ctable = CharacterTable("0123456789+ ")


def load_data():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 10**DIGITS, (600, 2))
    questions = [f"{a}+{b}".ljust(MAXLEN)[::-1] for a, b in pairs]
    answers = [str(a + b).ljust(DIGITS + 1) for a, b in pairs]
    x = np.zeros((len(questions), MAXLEN, len(ctable.chars)), dtype=bool)
    y = np.zeros((len(questions), DIGITS + 1, len(ctable.chars)), dtype=bool)
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        x[i] = ctable.encode(question, MAXLEN)
        y[i] = ctable.encode(answer, DIGITS + 1)
    split_at = len(x) - len(x) // 5
    return (x[:split_at], y[:split_at]), (x[split_at:], y[split_at:])


class ShowGuesses(keras.callbacks.Callback):
    """Print a few sums of the validation data and the model's answers to them."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def on_epoch_end(self, epoch, logs=None):
        for x, y, guess in zip(self.x, self.y, self.model.predict(self.x, verbose=0), strict=True):
            print("Q", ctable.decode(x)[::-1], "T", ctable.decode(y), "A", ctable.decode(guess))


def callbacks(hp):
    _, (x, y) = load_data()
    return [ShowGuesses(x[:3], y[:3])]


def build_model(hp):
    width = hp.Choice("width", [8, 16])
    model = keras.Sequential()
    model.add(layers.Input((MAXLEN, len(ctable.chars))))
    model.add(layers.LSTM(width))
    model.add(layers.RepeatVector(DIGITS + 1))
    for _ in range(hp.Int("num_layers", 1, 2)):
        model.add(layers.LSTM(width, return_sequences=True))
    model.add(layers.Dense(len(ctable.chars), activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
