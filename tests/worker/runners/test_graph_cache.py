"""One graph trains models of different widths, rates and factors as `model.fit` trains each, to the last bit."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers, regularizers
from tensorflow.python.eager import context

from search.worker.capabilities import CAPABILITIES, public_calls_only
from search.worker.data.arrays import prepare_data
from search.worker.keras_internals import UNTRACED_ATTRIBUTES
from search.worker.keras_session import session
from search.worker.runners import graph_cache, model_key
from search.worker.runners.choose import choose_runner
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache, make_model_key
from search.worker.runners.model_key import model_keys
from search.worker.runners.tensorflow import epochs
from search.worker.runners.tensorflow.graph_files import registered_functions, set_graph_folder

RNG = np.random.default_rng(0)
IMAGES = RNG.random((50, 20, 20, 2)).astype("float32")
SERIES = RNG.random((50, 8, 16)).astype("float32")
ROWS = RNG.random((50, 5)).astype("float32")
LABELS = RNG.integers(0, 3, 50).astype("int32")
SIGNS = (ROWS.sum(axis=1) > 2.5).astype("float32")


def rows(
    units: int = 8,
    rate: float = 0.2,
    l2: float = 1e-4,
    outputs: int = 3,
    optimizer: Callable[[], Any] = lambda: optimizers.Adam(0.01),
    hidden: tuple[Any, ...] = (),
    dense: Mapping[str, Any] = {"activation": "relu"},
) -> Any:
    x = inputs = keras.Input((5,))
    x = layers.Dense(units, kernel_regularizer=regularizers.L2(l2), **dense)(x)
    for layer in hidden:
        x = layer()(x)
    x = layers.Dropout(rate)(x)
    x = layers.Dense(2 * units, activation="tanh", bias_regularizer=regularizers.L1(l2))(x)
    loss = "binary_crossentropy" if outputs == 1 else "sparse_categorical_crossentropy"
    x = layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax")(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer(), loss, metrics=["accuracy"])
    return model


def images(filters: int = 4, units: int = 8) -> Any:
    parts = [
        layers.Conv2D(filters, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.AveragePooling2D(2),
        layers.AveragePooling2D(3, strides=1),
        layers.Conv2D(2 * filters, 3, strides=2, use_bias=False),
        layers.Flatten(),
        layers.Dense(units),
        layers.ReLU(),
        layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential([layers.Input((20, 20, 2)), *parts])
    model.compile(optimizers.AdamW(0.01, weight_decay=0.01 / filters), "sparse_categorical_crossentropy")
    return model


def series(filters: int = 4) -> Any:
    model = keras.Sequential(
        [
            layers.Input((8, 16)),
            layers.Conv1D(filters, 3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.LeakyReLU(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    return model


def branches(units: int = 8) -> Any:
    """Return a model with branches. The layers that join them read all widths but one."""
    inputs = keras.Input((5,))
    one, two = layers.Dense(6, activation="relu")(inputs), layers.Dense(units, activation="relu")(inputs)
    two = layers.Dense(6)(two)
    x = layers.LayerNormalization()(layers.Concatenate()([one, two]))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def create_variables(model: Any, x: Any, y: Any) -> None:
    """Create the variables that a model's first step would create. `fit` then traces the step once, not twice."""
    model.optimizer.build(model.trainable_variables)
    outputs = model(x)
    model.compute_loss(x, y, outputs)
    model.compute_metrics(x, y, outputs)
    model.reset_metrics()


def train(
    make: Callable[..., Any], options: Mapping[str, Any], x: Any, y: Any, batch_size: int, seed: int, share: bool
) -> tuple[Any, list[Any]]:
    """Train two epochs, fused by a shared graph or by `fit`; return the history and all variables.

    With a batch size of 8, training ends with a smaller batch. With 11 all batches are whole: `fit` then traces once.
    """
    data = prepare_data(((x[:22], y[:22]), (x[28:], y[28:])))
    with session(seed):
        model = make(**options)
        history = keras.callbacks.History()
        model_key = make_model_key(model, []) if share else None
        if not share:
            create_variables(model, x[:1], y[:1])
        assert share == (model_key is not None)
        fit_options = {"batch_size": batch_size}
        runner = choose_runner(model, data, fit_options, seed, [history], fuse=share, model_key=model_key)
        runner.run(0, 2, [history])
        variables = [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]
        return history.history, variables


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Begin with no graphs. The first one that serves a second model is compared with the model's own step."""
    clear_graph_cache()
    graph_cache._compared.clear()
    yield
    clear_graph_cache()
    set_graph_folder(None)


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each model whose training step is traced from now on."""
    traced: list[Any] = []
    train_step = keras.Model.train_step

    def trace(model: Any, data: Any) -> Any:
        if not tf.executing_eagerly():  # else a graph is compared with it
            traced.append(model)
        return train_step(model, data)

    monkeypatch.setattr(keras.Model, "train_step", trace)
    return traced


def assert_equal(one: tuple[Any, list[Any]], other: tuple[Any, list[Any]]) -> None:
    assert one[0] == other[0]
    for array, same in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(array, same)


def assert_as_fit(
    make: Callable[..., Any], variants: list[Mapping[str, Any]], x: Any, y: Any = LABELS, graphs: int = 1
) -> None:
    """Assert that shared graphs train the variants after the first as `fit` does.

    Args:
        graphs: the number of graphs for all variants.
    """
    for i, options in enumerate(variants):
        shared = train(make, options, x, y, 8 + 3 * i, 7 + i, share=True)
        if i == 0:
            continue
        assert_equal(shared, train(make, options, x, y, 8 + 3 * i, 7 + i, share=False))
    assert len(cached_graphs()) == graphs
    assert None not in cached_graphs()


def assert_graphs_differ(make: Callable[..., Any], *variants: Mapping[str, Any]) -> None:
    """Assert that no two of the variants may share a graph, and that each may share one with models like itself."""
    descriptions = []
    for options in variants:
        with session(1):
            model_key = make_model_key(make(**options), [])
        assert model_key is not None
        descriptions.append(model_key.description)
    assert len(set(descriptions)) == len(variants)


@pytest.mark.core
def test_widths_rates_factors_and_batches_are_dynamic() -> None:
    wide = {"units": 20, "rate": 0.45, "l2": 0.01}
    assert_as_fit(rows, [{}, wide, {"units": 2}], ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [lambda: optimizers.Muon(0.01), lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2)]
)
def test_an_optimizer_that_reads_widths_has_a_static_graph(optimizer: Callable[[], Any]) -> None:
    """`tensorflow/test_optimizer_updates.py` has all optimizers that take any width."""
    options: dict[str, Any] = {"optimizer": optimizer}
    assert_graphs_differ(rows, options, options | {"units": 9})
    assert_as_fit(rows, [options, options | {"rate": 0.4}], ROWS)


@pytest.mark.slow
def test_width_preserving_layers_take_any_width() -> None:
    hidden = (
        lambda: layers.BatchNormalization(),
        lambda: layers.ELU(),
        lambda: layers.BatchNormalization(center=False, momentum=0.5),
        lambda: layers.LeakyReLU(0.2),
        lambda: layers.Activation("selu"),
        lambda: layers.Activation("softmax"),
    )
    assert_as_fit(rows, [{"hidden": hidden}, {"hidden": hidden, "units": 20}], ROWS)


@pytest.mark.slow
def test_a_width_that_another_layer_may_read_is_static() -> None:
    hidden = (
        lambda: layers.LayerNormalization(),
        lambda: layers.GaussianNoise(0.1),
        lambda: layers.Reshape((-1,)),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.PReLU(),
    )
    for layer in hidden:
        assert_graphs_differ(rows, {"hidden": (layer,)}, {"hidden": (layer,), "units": 20})
    assert_as_fit(rows, [{"hidden": hidden}, {"hidden": hidden, "units": 20}], ROWS, graphs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dense",
    [
        {"use_bias": False, "kernel_constraint": keras.constraints.MaxNorm(0.5)},
        {"activity_regularizer": regularizers.L2(0.01), "activation": "gelu"},
    ],
    ids=lambda dense: next(iter(dense)),
)
def test_a_dense_layer_may_be_set_up_in_any_way(dense: Mapping[str, Any]) -> None:
    assert_as_fit(rows, [{"dense": dense}, {"dense": dense, "units": 20}], ROWS)


@pytest.mark.slow
def test_a_width_of_one_is_another_graph() -> None:
    """Keras adds the bias of such a layer in another way."""
    assert_graphs_differ(rows, {"units": 1}, {"units": 5})
    assert_as_fit(rows, [{"units": 1}, {"units": 1, "rate": 0.4}], ROWS)


@pytest.mark.slow
def test_the_width_of_outputs_is_static() -> None:
    """Keras gives labels another dimension if the width is 1."""
    assert_graphs_differ(rows, {"outputs": 3}, {"outputs": 4})
    assert_as_fit(rows, [{"outputs": 1}, {"outputs": 1, "units": 9}], ROWS, SIGNS)


@pytest.mark.slow
def test_convolutions_have_any_number_of_filters() -> None:
    assert_as_fit(images, [{}, {"filters": 7, "units": 5}], IMAGES)


@pytest.mark.slow
def test_convolutions_of_series_have_any_number_of_filters() -> None:
    assert_as_fit(series, [{}, {"filters": 9}], SERIES)


@pytest.mark.slow
def test_a_model_with_branches_has_a_dynamic_width() -> None:
    assert_as_fit(branches, [{}, {"units": 11}], ROWS)


@pytest.mark.slow
def test_half_precision_leaves_widths_dynamic() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert_graphs_differ(rows, {}, {"rate": 0.4})
        assert_as_fit(rows, [{}, {"units": 20}], ROWS)
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.core
def test_models_that_take_turns_keep_their_state() -> None:
    """Two models of one graph that train by turns, epoch by epoch, equal two that train one after the other."""

    def run(turns: list[int]) -> list[list[Any]]:
        clear_graph_cache()
        data = prepare_data(((ROWS, LABELS), None))
        trained = []
        for i in (0, 1):
            with session(3 + i):
                model = rows(units=5 + 6 * i)
                runner = choose_runner(model, data, {}, i, [], model_key=make_model_key(model, []))
                trained.append((model, runner))
        done = [0, 0]
        for i in turns:
            trained[i][1].run(done[i], done[i] + 1, [])
            done[i] += 1
        return [[np.array(v) for v in (*model.variables, *model.optimizer.variables)] for model, _ in trained]

    for one, other in zip(run([0, 0, 1, 1]), run([0, 1, 0, 1]), strict=True):
        for array, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, same)
    assert len(cached_graphs()) == 1


def test_models_may_be_trained_by_two_graphs_in_turn() -> None:
    def run(share: bool) -> list[Any]:
        halves = [prepare_data(((ROWS[part], LABELS[part]), None)) for part in (slice(25), slice(25, 50))]
        models, runners = [], []
        for i in (0, 1):
            with session(3 + i):
                models.append(rows(units=5 + 6 * i))
                model_key = make_model_key(models[i], []) if share else None
                runners.append([choose_runner(models[i], half, {}, 1, [], model_key=model_key) for half in halves])
        done = [0, 0]
        for turn in (0, 0, 1, 1, 0, 1, 0):
            runners[turn][done[turn] % 2].run(done[turn], done[turn] + 1, [])
            done[turn] += 1
        return [np.array(v) for model in models for v in (*model.variables, *model.optimizer.variables)]

    for array, same in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(array, same)
    assert len(cached_graphs()) == 2


def test_the_least_recently_used_graph_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "MAX_GRAPHS", 1)
    train(rows, {}, ROWS, LABELS, 8, 1, share=True)
    (first,) = cached_graphs()
    train(rows, {"units": 1}, ROWS, LABELS, 8, 2, share=True)
    (second,) = cached_graphs()
    assert second is not first


@pytest.mark.core
def test_tensorflow_forgets_a_dropped_graph() -> None:
    gc.collect()
    assert registered_functions() == []
    train(rows, {}, ROWS, LABELS, 8, 1, share=True)
    names = registered_functions()
    runtime = context.context()
    assert names
    assert all(runtime.has_function(name) for name in names)
    clear_graph_cache()
    gc.collect()  # the model that was trained knows its loops
    assert registered_functions() == []
    assert not any(runtime.has_function(name) for name in names)


@pytest.fixture
def _sharing_again() -> Iterator[None]:
    yield
    model_keys.forget()


@pytest.mark.usefixtures("_sharing_again")
def test_a_graph_that_trains_a_second_model_otherwise_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key does not see an attribute, so models have the same key that train otherwise."""
    monkeypatch.setattr(model_key, "UNTRACED_ATTRIBUTES", UNTRACED_ATTRIBUTES | {"beta_1"})
    train(rows, {}, ROWS, LABELS, 8, 1, share=True)
    options = {"optimizer": lambda: optimizers.Adam(0.01, beta_1=0.8)}
    other = train(rows, options, ROWS, LABELS, 8, 2, share=True)
    assert_equal(other, train(rows, options, ROWS, LABELS, 8, 2, share=False))
    assert "a shared graph does not train a second model as the model's own step does" in model_keys.line
    assert cached_graphs() == []
    with session(3):
        assert make_model_key(rows(), []) is None


@pytest.mark.usefixtures("_sharing_again")
def test_models_of_a_version_of_keras_that_is_not_tested_share_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    model_keys.forget()
    with session(1):
        assert make_model_key(rows(), []) is None
    assert model_keys.line.startswith("graph sharing is off, as Keras 3.99.0 is not one of the tested versions, 3.12")


@pytest.mark.slow
def test_without_graph_sharing_fused_epochs_use_public_calls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = train(rows, {}, ROWS, LABELS, 8, 1, share=False)
    for each in CAPABILITIES:
        if each.for_speed:
            monkeypatch.setattr(each, "_test", lambda: pytest.fail("a private name is used"))
            monkeypatch.setattr(each, "_is_tested", False)
    data = prepare_data(((ROWS[:22], LABELS[:22]), (ROWS[28:], LABELS[28:])))
    with public_calls_only(), session(1):
        model, history = rows(), keras.callbacks.History()
        assert make_model_key(model, []) is None
        runner = choose_runner(model, data, {"batch_size": 8}, 1, [history])
        assert runner.name == "fused"
        runner.run(0, 2, [history])
        variables = [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]
    assert_equal((history.history, variables), fitted)


def test_a_model_that_cannot_share_trains_by_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise ValueError("a capture")

    fitted = train(rows, {}, ROWS, LABELS, 8, 1, share=False)
    monkeypatch.setattr(epochs, "make_shared_graph", fail)
    alone = train(rows, {}, ROWS, LABELS, 8, 1, share=True)
    assert alone[0] == fitted[0]
    assert cached_graphs() == [None]


def train_elsewhere(folder: str, make: Callable[..., Any], x: Any) -> tuple[Any, list[Any]]:
    """Train a model in this process, which keeps graphs in `folder`."""
    clear_graph_cache()
    set_graph_folder(folder)
    return train(make, {}, x, LABELS, 8, 1, share=True)


@pytest.fixture(scope="module")
def another_process() -> Iterator[ProcessPoolExecutor]:
    """Yield a process that has imported the framework itself."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options", "x"),
    [(rows, {"units": 20, "rate": 0.4}, ROWS), (images, {"filters": 7}, IMAGES), (branches, {}, ROWS)],
    ids=["rows", "images", "branches"],
)
def test_another_process_need_not_trace(
    make: Callable[..., Any],
    options: Mapping[str, Any],
    x: Any,
    another_process: ProcessPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = another_process.submit(train_elsewhere, str(tmp_path), make, x).result()
    assert len(list(tmp_path.iterdir())) == 1
    fitted = train(make, options, x, LABELS, 11, 3, share=False)
    set_graph_folder(str(tmp_path))
    traced = count_traces(monkeypatch)
    assert_equal(train(make, options, x, LABELS, 11, 3, share=True), fitted)
    clear_graph_cache()
    assert_equal(train(make, {}, x, LABELS, 8, 1, share=True), first)
    assert None not in cached_graphs()
    assert not traced
