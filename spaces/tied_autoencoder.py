"""Reuse of layers, weights and models: an autoencoder that fills gaps in sentences.

One matrix is both embedding and output, one layer is called several times, and a model serves as a layer. The functions
at the end build new models from parts of the trained one.

search run spaces/tied_autoencoder.py && python spaces/tied_autoencoder.py
"""

import keras
import numpy as np
from keras import layers, ops

WORDS, PHRASES, LENGTH = 60, 30, 12  # word 0 is a gap


def sentences(samples, seed):
    """Return sentences of three phrases of four words each, with a quarter of the words missing; and without gaps."""
    phrases = np.random.default_rng(0).integers(1, WORDS, size=(PHRASES, 4))
    rng = np.random.default_rng(seed)
    whole = phrases[rng.integers(PHRASES, size=(samples, LENGTH // 4))].reshape(samples, LENGTH).astype("int32")
    return np.where(rng.random(whole.shape) < 0.25, 0, whole).astype("int32"), whole


def load_data():
    return sentences(2000, seed=1), sentences(500, seed=2)


@keras.saving.register_keras_serializable("tied_autoencoder")
class Tied(layers.Layer):
    """One matrix with two uses: it turns words into vectors, and with `reverse` vectors into a score for each word."""

    def __init__(self, words, size, **options):
        super().__init__(**options)
        self.words, self.size = words, size

    def build(self, shape):
        self.vectors = self.add_weight(name="vectors", shape=(self.words, self.size), initializer="glorot_uniform")

    def call(self, x, reverse=False):
        return ops.matmul(x, ops.transpose(self.vectors)) if reverse else ops.take(self.vectors, x, axis=0)

    def get_config(self):
        return {**super().get_config(), "words": self.words, "size": self.size}


def make_decoder(code, size):
    """Return the decoder: a model of its own, which the autoencoder uses as a layer."""
    inputs = keras.Input((code,))
    x = layers.Dense(LENGTH * size, activation="relu")(inputs)
    return keras.Model(inputs, layers.Reshape((LENGTH, size))(layers.Dense(LENGTH * size)(x)), name="decoder")


def build_model(hp):
    size, code = hp.Int("vector_size", 8, 32, sampling="log"), hp.Int("code_size", 8, 64, sampling="log")
    tied = Tied(WORDS, size, name="words")
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Flatten(name="flat")(tied(words))
    x = layers.Dense(code, name="narrow")(x)
    # A layer that is made once and called several times has the same weights in each call.
    step = layers.Dense(code, activation="relu", name="step")
    for _ in range(hp.Int("steps", 0, 3)):
        x = layers.Add()([x, step(x)])
    x = layers.LayerNormalization(name="code")(x)
    x = make_decoder(code, size)(x)
    model = keras.Model(words, tied(x, reverse=True))
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


search_options = {"objective": "val_accuracy", "max_epochs": 9}


# New models from a trained one: most share its weights, clones do not -------------------------------------------------


def head(model):
    """Return a model that gives the features of a middle layer. It shares the weights."""
    return keras.Model(model.input, model.get_layer("code").output)


def tail(model):
    """Return the second half of the model, from the code on. It shares the weights.

    Keras can start a model at any tensor of the graph.
    """
    return keras.Model(model.get_layer("code").output, model.output)


def describe_digits(model):
    """Return a model that turns images of digits into sentences: a new layer before a frozen tail."""
    told = clone(tail(model))  # freezing shared layers would freeze them in the autoencoder, too
    told.trainable = False
    images = keras.Input((64,))
    return keras.Model(images, told(layers.Dense(told.input_shape[-1], name="translated")(images)))


def clone(model, weights=True):
    """Return the same architecture with variables of its own: a copy of the trained values, or initial ones."""
    cloned = keras.models.clone_model(model)
    if weights:
        cloned.set_weights(model.get_weights())
    return cloned


def with_replaced(model, name, make):
    """Return the model with `make(layer)` in place of the layer `name`. The other layers are shared, with weights."""
    return keras.models.clone_model(model, clone_function=lambda layer: make(layer) if layer.name == name else layer)


def with_inserted(model, name, new):
    """Return the model with the layer `new` after the layer `name`. All other layers are shared, with weights."""

    def call(layer, *args, **options):
        x = layer(*args, **options)
        return new(x) if layer.name == name else x

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


if __name__ == "__main__":
    import search

    (model,) = search.get_best_models("tied_autoencoder")
    gaps, whole = load_data()[1]

    def show(what, other):
        print(f"{what:30} {np.mean(other.predict(gaps, verbose=0).argmax(-1) == whole):.3f}")

    show("trained", model)
    show("cloned", clone(model))
    show("cloned, without its weights", clone(model, weights=False))
    show("with a tanh inserted", with_inserted(model, "narrow", layers.Activation("tanh")))
    show("with a new decoder", with_replaced(model, "decoder", lambda layer: clone(layer, weights=False)))
    print("codes", head(model).predict(gaps, verbose=0).shape, "sentences", tail(model).output_shape)
    describe_digits(model).summary()
