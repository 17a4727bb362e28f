"""The preparation of arrays: types, structures, and errors in one line."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from search.errors import SpaceError
from search.worker.data.arrays import Split, prepare_data
from search.worker.data.kinds import batch_of
from search.worker.data.streams import pack_batch

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0, 1, 0, 1])


def test_arrays_are_cast_as_keras_does():
    data = prepare_data(((X, Y), (X[:2], Y[:2])))
    assert data.train.x.dtype == np.float32
    assert data.train.y.dtype == Y.dtype
    assert (data.train.samples, data.validation.samples, data.test) == (4, 2, None)
    assert data.train.nbytes == 4 * 3 * 4 + 4 * Y.itemsize


def test_floats_are_cast_to_floatx():
    keras.config.set_floatx("float64")
    try:
        assert prepare_data(((X.astype("float16"),), None)).train.x.dtype == np.float64
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_of_either_byte_order_are_converted_to_the_machines(order):
    raw = (X.astype(f"{order}f4"), Y.astype(f"{order}i4"), np.ones(4, f"{order}f8"))
    train = prepare_data((raw, None)).train
    assert all(part.dtype.isnative for part in train.packed)
    assert [part.tolist() for part in train.packed] == [X.tolist(), Y.tolist(), [1.0] * 4]
    for batch in (pack_batch(raw), tuple(map(batch_of, raw))):  # those of streams
        assert all(part.dtype.isnative for part in batch)
        assert [part.tolist() for part in batch] == [X.tolist(), Y.tolist(), [1.0] * 4]


def test_three_splits_and_optional_parts():
    data = prepare_data(((X,), None, (X, Y, np.ones(4))))
    assert data.validation is None
    assert data.train.packed == (data.train.x,)
    assert len(data.test.packed) == 3


def test_pandas_and_tensors():
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [3, 4]})
    train = prepare_data(((frame, frame["b"]), None)).train
    assert (train.x.shape, train.x.dtype, train.y.shape) == ((2, 2), np.float32, (2, 1))
    train = prepare_data(((tf.constant(X), tf.cast(tf.constant(X), tf.bfloat16)), None)).train
    assert train.x.dtype == train.y.dtype == np.float32


def test_nested_parts():
    train = prepare_data((({"a": X, "b": Y}, [Y, X], np.ones(4)), None)).train
    assert isinstance(train.y, tuple)
    assert [weight.shape for weight in train.sample_weight] == [(4,), (4,)]
    x, y, weight = train.take(np.array([2, 0]))
    assert np.array_equal(x["a"], X[[2, 0]])
    assert np.array_equal(y[0], Y[[2, 0]])
    assert weight[1].shape == (2,)


def test_prepared_splits_are_frozen():
    with pytest.raises(AttributeError):
        Split(X).x = Y


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (None, "load_data returned None"),
        ([(X, Y), None], "load_data returned a list"),
        (((X, Y),), "a tuple of 1"),
        ((None, (X, Y)), "None for train"),
        ((X, Y), "train is a ndarray: return (x, y)"),
        (((X, Y, Y, Y), None), "train is a tuple of 4"),
        (((X, Y[:3]), None), "x has 4, y has 3"),
        ((({"a": X, "b": X[:1]}, Y), None), "x has 1 and 4, y has 4"),
        (((X, Y), (X[:0], Y[:0])), "validation has no samples"),
        (((X, None, "words"), None), "holds a str"),
        (((None, Y), None), "train x holds None"),
        ((((), Y), None), "train x holds no array"),
        (((X, [0, 1, 0, 1]), None), "train y holds a int"),
        (((X, np.float32(3)), None), "single value"),
        (((np.array(["a", "b"]), Y), None), "encode text"),
        (((X, pd.Series(["a", "b", "c", "d"])), None), "train y is a pandas Series of text"),
        (((np.array([["a"]] * 4, dtype=object), Y), None), "dtype object: Keras takes text only as a tensor"),
        (((np.array([[1], [2, 3]] * 2, dtype=object), Y), None), "unequal lengths"),
        (((X, [Y, Y], [Y, Y, Y]), None), "not nested as train y"),
        (((i for i in range(3)), None), "train is a generator, which can be read only once: return the function"),
        (((keras.utils.PyDataset(), Y), None), "train x holds a PyDataset, which is no array"),
        (((tf.sparse.from_dense(Y), Y), None), "train x is a sparse vector"),
        (((X, Y), None, tf.data.Dataset.from_tensors((X, Y)).repeat()), "test has no end"),
    ],
)
def test_unusable_data_are_refused_in_one_line(raw, found):
    with pytest.raises(SpaceError) as caught:
        prepare_data(raw)
    message = str(caught.value)
    assert found in message
    assert "load_data" in message
    assert "\n" not in message
