"""Fingerprints tell data apart, and streams that repeat from streams that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from search.study.data_changes import changed_data
from search.worker.data import fingerprint
from search.worker.data.arrays import prepare_data
from search.worker.data.fingerprint import fingerprint_data

X, Y = np.arange(24.0).reshape(12, 2), np.arange(12)


def taken(train: Any, validation: Any = None, **options: Any) -> dict[str, dict[str, str]]:
    return fingerprint_data(prepare_data((train, validation)), **options)


def test_equal_data_have_equal_fingerprints() -> None:
    found = taken((X, Y), (X[:4], Y[:4]))
    assert found == taken((X.copy(), Y.copy()), (X[:4], Y[:4]))
    assert list(found["train"]) == ["x", "y"]
    assert found["train"]["x"].startswith("float32[12,2] ")
    assert changed_data(found, found) == ""


def test_each_difference_is_named() -> None:
    known = taken((X, Y), (X, Y))
    assert changed_data(known, taken((X[::-1], Y), (X, Y))) == "other values in train x"
    assert changed_data(known, taken((X, Y), (X[:6], Y[:6]))) == (
        "validation x was float32[12,2], is float32[6,2]; validation y was int64[12], is int64[6]"
    )
    assert changed_data(known, taken((X, Y))) == "validation was given, is none"
    assert changed_data(taken((X, Y)), taken((X, Y, Y))) == "train sample_weight was none, is int64[12]"
    several = {"a": X, "b": X}
    assert changed_data(taken((several, Y)), taken((several | {"b": X + 1}, Y))) == "other values in train x 1"


def test_of_a_large_array_evenly_spaced_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 48)  # half of x
    known = taken((X, Y))
    between, at = X.copy(), X.copy()
    between[1], at[10] = 99, 99
    assert changed_data(known, taken((between, Y))) == ""
    assert changed_data(known, taken((at, Y))) == "other values in train x"


def test_a_streams_first_batch_counts_if_it_repeats() -> None:
    def batches(y: Any = Y) -> Any:
        return tf.data.Dataset.from_tensor_slices((X.astype("float32"), y)).batch(4)

    known = taken(batches(), read_streams=True)
    assert changed_data(known, taken(batches(), read_streams=True)) == ""
    assert changed_data(known, taken(batches())) == ""  # not read
    assert changed_data(known, taken(batches(Y + 1), read_streams=True)) == "other values in train first y"
    assert changed_data(known, taken(batches().take(2))) == "train batches was 3, is 2"
    random = np.random.default_rng()
    drawn = [taken(lambda: iter([(random.normal(size=(4, 2)), Y[:4])]), read_streams=True) for _ in range(2)]
    assert drawn[0]["train"]["first x"] == "float64[4,2]"
    assert changed_data(*drawn) == ""
