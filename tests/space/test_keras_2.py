"""Idioms of Keras 2 fail in Keras 3, and the line that the user gets names the replacement."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from search.space.error_text import summarize_error
from search.space.keras_2 import replacement_of

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
keras_tuner = pytest.importorskip("keras_tuner")

X, Y = np.zeros((4, 3), "float32"), np.zeros((4,), "int32")


def batches() -> Iterator[Any]:
    while True:
        yield X, Y


@pytest.fixture(scope="module")
def model() -> Any:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def imports(module: str, name: str) -> Callable[[Any], Any]:
    """Return a function that imports `name` from `module`, as a script does."""
    return lambda _: exec(f"from {module} import {name}", {})


CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "lr": (lambda _: keras.optimizers.Adam(lr=0.1), "learning_rate"),
    "lr and decay": (lambda _: keras.optimizers.SGD(lr=0.1, decay=1e-4), "learning_rate"),
    "optimizer.lr": (lambda m: m.optimizer.lr, "learning_rate"),
    "legacy": (lambda _: tf.keras.optimizers.legacy.Adam(0.1), "write keras.optimizers.Adam"),
    "experimental": (lambda _: tf.keras.optimizers.experimental.Adam(0.1), "write keras.optimizers.Adam"),
    "optimizers.adam": (lambda _: keras.optimizers.adam, "keras.optimizers.Adam"),
    "import adam": (imports("keras.optimizers", "adam"), "keras.optimizers.Adam"),
    "write_grads": (lambda _: keras.callbacks.TensorBoard(write_grads=True), "leave it out"),
    "TensorBoard batch_size": (lambda _: keras.callbacks.TensorBoard(batch_size=32), "leave it out"),
    "period": (lambda _: keras.callbacks.ModelCheckpoint("a.keras", period=2), "save_freq='epoch'"),
    "reset_states": (lambda _: keras.metrics.Mean().reset_states(), "reset_state()"),
    "pool_size": (lambda _: keras.layers.AveragePooling2D(), "pool_size=2"),
    "predict_classes": (lambda m: m.predict_classes(X), "model.predict(x).argmax(axis=-1)"),
    "predict_proba": (lambda m: m.predict_proba(X), "model.predict(x)"),
    "fit_generator": (lambda m: m.fit_generator(batches()), "write model.fit,"),
    "evaluate_generator": (lambda m: m.evaluate_generator(batches()), "write model.evaluate,"),
    "predict_generator": (lambda m: m.predict_generator(batches()), "write model.predict,"),
    "workers": (lambda m: m.fit(X, Y, workers=4), "PyDataset"),
    "use_multiprocessing": (lambda m: m.fit(X, Y, use_multiprocessing=True), "PyDataset"),
    "max_queue_size": (lambda m: m.predict(X, max_queue_size=4), "PyDataset"),
    "nb_epoch": (lambda m: m.fit(X, Y, nb_epoch=1), "write epochs"),
    "sample_weight_mode": (lambda m: m.compile("sgd", "mse", sample_weight_mode="temporal"), "leave it out"),
    "to_yaml": (lambda m: m.to_yaml(), "to_json"),
    "output_shape": (lambda m: m.layers[0].output_shape, "layer.output.shape"),
    "batch_input_shape": (lambda _: keras.layers.Dense(3, batch_input_shape=(None, 3)), "keras.Input(batch_shape=…)"),
    "layers.experimental": (lambda _: keras.layers.experimental.preprocessing, "keras.layers.Rescaling"),
    "import experimental": (imports("tensorflow.keras.layers.experimental", "preprocessing"), "from keras.layers"),
    "CuDNNLSTM": (lambda _: keras.layers.CuDNNLSTM(3), "keras.layers.LSTM"),
    "import CuDNNGRU": (imports("keras.layers", "CuDNNGRU"), "keras.layers.GRU"),
    "layers.merge": (lambda _: keras.layers.merge([X, X], mode="sum"), "Concatenate"),
    "import normalization": (imports("keras.layers.normalization", "BatchNormalization"), "from keras.layers"),
    "import core": (imports("keras.layers.core", "Dense"), "from keras.layers"),
    "import merge": (imports("keras.layers.merge", "concatenate"), "from keras.layers"),
    "import convolutional": (imports("tensorflow.keras.layers.convolutional", "Conv2D"), "from keras.layers"),
    "import engine": (imports("keras.engine.topology", "Layer"), "from keras.layers"),
    "import np_utils": (imports("keras.utils", "np_utils"), "keras.utils.to_categorical"),
    "utils.np_utils": (lambda _: keras.utils.np_utils.to_categorical(Y), "keras.utils.to_categorical"),
    "import from np_utils": (
        imports("tensorflow.keras.utils.np_utils", "to_categorical"),
        "keras.utils.to_categorical",
    ),
    "import generic_utils": (imports("keras.utils.generic_utils", "get_custom_objects"), "get_custom_objects"),
    "ImageDataGenerator": (lambda _: keras.preprocessing.image.ImageDataGenerator(), "tensorflow.keras.preprocessing"),
    "import ImageDataGenerator": (
        imports("keras.preprocessing.image", "ImageDataGenerator"),
        "tensorflow.keras.preprocessing",
    ),
    "import Tokenizer": (imports("keras.preprocessing.text", "Tokenizer"), "TextVectorization"),
    "scikit_learn": (imports("tensorflow.keras.wrappers.scikit_learn", "KerasClassifier"), "SKLearnClassifier"),
    "Reduction": (lambda _: keras.losses.Reduction.SUM, "reduction='sum'"),
    "tensorflow_backend": (imports("keras.backend.tensorflow_backend", "set_session"), "leave it out"),
    "set_session": (lambda _: keras.backend.set_session(None), "leave it out"),
    "get_value": (lambda m: keras.backend.get_value(m.optimizer.learning_rate), "convert_to_numpy"),
    "set_value": (lambda m: keras.backend.set_value(m.optimizer.learning_rate, 0.1), "variable.assign"),
    "K.mean": (lambda _: keras.backend.mean(X), "keras.ops.mean"),
    "Range": (lambda _: keras_tuner.HyperParameters().Range("a", 1, 2), "hp.Int"),
    "Linear": (lambda _: keras_tuner.HyperParameters().Linear("a", 1, 2, 1), "hp.Float"),
    "Logarithmic": (lambda _: keras_tuner.HyperParameters().Logarithmic("a", 1, 2), "sampling='log'"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_line_names_the_replacement(name: str, model: Any) -> None:
    code, words = CASES[name]
    with pytest.raises((ValueError, TypeError, AttributeError, ImportError)) as caught:
        code(model)
    text = str(caught.value)
    line = summarize_error(caught.value)
    assert words in line
    assert words not in text, "Keras says it by itself"
    assert "\n" not in line


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (lambda m: m.save_weights("x.h5"), ".weights.h5"),
        (lambda _: keras.callbacks.ModelCheckpoint("best.h5", save_weights_only=True), ".weights.h5"),
        (lambda _: keras.callbacks.ModelCheckpoint("best"), ".keras"),
        (lambda m: m.save("folder"), ".keras"),
    ],
)
def test_keras_names_endings_by_itself(code: Callable[[Any], Any], words: str, model: Any) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")) as caught:
        code(model)
    assert words in summarize_error(caught.value)
    assert replacement_of("ValueError", str(caught.value)) == ""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the layer is not recognized: {'lr': 0.1}"),
        TypeError("Net.fit() got an unexpected keyword argument 'worker'"),
        AttributeError("'Data' object has no attribute 'rate'"),
        ModuleNotFoundError("No module named 'keras_layers_core'"),
        KeyError("lr"),
    ],
)
def test_other_errors_get_no_hint(error: Exception) -> None:
    assert replacement_of(type(error).__name__, str(error)) == ""


def test_each_replacement_of_a_module_exists() -> None:
    for module, names in {
        "keras.optimizers": "Adam SGD RMSprop",
        "keras.layers": "Rescaling LSTM GRU Concatenate Add Multiply TextVectorization",
        "keras.utils": "PyDataset to_categorical plot_model get_custom_objects Sequence image_dataset_from_directory",
        "keras.wrappers": "SKLearnClassifier SKLearnRegressor",
        "keras.ops": "convert_to_numpy mean",
        "tensorflow.keras.preprocessing.image": "ImageDataGenerator",
        "tensorflow.keras.preprocessing.text": "Tokenizer",
    }.items():
        found = importlib.import_module(module)
        assert [name for name in names.split() if not hasattr(found, name)] == []
