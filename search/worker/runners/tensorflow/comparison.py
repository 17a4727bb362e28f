"""Comparison of a shared graph with a model's own step, on one batch.

An attribute that the model key does not see would make unequal models equal, and results silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.keras_internals import flatten_layers
from search.worker.runners.tensorflow.placeholders import variables_of

__all__ = ["MAX_SAMPLES", "trains_alike"]

MAX_SAMPLES = 32
"""Samples of the batch, at most."""

_STATE = 0.5
"""The value of all floats in an optimizer's state while a batch is compared.

From a new state, the first step of Adam and its relatives is the sign of the gradient, which is noise if the gradient
is. From this state, a step is a smooth function of the gradient. The learning rate is one of these floats.
"""

_TOLERANCE = 1e-4
_COARSE_TOLERANCE = 2e-2
"""The tolerance on a GPU, whose matrix products are rounded to ten bits, and with lower precision."""

_ALIKE = 0.99
"""The share of a variable's values that must be alike: at the kink of an activation, rounding may change a gradient."""


def trains_alike(model: Any, train_by_graph: Callable[[], None], train_by_step: Callable[[], None]) -> bool:
    """Return whether a batch changes a model's variables in the same way by a graph and by its own step.

    The step runs without a graph, so rounding differs. All variables get their values back.

    Args:
        train_by_graph, train_by_step: train one batch. The latter leaves the model with variables of its own.
    """
    before = _values(model)
    for variable in model.optimizer.variables:
        if _is_float(variable):
            variable.assign(keras.ops.full(variable.shape, _STATE, variable.dtype))
    start = _values(model)
    try:
        train_by_graph()
        by_graph = _values(model)
        _assign(model, start)
        train_by_step()
        by_step = _values(model)
    finally:
        _assign(model, before)
    tolerance = _TOLERANCE if _is_precise(model) else _COARSE_TOLERANCE
    return all(_are_alike(one, other, tolerance) for one, other in zip(by_graph, by_step, strict=True))


def _values(model: Any) -> list[Any]:
    return [variable.numpy() for variable in variables_of(model)]


def _assign(model: Any, values: list[Any]) -> None:
    for variable, value in zip(variables_of(model), values, strict=True):
        variable.assign(value)


def _is_float(variable: Any) -> bool:
    return bool(keras.backend.is_float_dtype(variable.dtype))


def _is_precise(model: Any) -> bool:
    if tf.config.list_logical_devices("GPU"):
        return False
    return all(layer.compute_dtype in ("float32", "float64") for layer in flatten_layers(model))


def _are_alike(one: Any, other: Any, tolerance: float) -> bool:
    if not np.issubdtype(one.dtype, np.number) and one.dtype.kind != "V":
        return bool((one == other).all())
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    return bool(np.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True).mean() >= _ALIKE)
