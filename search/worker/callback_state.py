"""The attributes of the user's callbacks: which of them are state, and how a checkpoint holds them.

Numbers and texts are always saved. Arrays and containers, such as the validation data that a callback evaluates, are
saved only if training changes them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.worker import keras_internals
from search.worker.plain_values import Array, encode, fingerprint, is_plain

__all__ = ["CallbackBaseline", "describe_callbacks", "fingerprint_object", "other_attributes"]

_MAX_PICKLE = 1 << 20
"""Bytes of the pickle of an object that is compared by it."""

_RENEWED: Mapping[type[Any], Sequence[str]] = {
    keras.callbacks.CSVLogger: ("append", "append_header", "csv_file", "writer"),
    keras.callbacks.TensorBoard: keras_internals.ATTRIBUTES_OF_TENSORBOARD,
}
"""Attributes that Keras's callbacks must make anew for each training."""


class CallbackBaseline:
    """The arrays, containers and objects of callbacks as they are when training begins, after `on_train_begin`.

    Callbacks that are made and begin anew have the same ones, so that a checkpoint needs them only if they change.

    Args:
        saved: the callbacks' states in the checkpoint that the training continues from, if there is one. What it holds
            has changed before.
    """

    def __init__(self, callbacks: Sequence[Any] = (), saved: Sequence[Mapping[str, Any]] = ()) -> None:
        self._saved = [frozenset(state["attributes"]) for state in saved]
        self._fingerprints = [
            {name: fingerprint(value) for name, value in _plain_attributes(callback) if not _is_scalar(value)}
            for callback in callbacks
        ]

    def has(self, number: int, name: str, value: Any) -> bool:
        """Return whether new callbacks have a plain value in this attribute of callback `number`."""
        if _is_scalar(value) or number >= len(self._fingerprints):
            return False
        if number < len(self._saved) and name in self._saved[number]:
            return False
        return self._fingerprints[number].get(name) == fingerprint(value)


def describe_callbacks(
    callbacks: Sequence[Any], baseline: CallbackBaseline | None = None
) -> tuple[list[dict[str, Any]], list[Array]]:
    """Return the class and the plain attributes of each callback as JSON, and the arrays that it refers to.

    Args:
        baseline: the values that need not be saved.
    """
    baseline = baseline or CallbackBaseline()
    states, arrays = [], list[Array]()
    for number, callback in enumerate(callbacks):
        attributes = {
            name: encode(value, arrays)
            for name, value in _plain_attributes(callback)
            if not baseline.has(number, name, value)
        }
        states.append({"class": type(callback).__name__, "attributes": attributes})
    return states, arrays


def other_attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes that may be state, and are not plain."""
    return {
        name: value
        for name, value in vars(callback).items()
        if _is_state(callback, name, value) and not is_plain(value)
    }


def fingerprint_object(value: Any) -> bytes | None:
    """Return a digest of an object of any class by its pickle; None if there is none, or a large one.

    Buffers of arrays do not count as parts of the pickle, and are not copied.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        with _LimitedFile() as file:
            pickle.Pickler(file, 5, buffer_callback=buffers.append).dump(value)
            digest = hashlib.blake2b(file.getvalue())
        for buffer in buffers:
            digest.update(fingerprint(np.frombuffer(buffer.raw(), "uint8")))
    except Exception:  # the user's code may raise anything
        return None
    return digest.digest()


class _LimitedFile(io.BytesIO):
    """A file in memory that takes no more than `_MAX_PICKLE` bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > _MAX_PICKLE:
            raise ValueError("the pickle is too large")
        return super().write(data)


def _plain_attributes(callback: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(callback).items():
        if _is_state(callback, name, value) and is_plain(value):
            yield name, value


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic))


def _is_state(callback: Any, name: str, value: Any) -> bool:
    if name in ("model", keras_internals.MODEL_OF_CALLBACK, "params"):
        return False
    if callable(value) and not isinstance(value, keras.layers.Layer):
        return False
    if any(name in names for cls, names in _RENEWED.items() if isinstance(callback, cls)):
        return False
    if isinstance(value, str) and Path(value).is_absolute():
        return False  # an output path: the study may have been moved
    # Keras negates `min_delta` once per instance, when it makes `monitor_op`. A restored one would be negated again.
    return not (name == "min_delta" and hasattr(callback, "monitor_op"))
