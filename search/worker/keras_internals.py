"""Keras's private API, behind functions with public names.

A private name may change with any release of Keras. So each capability tests itself on a tiny example, the first time
that a process uses it. If the test fails, the public way is used.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras

from search.study.trial import Direction

# The direction of a metric --------------------------------------------------------------------------------------------

# Keras's metrics name their direction since 3.9. There is no public way to read it: the words of the names decide.

_DIRECTIONS: dict[Any, Direction] = {"up": "max", "down": "min"}


@functools.cache
def _metrics_name_directions() -> bool:
    """Test whether an accuracy is to go up, an error down, and a mean in neither direction."""
    try:
        examples = (keras.metrics.BinaryAccuracy("a"), keras.metrics.MeanSquaredError("b"), keras.metrics.Mean("c"))
        found = [getattr(metric, "_direction", None) for metric in examples]
    except Exception:
        found = []
    if found == ["up", "down", None]:
        return True
    print(f"search: the metrics of Keras {keras.__version__} name no direction: the words of their names decide")
    return False


def direction_of_metric(metric: Any) -> Direction | None:
    """Return the direction that a metric object names, or None."""
    return _DIRECTIONS.get(getattr(metric, "_direction", None)) if _metrics_name_directions() else None


def inherits_direction(metric: Any) -> bool:
    """Return whether a user's class has its metric's direction from a class of Keras.

    The user's class may compute something else, such as one minus the value.
    """
    classes = type(metric).__mro__
    own = classes[: next((number for number, cls in enumerate(classes) if _is_of_keras(cls)), len(classes))]
    return bool(own) and not any(_sets_direction(cls) for cls in own)


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras"


def _sets_direction(cls: type) -> bool:
    code = getattr(inspect.unwrap(vars(cls).get("__init__", cls)), "__code__", None)
    return "_direction" in vars(cls) or "_direction" in getattr(code, "co_names", ())


def metrics_within(metric: Any) -> list[Any] | None:
    """Return the metrics that Keras holds in one metric, as it does with compiled ones. None for any other metric."""
    inner = getattr(metric, "metrics", None) if _is_of_keras(type(metric)) else None
    return list(inner) if isinstance(inner, (list, tuple)) else None


@functools.cache
def _metrics_hold_functions() -> bool:
    """Test whether a metric that averages a function holds it. If not, no function is known to be a loss."""
    try:
        return keras.metrics.MeanMetricWrapper(keras.ops.abs, name="d")._fn is keras.ops.abs
    except Exception:
        return False


def function_of_metric(metric: Any) -> Any:
    """Return the function or the loss object that a metric averages, or None."""
    function = getattr(metric, "_fn", None) if _metrics_hold_functions() else None
    while isinstance(function, functools.partial):
        function = function.func
    return function
