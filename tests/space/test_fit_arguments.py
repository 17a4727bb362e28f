"""The arguments of a `fit` of the user's, kept as they were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.space.fit_arguments import FitArguments
from search.space.inherited import leaves_of
from search.worker.data.arrays import Split, prepare_data
from search.worker.data.streams import Stream
from search.worker.runners.own_fit import first_samples

X, Y, WEIGHTS = np.arange(80.0).reshape(40, 2), np.arange(40.0), np.ones(40)


def test_arguments_have_the_names_of_model_fit() -> None:
    given = FitArguments(("a", "b", "c", "d"), {"epochs": 3})
    assert given.named == {"x": "a", "y": "b", "args[2]": "c", "args[3]": "d", "epochs": 3}
    assert FitArguments().named == {}


@pytest.mark.parametrize(
    ("given", "train", "validation"),
    [
        (FitArguments(), None, None),
        (FitArguments(("x",)), ("x",), None),
        (FitArguments(("x", "y"), {"validation_data": ["v", "w"]}), ("x", "y"), ("v", "w")),
        (FitArguments((), {"x": "x", "sample_weight": "s", "validation_data": "v"}), ("x", None, "s"), "v"),
        (FitArguments((), {"y": "y", "two": 2}), None, None),
    ],
)
def test_splits_are_those_of_model_fit(given: FitArguments, train: Any, validation: Any) -> None:
    assert given.splits == (train, validation)


def test_leaves_are_named_as_a_user_would_find_them() -> None:
    given = FitArguments(("a", ["b", "c"]), {"callbacks": [1, 2], "validation_data": ("v", {"k": ("w",)}), "two": 2})
    assert given.leaves() == [
        ("x", "a"),
        ("y[0]", "b"),
        ("y[1]", "c"),
        ("callbacks[0]", 1),
        ("callbacks[1]", 2),
        ("validation_data[0]", "v"),
        ("validation_data[1]['k'][0]", "w"),
        ("two", 2),
    ]


def test_changed_values_stay_in_their_places() -> None:
    changed = FitArguments((1, 2, 3), {"x_test": 4}).map(lambda name, value: f"{name}={value}")
    assert (changed.args, changed.kwargs) == (("x=1", "y=2", "args[2]=3"), {"x_test": "x_test=4"})


def test_arrays_among_the_arguments_are_the_data() -> None:
    data = prepare_data(FitArguments((X, Y), {"validation_data": (X[:9], Y[:9]), "two": 2}))
    assert isinstance(data.train, Split)
    assert isinstance(data.validation, Split)
    assert (data.train.samples, data.validation.samples) == (40, 9)
    (train, _), raw = data.raw_splits, data.raw
    assert train[0] is X
    assert isinstance(raw, FitArguments)
    assert raw.kwargs["two"] == 2


def test_a_dataset_among_the_arguments_is_the_data() -> None:
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    assert isinstance(prepare_data(FitArguments((stream,))).train, Stream)


@pytest.mark.parametrize("given", [FitArguments(), FitArguments(("a text", 3)), FitArguments((X, Y[:7]), {"z": 1})])
def test_arguments_that_are_no_data_are_the_users_business(given: FitArguments) -> None:
    data = prepare_data(given)
    assert isinstance(data.train, Split)
    assert data.train.samples == 0
    assert data.raw is given


def test_a_probe_gets_the_first_rows_of_each_array() -> None:
    given = FitArguments((X, Y), {"sample_weight": WEIGHTS, "validation_data": (X, Y), "table": X, "two": 2})
    seen = first_samples(prepare_data(given), 8).raw
    assert isinstance(seen, FitArguments)
    assert {name: len(value) for name, value in seen.named.items() if isinstance(value, np.ndarray)} == {
        "x": 16,
        "y": 16,
        "sample_weight": 16,
        "table": 40,
    }
    assert [len(part) for part in seen.kwargs["validation_data"]] == [16, 16]
    assert seen.kwargs["two"] == 2


def test_generators_are_named_by_their_arguments_and_keep_their_place() -> None:
    rows, others = (row for row in X), (row for row in X)
    given = FitArguments((rows,), {"validation_data": others})
    assert given.leaves() == [("x", rows), ("validation_data", others)]
    assert [*leaves_of("data", given.splits)] == given.leaves()
    (train,), _ = given.splits
    next(train())
    assert next(train())[0] == X[1][0], "the second reader goes on"
