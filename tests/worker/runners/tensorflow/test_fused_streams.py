"""Streams in fused epochs: the batches, logs and weights of `model.fit`, to the last bit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

from search.space.file import describe_error
from search.worker.data.arrays import prepare_data
from search.worker.keras_internals import UNTRACED_ATTRIBUTES
from search.worker.keras_session import session
from search.worker.runners import graph_cache, model_key
from search.worker.runners.choose import choose_runner, create_weights
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache, make_model_key
from search.worker.runners.model_key import model_keys
from search.worker.runners.tensorflow.graph_files import set_graph_folder
from search.worker.runners.tensorflow.streams import _with_class_weight

L = keras.layers
rng = np.random.default_rng(0)
X = rng.normal(size=(46, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
WEIGHT = rng.uniform(0.1, 2, 46).astype("float32")
TRAIN, VALIDATION = (X[:30], Y[:30]), (X[30:], Y[30:])


def dataset(data: Any, size: int = 8) -> Any:
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def augmented(x: Any, y: Any) -> Any:
    noise = tf.random.stateless_normal(tf.shape(x), seed=(1, tf.cast(tf.reduce_sum(tf.abs(x)) * 1000, tf.int32)))
    return x + 0.1 * noise, y


def seeded(*, reshuffle: bool = True) -> Any:
    return dataset(TRAIN, 1).unbatch().shuffle(20, seed=4, reshuffle_each_iteration=reshuffle).batch(8).map(augmented)


def filtered(data: Any) -> Any:
    """Return a data set of unknown cardinality."""
    return dataset(data, 1).unbatch().filter(lambda x, y: x[0] < 1).shuffle(9, seed=2).batch(8)


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """Batches in an order that changes when an epoch ends. All calls are noted."""

    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(**options)
        self.data, self.order, self.rng = data, np.arange(len(data[0])), np.random.default_rng(3)
        self.calls: list[Any] = []

    def __len__(self) -> int:
        return -(-len(self.order) // 8)

    def __getitem__(self, index: int) -> Any:
        self.calls.append(index)
        rows = self.order[8 * index : 8 * index + 8]
        return tuple(part[rows] for part in self.data)

    def on_epoch_begin(self) -> None:
        self.calls.append("begin")

    def on_epoch_end(self) -> None:
        self.calls.append("end")
        self.rng.shuffle(self.order)

    def calls_of_epochs(self, epochs: int) -> list[list[str]]:
        """Return the calls of so many epochs, each sorted. Threads read ahead of the training, and side by side."""
        found: list[list[str]] = [[]]
        for call in self.calls:
            if call == "end":
                found.append([])
            else:
                found[-1].append(str(call))
        return [sorted(each) for each in found[:epochs]]


def batches(*data: Any) -> Callable[[], Iterator[Any]]:
    def make() -> Iterator[Any]:
        for i in range(0, len(data[0]), 8):
            yield tuple(part[i : i + 8] for part in data)

    return make


def sparse(data: Any) -> Any:
    return dataset(data).map(lambda x, y: (tf.sparse.from_dense(tf.nn.relu(x)), y))


def ragged() -> Any:
    rows = tf.RaggedTensor.from_row_lengths(np.arange(73) % 7, np.arange(30) % 4 + 1)
    return tf.data.Dataset.from_tensor_slices((rows[:30], Y[:30])).batch(8)


def varying() -> Iterator[Any]:
    for i, length in enumerate((3, 5, 2, 5)):
        yield (np.arange(6 * length).reshape(6, length) % 7).astype("int32"), Y[6 * i : 6 * i + 6]


def padded() -> Any:
    specs = tf.TensorSpec((None, None), "int32"), tf.TensorSpec((None,), "int64")
    return tf.data.Dataset.from_generator(varying, output_signature=specs)


# Models ---------------------------------------------------------------------------------------------------------------


def compiled(model: Any, **options: Any) -> Any:
    standard = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(**{**standard, **options})
    return model


def dense() -> Any:
    stack = [keras.Input((6,)), L.Dropout(0.2), L.Dense(3, "softmax")]
    return compiled(keras.Sequential(stack))


def plain() -> Any:
    """Return a model without random numbers, of which `fit` has drawn some when it finds that it has no batch."""
    return compiled(keras.Sequential([keras.Input((6,)), L.Dense(3, "softmax")]))


def weighted() -> Any:
    return compiled(dense(), metrics=None, weighted_metrics=["accuracy"])


def named() -> Any:
    a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    joined = L.Dense(4, "relu")(L.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, {"u": L.Dense(3, "softmax", name="u")(joined), "v": L.Dense(1)(joined)})
    model.compile("rmsprop", {"u": "sparse_categorical_crossentropy", "v": "mse"}, metrics={"v": ["mae"]})
    return model


def of_sparse() -> Any:
    x = keras.Input((6,), sparse=True)
    return compiled(keras.Model(x, L.Dense(3, "softmax")(x)))


def of_words() -> Any:
    return compiled(keras.Sequential([L.Embedding(7, 4), L.GlobalAveragePooling1D(), L.Dense(3, "softmax")]))


class OfRows(keras.Model):  # type: ignore[misc]
    """A model of rows of unequal lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = L.Embedding(7, 4), L.Dense(3, "softmax")

    def call(self, x: Any) -> Any:
        dense = x.to_tensor() if isinstance(x, tf.RaggedTensor) else x
        return self.out(keras.ops.mean(self.embed(dense), axis=1))


class OwnSteps(keras.Sequential):  # type: ignore[misc]
    """Steps with logs of their own, of which those of the last batch count."""

    def train_step(self, data: Any) -> Any:
        return {**super().train_step(data), "largest": keras.ops.max(data[0])}

    def test_step(self, data: Any) -> Any:
        return {**super().test_step(data), "largest": keras.ops.max(data[0])}


def own_steps() -> Any:
    return compiled(OwnSteps([keras.Input((6,)), L.Dense(4, "relu"), L.Dropout(0.3), L.Dense(3, "softmax")]))


def stateful() -> Any:
    x = keras.Input(batch_shape=(5, 3, 2))
    return compiled(keras.Model(x, L.Dense(3, "softmax")(L.SimpleRNN(3, stateful=True)(x))))


# Equality with `fit` --------------------------------------------------------------------------------------------------


class Record(keras.callbacks.Callback):  # type: ignore[misc]
    """The calls of hooks, except those of batches, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append(("train_begin", dict(self.params)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.events.append("test_begin")

    def on_test_end(self, logs: Any = None) -> None:
        self.events.append(("test_end", list(logs.items())))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append((epoch, [(name, np.asarray(value).tolist()) for name, value in logs.items()]))


def train(
    make: Callable[[], Any],
    load: Callable[[], Any],
    options: dict[str, Any],
    *,
    fuse: bool,
    segments: tuple[tuple[int, int], ...] = ((0, 3),),
    callbacks: Callable[[], list[Any]] = list,
    share: bool = False,
    seed: int = 3,
) -> tuple[Any, ...]:
    """Train a new model on new data; return what must be equal: variables, events, and calls of a PyDataset."""
    with session(seed):
        model, record, key = make(), Record(), None
        for start, end in segments:
            raw = load()
            data, hooks = prepare_data(raw), [*callbacks(), record]
            create_weights(model, data.train)
            if share and key is None:
                key = make_model_key(model, [])
            runner = choose_runner(model, data, options, 7, hooks, fuse, key)
            runner.run(start, end, hooks)
            assert runner.name == ("fused" if fuse else "fit: asked for")
        arrays = [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]
        return arrays, record.events, [part.calls_of_epochs(3) for part in raw if isinstance(part, Sequence)]


def assert_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert one[1:] == other[1:]
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)


BY_NAME = {"a": X[:30], "b": X[:30, :2]}, {"u": Y[:30], "v": X[:30, :1]}
CASES: dict[str, tuple[Any, Callable[[], Any], dict[str, Any]]] = {
    "shuffled, validation too": (dense, lambda: (seeded(), dataset(VALIDATION).shuffle(2, seed=1)), {}),
    "shuffled once": (dense, lambda: (seeded(reshuffle=False), dataset(VALIDATION)), {}),
    "the same stream for both": (dense, lambda: (seeded(),) * 2, {}),
    "less than a pass": (dense, lambda: (seeded(), VALIDATION), {"steps_per_epoch": 3}),
    "more than a pass": (dense, lambda: (seeded(), None), {"steps_per_epoch": 7}),
    "without an end": (
        dense,
        lambda: (seeded().repeat(), dataset(VALIDATION).repeat()),
        {"steps_per_epoch": 5, "validation_steps": 3},
    ),
    "unknown cardinality": (dense, lambda: (filtered(TRAIN), filtered(VALIDATION)), {}),
    "validation steps": (dense, lambda: (seeded(), dataset(VALIDATION).shuffle(2)), {"validation_steps": 1}),
    "sample weights": (weighted, lambda: (dataset((*TRAIN, WEIGHT[:30])), (*VALIDATION, WEIGHT[30:])), {}),
    "class weights": (weighted, lambda: (seeded(), VALIDATION), {"class_weight": {0: 0.2, 2: 2}}),
    "class weights of a generator": (weighted, lambda: (batches(*TRAIN), None), {"class_weight": {1: 3.0, 2: 1.0}}),
    "arrays, then a stream": (dense, lambda: (TRAIN, filtered(VALIDATION)), {"batch_size": 7}),
    "arrays, then a generator": (dense, lambda: (TRAIN, batches(*VALIDATION)), {"batch_size": 7}),
    "generators": (dense, lambda: (batches(*TRAIN), batches(*VALIDATION)), {"steps_per_epoch": 3}),
    "a PyDataset": (dense, lambda: (Sequence(TRAIN), Sequence(VALIDATION)), {}),
    "threads": (
        dense,
        lambda: (Sequence(TRAIN, workers=3, use_multiprocessing=True, max_queue_size=2), dataset(VALIDATION)),
        {"steps_per_epoch": 5},
    ),
    "dicts": (named, lambda: (dataset(BY_NAME), dataset(BY_NAME)), {}),
    "sparse": (of_sparse, lambda: (sparse(TRAIN), sparse(VALIDATION)), {}),
    "ragged": (lambda: compiled(OfRows()), lambda: (ragged(), ragged()), {}),
    "varying": (of_words, lambda: (padded(), varying), {}),
    "own steps": (own_steps, lambda: (seeded(), filtered(VALIDATION)), {}),
    "own steps, one batch": (own_steps, lambda: (seeded(), dataset(VALIDATION, 16)), {"steps_per_epoch": 1}),
    "fixed batches": (
        stateful,
        lambda: (dataset((X[:30].reshape(30, 3, 2), Y[:30]), 5), dataset((X[:10].reshape(10, 3, 2), Y[:10]), 5)),
        {},
    ),
}
FAST = ("shuffled, validation too",)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, at the end of an uncounted validation
@pytest.mark.parametrize("case", [pytest.param(each, marks=[] if each in FAST else pytest.mark.slow) for each in CASES])
def test_streams_are_trained_on_as_by_fit(case: str) -> None:
    make, load, options = CASES[case]
    assert_equal(*(train(make, load, options, fuse=fuse) for fuse in (True, False)))


class Recompiles(keras.callbacks.Callback):  # type: ignore[misc]
    """Changes the loss after the second epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
            self.model.optimizer.build(self.model.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("load", [lambda: (seeded(), dataset(VALIDATION)), lambda: (batches(*TRAIN), Sequence(TRAIN))])
def test_an_iterator_outlives_a_recompile_and_a_segment_continues_the_stream(load: Callable[[], Any]) -> None:
    fused, fitted = (
        train(
            dense, load, {"steps_per_epoch": 3}, fuse=fuse, segments=((0, 3), (3, 5)), callbacks=lambda: [Recompiles()]
        )
        for fuse in (True, False)
    )
    assert_equal(fused, fitted)
    losses = [dict(logs)["loss"] for _, logs in (event for event in fused[1] if isinstance(event[0], int))]
    assert len(set(losses)) == 5, "no two epochs have the same batches"


def test_class_weights_are_those_of_keras() -> None:
    rows = np.eye(3, dtype="float32")[Y]
    any_width = dataset((X, rows)).map(lambda x, y: (x, tf.ensure_shape(tf.reshape(y, tf.shape(y)), (None, None))))
    weights = {0: 0.2, 2: 1.5}
    for data in (dataset((X, Y)), dataset((X, Y[:, None].astype("float32"))), dataset((X, rows)), any_width):
        own, other = _with_class_weight(data, weights), TFDatasetAdapter(data, weights).get_tf_dataset()
        assert own.element_spec == other.element_spec
        for one, two in zip(own, other, strict=True):
            np.testing.assert_array_equal(one[2], two[2])
    for refused in (dataset((X, Y, WEIGHT)), dataset((X, (Y, Y)))):
        with pytest.raises(ValueError, match="need one target and no sample weights"):
            _with_class_weight(refused, weights)


class FailsOnce(keras.Sequential):  # type: ignore[misc]
    """A model whose step cannot be traced the first time."""

    tries = 0

    def train_step(self, data: Any) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise RuntimeError("not yet")
        return super().train_step(data)


def test_a_model_whose_loops_fail_goes_on_by_fit_with_the_opened_stream(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for fuse in (True, False):
        with session(1):
            model = compiled(FailsOnce([keras.Input((6,)), L.Dense(3)]))
            model.tries = 0 if fuse else 1
            history, stream = keras.callbacks.History(), Sequence(TRAIN)
            runner = choose_runner(model, prepare_data((stream, None)), {}, 7, [history], fuse)
            assert runner.name == ("fused" if fuse else "fit: asked for")
            runner.run(0, 2, [history])
            found.append((history.history, stream.calls_of_epochs(2)))
        if fuse:
            assert runner.name == "fit: its steps do not work in a fused epoch, RuntimeError"
            assert "not yet" in capsys.readouterr().err
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("raw", "options", "callbacks", "name"),
    [
        (
            (seeded, None),
            {},
            [keras.callbacks.LambdaCallback(on_train_batch_end=print)],
            "LambdaCallback.on_train_batch_end",
        ),
        ((seeded, VALIDATION), {"validation_steps": 1}, [], "validation_steps"),
        ((TRAIN, seeded), {"steps_per_epoch": 1}, [], "steps_per_epoch"),
        ((TRAIN, seeded), {"batch_size": 7, "validation_steps": 1}, [], None),
    ],
)
def test_only_equivalent_trainings_are_fused(raw: Any, options: Any, callbacks: Any, name: str | None) -> None:
    data = prepare_data(tuple(part() if callable(part) else part for part in raw))
    runner = choose_runner(plain(), data, options, 7, callbacks, prepare=False)
    assert runner.name == ("fused" if name is None else f"fit: {name}")


# Streams that end or fail ---------------------------------------------------------------------------------------------


def short(*lengths: int) -> Any:
    """Return a data set that has no end as far as TensorFlow knows. Its passes have these numbers of batches."""
    passes = iter(lengths)

    def make() -> Iterator[Any]:
        for _ in range(next(passes, 0)):
            yield next(order)

    order = iter([(X[i : i + 6], Y[i : i + 6]) for i in range(40)])
    specs = tf.TensorSpec((None, 6)), tf.TensorSpec((None,), "int64")
    return tf.data.Dataset.from_generator(make, output_signature=specs).repeat()


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(7, 0, 7, 0), (6,)])
def test_a_stream_that_runs_out_ends_its_epochs_as_in_fit(lengths: tuple[int, ...]) -> None:
    results = []
    for fuse in (True, False):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options, segments = {"steps_per_epoch": 4}, ((0, 4),)
            results.append(
                train(dense, lambda: (short(*lengths), dataset(VALIDATION)), options, fuse=fuse, segments=segments)
            )
        results[-1] += ([str(each.message) for each in caught if "ran out of data" in str(each.message)],)
    assert_equal(*results)
    assert results[0][-1]


def failing(kind: str) -> Any:
    """Return data whose third batch fails."""

    def fail(x: Any, y: Any) -> Any:
        if x[0, 0] == X[16, 0]:
            raise ValueError("a broken file")
        return x, y

    def generate() -> Iterator[Any]:
        for batch in batches(*TRAIN)():
            yield fail(*batch)

    class Failing(Sequence):
        def __getitem__(self, index: int) -> Any:
            return fail(*super().__getitem__(index))

    if kind == "PyDataset":
        return Failing(TRAIN)
    if kind == "generator":
        return generate
    if kind == "map":
        return dataset(TRAIN).map(
            lambda x, y: (tf.ensure_shape(tf.numpy_function(lambda x: fail(x, 0)[0], [x], tf.float32), (None, 6)), y)
        )
    return dataset(TRAIN).map(lambda x, y: (tf.debugging.check_numerics(tf.math.log(x - X[:17].min()), "bad"), y))


@pytest.mark.parametrize(
    "kind", ["map", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("generator", "PyDataset", "graph"))]
)
def test_an_error_of_the_pipeline_is_reported_as_by_fit(kind: str) -> None:
    found = []
    for fuse in (True, False):
        model = None

        def make() -> Any:
            nonlocal model
            model = plain()
            return model

        with pytest.raises((ValueError, tf.errors.OpError), match=r"broken|bad") as raised:
            train(make, lambda: (failing(kind), None), {"shuffle": False, "steps_per_epoch": 5}, fuse=fuse)
        assert model is not None
        message = re.sub(r":\d+ trans", ": trans", describe_error(raised.value))  # TensorFlow counts its operations
        found.append((message, [weights.tolist() for weights in model.get_weights()]))
    assert found[0] == found[1]


# Graphs that trials share ---------------------------------------------------------------------------------------------


@pytest.fixture
def _no_graphs() -> Iterator[None]:
    clear_graph_cache()
    graph_cache._compared.clear()
    yield
    set_graph_folder(None)
    clear_graph_cache()
    model_keys.forget()


def mlp(units: int, rate: float) -> Any:
    return compiled(
        keras.Sequential([keras.Input((6,)), L.Dense(units, "relu"), L.Dropout(rate), L.Dense(3, "softmax")])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_no_graphs")
def test_trials_share_the_graph_of_streams_with_the_same_spec(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial has data sets of its own, as if `load_data` took `hp`. Another worker loads the graph."""
    traced: list[Any] = []
    own_step = keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda model, data: (traced.append(data), own_step(model, data))[1])
    set_graph_folder(str(tmp_path))
    loads = (
        lambda: (seeded(), dataset(VALIDATION)),
        lambda: (dataset(TRAIN, 5), dataset(VALIDATION).shuffle(2, seed=1)),
    )
    makes = (lambda: mlp(4, 0.2), lambda: mlp(9, 0.3))
    fitted = [
        train(make, load, {}, fuse=False, seed=i) for i, (make, load) in enumerate(zip(makes, loads, strict=True))
    ]
    for share in range(3):
        del traced[:]
        if share == 2:
            clear_graph_cache()  # as in another process
        make, load = makes[share % 2], loads[share % 2]
        assert_equal(train(make, load, {}, fuse=True, share=True, seed=share % 2), fitted[share % 2])
        graphs = sum(isinstance(data[0], tf.Tensor) and not hasattr(data[0], "numpy") for data in traced)
        assert graphs == (share == 0)
        assert len(cached_graphs()) == 1
    assert None not in cached_graphs()
    assert graph_cache._compared == [True]
    del traced[:]
    train(makes[0], lambda: (dataset((X[:30], Y[:30].astype("int32"))), None), {}, fuse=True, share=True)
    assert traced, "another spec has another graph"
    assert len(cached_graphs()) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("_no_graphs")
def test_a_graph_that_trains_a_second_model_otherwise_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key does not see an attribute. No batch can be compared if the spec leaves its shape open."""
    monkeypatch.setattr(model_key, "UNTRACED_ATTRIBUTES", UNTRACED_ATTRIBUTES | {"beta_1"})

    def make(beta: float, model: Any) -> Any:
        return compiled(model, optimizer=keras.optimizers.Adam(0.1, beta_1=beta))

    def words(beta: float) -> Any:
        return make(beta, keras.Sequential([keras.Input((None,)), *of_words().layers]))

    def word_streams() -> Any:
        return padded(), None

    train(lambda: words(0.9), word_streams, {}, fuse=True, share=True)
    other = train(lambda: words(0.5), word_streams, {}, fuse=True, share=True)
    assert_equal(other, train(lambda: words(0.5), word_streams, {}, fuse=False))
    assert graph_cache._compared == []

    def streams() -> Any:
        return seeded(), None

    train(lambda: make(0.9, plain()), streams, {}, fuse=True, share=True)
    other = train(lambda: make(0.5, plain()), streams, {}, fuse=True, share=True)
    assert_equal(other, train(lambda: make(0.5, plain()), streams, {}, fuse=False))
    assert graph_cache._compared == [False]
    assert "a shared graph does not train a second model as the model's own step does" in model_keys.line
