"""Topics of sentences, by convolution over pre-trained word vectors.

The factory builds the model. `compile_model` chooses the optimizer, and whether to train the vectors, too.

search run spaces/text_cnn.py
"""

import keras
import numpy as np
from keras import layers

TOPICS, WORDS_EACH, FILLERS = 6, 60, 240
WORDS = 1 + FILLERS + TOPICS * WORDS_EACH  # 0 is padding
DIMENSIONS, LENGTH = 24, 30


def pretrained_vectors():
    """Return a vector for each word; words of one topic are close together.

    Read the vectors of word2vec, GloVe or fastText here.
    """
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(WORDS, DIMENSIONS))
    vectors[1 + FILLERS :] += np.repeat(rng.normal(size=(TOPICS, DIMENSIONS)), WORDS_EACH, axis=0)
    vectors[0] = 0
    return vectors.astype("float32")


def sentences(samples, seed):
    """Return sentences as word numbers, and their topics.

    A sentence has up to 3 topics, each with two to five words of it. All other words are fillers.
    """
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 1 + FILLERS, size=(samples, LENGTH))
    y = np.zeros((samples, TOPICS), "float32")
    for sentence, labels in zip(x, y, strict=True):
        for topic in rng.choice(TOPICS, size=rng.integers(4), replace=False):
            labels[topic] = 1
            places = rng.choice(LENGTH, size=rng.integers(2, 6), replace=False)
            sentence[places] = 1 + FILLERS + topic * WORDS_EACH + rng.integers(WORDS_EACH, size=len(places))
        sentence[rng.integers(LENGTH // 2, LENGTH + 1) :] = 0
    return x.astype("int32"), y


def load_data():
    return sentences(1500, seed=0), sentences(500, seed=1)


def build_model(hp):
    """Return the model. Nothing here concerns training, so any training can use this factory."""
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(WORDS, DIMENSIONS, weights=pretrained_vectors(), name="vectors")(words)
    x = layers.SpatialDropout1D(hp.Float("dropout", 0.0, 0.5))(x)
    filters, kernel = hp.Int("filters", 8, 64, sampling="log"), hp.Int("kernel", 1, 5)
    x = layers.Conv1D(filters, kernel, padding="same", activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    # A sentence may have several topics, so each topic has a sigmoid; a softmax would allow only one.
    return keras.Model(words, layers.Dense(TOPICS, activation="sigmoid")(x))


def compile_model(hp, model):
    # Layers must be frozen before the model is compiled.
    model.get_layer("vectors").trainable = not hp.Boolean("freeze_vectors")
    name = hp.Choice("optimizer", ["adam", "rmsprop", "sgd"])
    # An optimizer's options are drawn, and shown to the sampler, only if this optimizer is chosen.
    with hp.conditional_scope("optimizer", [name]):
        if name == "sgd":
            rate, momentum = hp.Float("sgd_rate", 1e-2, 1.0, sampling="log"), hp.Float("momentum", 0.0, 0.95)
            optimizer = keras.optimizers.SGD(rate, momentum=momentum, nesterov=True)
        else:
            rate = hp.Float(f"{name}_rate", 3e-4, 3e-2, sampling="log")
            optimizer = keras.optimizers.Adam(rate, amsgrad=True) if name == "adam" else keras.optimizers.RMSprop(rate)
    model.compile(optimizer, "binary_crossentropy", metrics=[keras.metrics.AUC(multi_label=True, name="auc")])


# The objective is val_auc: auc is the only compiled metric, and it is known that more of it is better.
search_options = {"max_epochs": 9}
