"""The attributes of the user's callbacks: which of them are state, and how a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from search.worker.plain_values import Array, encode, is_plain

__all__ = ["describe_callbacks", "other_attributes"]

_RENEWED: Mapping[type[Any], Sequence[str]] = {
    keras.callbacks.CSVLogger: ("append", "append_header", "csv_file", "writer"),
    keras.callbacks.TensorBoard: ("_summary_module", "_writers"),
}
"""Attributes that Keras's callbacks must make anew for each training."""


def describe_callbacks(callbacks: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Array]]:
    """Return the class and the plain attributes of each callback as JSON, and the arrays that it refers to."""
    states, arrays = [], list[Array]()
    for callback in callbacks:
        attributes = {
            name: encode(value, arrays)
            for name, value in vars(callback).items()
            if _is_state(callback, name, value) and is_plain(value)
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


def _is_state(callback: Any, name: str, value: Any) -> bool:
    if name in ("model", "_model", "params") or (callable(value) and not isinstance(value, keras.layers.Layer)):
        return False
    if any(name in names for cls, names in _RENEWED.items() if isinstance(callback, cls)):
        return False
    if isinstance(value, str) and Path(value).is_absolute():
        return False  # an output path: the study may have been moved
    # Keras negates `min_delta` once per instance, when it makes `monitor_op`. A restored one would be negated again.
    return not (name == "min_delta" and hasattr(callback, "monitor_op"))
