"""Pickles of datasets: a worker gets the same datasets that were passed in Python."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from places import ROOT

from search.space import pickling
from search.space.old_names import Unpickler, known_classes_kept

X = np.arange(12, dtype="float32")
ARRAYS = tf.data.Dataset.from_tensor_slices((X, 2 * X))
OFFSET = tf.constant(3.0)

DATASETS: dict[str, Callable[[], Any]] = {
    "batched": lambda: ARRAYS.batch(5),
    "shuffled": lambda: ARRAYS.shuffle(12, seed=1).batch(5).prefetch(2),
    "shuffled_once": lambda: ARRAYS.shuffle(12, seed=1, reshuffle_each_iteration=False).batch(5),
    "captured": lambda: ARRAYS.map(lambda x, y: (x + OFFSET, y), num_parallel_calls=2).batch(5),
    "a_layer": lambda: ARRAYS.map(lambda x, y: (keras.layers.Rescaling(0.5)(x), y)).batch(5),
    "dicts": lambda: tf.data.Dataset.from_tensor_slices(({"a": X, "b": X}, X)).batch(4, drop_remainder=True),
    "filtered": lambda: ARRAYS.filter(lambda x, y: x > 2).batch(5),
    "endless": lambda: ARRAYS.batch(5).repeat(),
    "words": lambda: tf.data.Dataset.from_tensor_slices(["a", "b"]).map(
        keras.layers.StringLookup(vocabulary=["b", "a"])
    ),
}


def passes(dataset: Any) -> list[Any]:
    """Return the elements of two passes over at most five batches, as plain lists."""
    batches = [batch for _ in range(2) for batch in dataset.take(5)]
    return [np.asarray(leaf).tolist() for batch in batches for leaf in tf.nest.flatten(batch)]


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_is_unpickled_unchanged(name: str) -> None:
    expected, original = DATASETS[name](), DATASETS[name]()
    unpickled = pickle.loads(pickling.dumps({"deep": [(original, None)]}))["deep"][0][0]
    assert unpickled.element_spec == original.element_spec
    assert int(unpickled.cardinality()) == int(original.cardinality())
    assert passes(unpickled) == passes(expected)


@pytest.mark.slow
def test_a_dataset_is_unpickled_in_another_process(tmp_path: Path) -> None:
    """The process has none of the objects that the dataset was made of, and has not imported TensorFlow."""
    (tmp_path / "data.pkl").write_bytes(pickling.dumps([DATASETS["captured"](), DATASETS["words"]()]))
    code = (
        "import pickle, sys; first, second = pickle.load(open('data.pkl', 'rb'));"
        "print([x.numpy().tolist() for x, _ in first], [int(x) for x in second])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    expected = [batch.tolist() for batch in np.split(X + 3, [5, 10])]
    assert done.stdout.strip() == f"{expected} [2, 1]"


def test_datasets_in_the_closure_of_a_function_are_pickled() -> None:
    dataset = ARRAYS.batch(5)
    taken = pickle.loads(pickling.dumps(lambda: dataset.take(1)))()
    assert [x.numpy().tolist() for x, _ in taken] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "dataset",
    [
        tf.data.Dataset.from_generator(lambda: iter([1.0]), output_signature=tf.TensorSpec([], tf.float32)),
        ARRAYS.map(lambda x, y: (tf.numpy_function(lambda x: x + 1, [x], tf.float32), y)),
        ARRAYS.map(lambda x, y: (tf.py_function(lambda x: x + 1, [x], tf.float32), y)),
    ],
    ids=["from_generator", "numpy_function", "py_function"],
)
def test_a_dataset_that_calls_python_is_refused(dataset: Any) -> None:
    with pytest.raises(pickle.PicklingError, match="calls Python"):
        pickling.dumps((dataset, dataset))


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, x: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x = x

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.x[4 * index : 4 * index + 4], self.x[4 * index : 4 * index + 4]


def test_a_pydataset_is_pickled_with_its_arrays() -> None:
    unpickled = pickle.loads(pickling.dumps(Batches(X, workers=2)))
    assert (unpickled.workers, unpickled.num_batches) == (2, 3)
    assert unpickled[2][0].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_process_that_goes_on_keeps_its_classes_as_they_are(keeps: bool) -> None:
    """cloudpickle gives a class that it knows other methods, whose global names are copies."""
    script: dict[str, Any] = {"__name__": "__main__", "seen": []}
    exec("class Model:\n    def note(self):\n        seen.append(1)", script)
    pickled = io.BytesIO(cloudpickle.dumps(script["Model"]()))
    with known_classes_kept() if keeps else contextlib.nullcontext():
        loaded = Unpickler(pickled).load()
    assert type(loaded) is script["Model"]
    loaded.note()
    assert script["seen"] == ([1] if keeps else [])
