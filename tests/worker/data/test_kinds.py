"""Text, sparse and ragged data, and pandas objects: taken, refused and trained as by `model.fit`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from scipy import sparse

from search.errors import SpaceError
from search.executors.inline import InlineExecutor
from search.messages import Evaluate, Evaluated, Segment
from search.space.file import SpaceRef
from search.study.records import Built
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.data import kinds
from search.worker.data.arrays import prepare_data, spec_from_json, spec_to_json
from search.worker.data.fingerprint import fingerprint_data
from search.worker.runners.choose import choose_runner

WORDS = np.array(["a", "b", "c", "a"] * 4)
Y = np.arange(16, dtype="float32")
NUMBERS = np.random.default_rng(0).normal(size=(16, 4))
MATRIX = sparse.random(16, 4, 0.5, format="coo", random_state=0)
RAGGED = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [1]] * 4)
FRAME = pd.DataFrame({"a": NUMBERS[:, 0], "b": NUMBERS[:, 1] > 0, "c": range(16)})


def dense() -> Any:
    return keras.Sequential([layers.Flatten(), layers.Dense(1, kernel_initializer="ones")])


def linear() -> Any:
    return keras.Sequential([layers.Dense(1, kernel_initializer="ones")])


def of_text() -> Any:
    encode = layers.TextVectorization(vocabulary=["a", "b"], output_mode="multi_hot")
    return keras.Sequential([encode, layers.Dense(1, kernel_initializer="ones")])


def of_words() -> Any:
    words = keras.Input((1,), dtype="string")
    encoded = layers.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot")(words)
    return keras.Model(words, layers.Dense(1, kernel_initializer="ones")(encoded))


def of_sparse() -> Any:
    matrix = keras.Input((4,), sparse=True)
    return keras.Model(matrix, layers.Dense(1, kernel_initializer="ones")(matrix))


class OfRagged(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.last = layers.Dense(1, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        x = x.to_tensor() if hasattr(x, "to_tensor") else x
        return self.last(keras.ops.mean(keras.ops.cast(x, "float32"), axis=1, keepdims=True))


class Logs(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.curve: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.curve.append(dict(logs))


def compiled(make: Any) -> Any:
    model = make()
    model.compile("sgd", "mse")
    return model


TAKEN = {
    "object array": (WORDS.astype(object), of_text),
    "text tensor": (tf.constant(WORDS[:, None]), of_words),
    "coo": (MATRIX, linear),
    "csr": (MATRIX.tocsr(), of_sparse),
    "csr array of whole numbers": (sparse.csr_array((MATRIX * 10).astype("int64")), linear),
    "sparse tensor": (tf.sparse.from_dense(NUMBERS), linear),
    "sparse tensor of rank 3": (tf.sparse.from_dense(NUMBERS.reshape(16, 2, 2)), dense),
    "ragged": (RAGGED, OfRagged),
    "ragged floats": (tf.cast(RAGGED, "float64"), OfRagged),
    "frame with flags and whole numbers": (FRAME, linear),
    "series": (FRAME["a"], linear),
    "tensor": (tf.constant(NUMBERS), linear),
}


FAST = ("object array", "csr", "sparse tensor of rank 3", "ragged", "frame with flags and whole numbers")


@pytest.mark.core
@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in FAST else [pytest.mark.slow]) for x in TAKEN])
def test_logs_equal_those_of_fit(name: str) -> None:
    x, make = TAKEN[name]
    lacking = {"jax": (of_text, of_words), "torch": (of_text, of_words, of_sparse)}.get(keras.config.backend(), ())
    if make in lacking:
        pytest.skip("Keras's back end does not take it")
    logs, options = Logs(), {"shuffle": False, "batch_size": 6, "validation_batch_size": 5}
    plain = compiled(make).fit(x, Y, validation_data=(x, Y), epochs=2, verbose=0, **options).history
    runner = choose_runner(compiled(make), prepare_data(((x, Y), (x, Y))), options, 1, [logs])
    runner.run(0, 2, [logs])
    if keras.config.backend() == "tensorflow":
        assert runner.name == ("fused" if name in ("series", "tensor") or "frame" in name else f"fit: {kind(name)}")
    for metric, values in plain.items():
        assert [epoch[metric] for epoch in logs.curve] == pytest.approx(values, rel=1e-5), metric


def kind(name: str) -> str:
    return kinds.kind_of(prepare_data(((TAKEN[name][0], Y), None)).train.x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_logs_equal_those_of_fit_on_other_back_ends(backend: str) -> None:
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"{__file__}::test_logs_equal_those_of_fit",
    ]
    done = subprocess.run(tests, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


REFUSED = {
    "array of str": WORDS,
    "matrix of objects": WORDS.astype(object)[:, None],
    "bytes": WORDS.astype("S"),
    "series of text": pd.Series(WORDS),
    "series of objects": pd.Series(WORDS, dtype=object),
    "frame of text": pd.DataFrame({"a": WORDS}),
    "categories": pd.Series(WORDS).astype("category"),
    "flags and whole numbers": FRAME[["b", "c"]],
    "text and numbers": pd.DataFrame({"a": NUMBERS[:, 0], "b": WORDS}),
    "dates": pd.DataFrame({"a": pd.date_range("2020", periods=16)}),
    "lists": np.array([[1, 2], [3]] * 8, dtype=object),
    "sparse vector": sparse.coo_array(Y),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_fit_refuses_is_refused_in_one_line(name: str) -> None:
    with pytest.raises((ValueError, tf.errors.OpError)):
        compiled(linear).fit(REFUSED[name], Y, verbose=0)
    with pytest.raises(SpaceError, match=r"load_data: train x .*: (return|Keras|give|encode)|which Keras") as caught:
        prepare_data(((REFUSED[name], Y), None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["object array", "csr", "sparse tensor of rank 3", "ragged"])
def test_an_array_of_each_kind_is_cut_described_and_told_apart(name: str) -> None:
    data = prepare_data(((TAKEN[name][0], Y), None))
    split = data.train
    assert not data.is_plain
    assert split.samples == 16
    assert split.nbytes > Y.nbytes or name == "object array"
    text = fingerprint_data(data)["train"]["x"]
    assert text == fingerprint_data(prepare_data(((TAKEN[name][0], Y), None)))["train"]["x"]
    order = np.array([3, 0, 9])
    for part, expected in ((split.part(slice(2, 7)), range(2, 7)), (split.part(order), order)):
        assert part.samples == len(expected)
        assert dense_rows(part.x) == [dense_rows(split.x)[row] for row in expected]
        assert fingerprint_data(prepare_data((part.packed, None)))["train"]["x"] != text
    spec = spec_from_json(spec_to_json(split.x_spec))
    assert (spec.shape, spec.dtype, spec.sparse, spec.ragged) == (
        split.x_spec.shape,
        split.x_spec.dtype,
        "sparse" in name or name == "csr",
        name == "ragged",
    )


def dense_rows(x: Any) -> list[Any]:
    if isinstance(x, tf.SparseTensor):
        x = tf.sparse.to_dense(x).numpy()
    if isinstance(x, tf.RaggedTensor):
        return x.to_list()
    return (x.toarray() if sparse.issparse(x) else np.asarray(x)).tolist()


SPACE = """
import keras, numpy as np, tensorflow as tf
from scipy import sparse

WORDS = np.array(["a", "b", "c", "a"] * 10, dtype=object)
BAG = sparse.random(40, 4, 0.5, format="csr", random_state=0)
IDS = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [1]] * 10)
Y = np.arange(40, dtype="float32")


def part(start, end):
    return {"words": WORDS[start:end], "bag": BAG[start:end], "ids": IDS[start:end]}, Y[start:end]


def load_data():
    return part(0, 40), None, part(32, 36)


def fit_options(hp):
    return {"validation_split": 0.2}


class Model(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.encode = keras.layers.TextVectorization(vocabulary=["a", "b"], output_mode="multi_hot")
        self.dense = [keras.layers.Dense(units) for _ in range(3)]
        self.last = keras.layers.Dense(1)

    def call(self, x):
        ids = keras.ops.mean(keras.ops.cast(x["ids"].to_tensor(), "float32"), axis=1, keepdims=True)
        parts = zip(self.dense, (self.encode(x["words"]), x["bag"], ids))
        return self.last(sum(dense(part) for dense, part in parts))


def build_model(hp):
    model = Model(hp.Int("units", 2, 8))
    model.compile("sgd", "mse")
    return model
"""


def test_a_trial_continues_and_its_best_model_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    ref, objective = SpaceRef(str(tmp_path / "space.py")), Objective("val_loss", "min")

    def train(trial: int, from_epoch: int, to_epoch: int) -> Conversation:
        folder = str(tmp_path / f"trial-{trial}")
        segment = Segment(trial, 0, ref, {"units": 6}, 7, from_epoch, to_epoch, objective, folder)
        return Conversation(InlineExecutor()).run(segment)

    whole = train(0, 0, 3)
    assert whole.end.outcome == "reached", whole.end.error
    assert train(1, 0, 1).curve + train(1, 1, 3).curve == whole.curve
    assert next(message for message in whole.messages if isinstance(message, Built)).runner == "fit: sparse data"
    assert len(whole.data) == 1
    files = {"weights": "best-0.npz", "folder": "", "reference": "reference.npz", "model": "m.keras"}
    files = {name: str(tmp_path / "trial-0" / file) for name, file in files.items()}
    executor, messages = InlineExecutor(), []
    executor.start(0, Evaluate(0, ref, {"units": 6}, seed=7, objective=objective, **files))
    executor.poll(lambda slot, work, message: messages.append(message), 0)
    (evaluated,) = messages
    assert isinstance(evaluated, Evaluated)
    assert (evaluated.error, evaluated.warning) == (None, "")
    assert evaluated.logs is not None
    assert evaluated.signature is not None
    assert Path(files["model"]).exists()
