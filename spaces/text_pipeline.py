"""Raw text: a hyperparameter puts `TextVectorization` into the `tf.data` pipeline or into the model.

At the end a model that takes strings is exported, for either place of the vectorization.

search run spaces/text_pipeline.py        the search
python spaces/text_pipeline.py            the search, then the export to reviews.keras
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import search

GOOD = ["good", "great", "fine", "lovely", "superb", "charming", "witty", "touching"]
BAD = ["bad", "poor", "dull", "awful", "clumsy", "boring", "silly", "tedious"]
THINGS = ["plot", "film", "cast", "music", "ending", "script", "camera", "humour"]
LENGTH = 32  # a review has up to 15 words, and 14 pairs of words


def reviews(samples, seed):
    """Return reviews of three remarks each, some negated. The label is the opinion of most of the remarks."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(samples):
        remarks, praise = [], 0
        for thing in rng.choice(THINGS, 3, replace=False):
            good, negated = rng.integers(2, size=2)
            praise += good != negated
            remarks.append(f"The {thing} was {'not ' if negated else ''}{rng.choice(GOOD if good else BAD)}")
        texts.append(", ".join(remarks) + rng.choice([".", "!", "..."]))
        labels.append(praise >= 2)
    return np.array(texts), np.array(labels, "float32")


def vectorizer(hp):
    """Return the layer that turns texts into numbers.

    Its vocabulary comes from the training texts alone, and is the same each time.
    """
    layer = layers.TextVectorization(
        max_tokens=hp.Choice("max_tokens", [100, 400]),
        ngrams=hp.Choice("ngrams", [1, 2]),
        output_sequence_length=LENGTH,
    )
    layer.adapt(reviews(1000, seed=0)[0])
    return layer


def within_model(hp):
    return hp.Choice("vectorize_in", ["pipeline", "model"]) == "model"


def load_data(hp):
    train, validation = (tf.data.Dataset.from_tensor_slices(reviews(n, seed)) for n, seed in ((1000, 0), (400, 1)))
    train, validation = train.cache().shuffle(1000, seed=0).batch(32), validation.batch(100)
    if within_model(hp):
        return train, validation
    # The processor prepares the next batches while the device trains.
    vectorize = vectorizer(hp)
    return tuple(
        part.map(lambda x, y: (vectorize(x), y), num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
        for part in (train, validation)
    )


def build_model(hp):
    if within_model(hp):
        inputs = keras.Input((), dtype="string")
        x = vectorizer(hp)(inputs)
    else:
        x = inputs = keras.Input((LENGTH,), dtype="int64")
    x = layers.Embedding(400, hp.Int("dimensions", 4, 32, sampling="log"))(x)
    if hp.Boolean("convolution"):
        x = layers.Conv1D(16, 2, activation="relu")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    rate = hp.Float("learning_rate", 3e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model


def end_to_end(hp, model):
    """Return a model that takes strings: `model` itself, or `model` behind the vectorizer."""
    if within_model(hp):
        return model
    texts = keras.Input((), dtype="string")
    return keras.Model(texts, model(vectorizer(hp)(texts)))


# The vectorization layer runs only in TensorFlow's graphs.
search_options = {"max_epochs": 9, "keras_backend": "tensorflow"}


if __name__ == "__main__":
    import keras_tuner

    study = search.run(__file__, resume=True)
    hp = keras_tuner.HyperParameters()
    hp.values = study.get_best_hyperparameters(1)[0]
    exported = end_to_end(hp, study.get_best_models(1)[0])
    exported.save("reviews.keras")
    texts = tf.constant(["The plot was not bad, the cast was superb!", "The humour was not witty. The film was dull"])
    # Without its compilation: the file is for predictions only.
    print(keras.saving.load_model("reviews.keras", compile=False).predict(texts))
