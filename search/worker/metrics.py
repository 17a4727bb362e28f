"""The metrics of a model: which of its logs belong to which object, and which direction is better.

The words of a name are asked only if the metric object does not name its direction: `AUC(name="score")` is to go up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from search.study.directions import direction_of_name, directions_in_name
from search.study.trial import Direction
from search.worker.keras_internals import (
    direction_of_metric,
    function_of_metric,
    inherits_direction,
    metrics_within,
)


def directions_of_metrics(model: Any, names: Iterable[str]) -> dict[str, Direction]:
    """Return the directions of a trained model's logs, by name without `val_`. Unknown directions are left out."""
    objects, losses = _metrics_by_name(model), _loss_names(model)
    found = {}
    for name in {name.removeprefix("val_") for name in names}:
        direction = "min" if name in losses else _direction_of(name, objects.get(name), model)
        if direction is not None:
            found[name] = direction
    return found


def compiled_metrics(model: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a model's logs without those of validation and without the losses."""
    losses = _loss_names(model)
    return tuple(name for name in names if name not in losses and not name.startswith("val_"))


def _loss_names(model: Any) -> set[str]:
    return {"loss", *(f"{output}_loss" for output in getattr(model, "output_names", None) or ())}


def _metrics_by_name(model: Any) -> dict[str, Any]:
    """Return a model's metric objects, by their names in the logs.

    Of two metrics with one name, the last one's value is in the logs.
    """
    found: dict[str, Any] = {}
    for metric in model.metrics:
        inner = metrics_within(metric)
        found |= {metric.name: metric} if inner is None else _by_logged_name(metric, inner)
    return found


def _by_logged_name(compiled: Any, metrics: list[Any]) -> dict[str, Any]:
    """Return compiled metrics by their names in the logs, which may differ from their own: `head_auc`, `auc_1`."""
    try:
        names = list(compiled.result())
    except Exception:  # a training step of the user's own may not use the compiled metrics
        names = []
    if len(names) != len(metrics) or any(m.name not in name for name, m in zip(names, metrics, strict=True)):
        names = [metric.name for metric in metrics]
    return dict(zip(names, metrics, strict=True))


def _direction_of(name: str, metric: Any, model: Any) -> Direction | None:
    """Return the direction of one metric.

    Args:
        name: in the logs, where the name of an output may come before the metric's own.
        metric: None if no object has this name.
    """
    if metric is None:
        return direction_of_name(name)
    own = direction_of_metric(metric)
    if own is None and _is_loss(function_of_metric(metric), model):
        own = "min"
    if own is None:
        return direction_of_name(metric.name)
    if inherits_direction(metric):
        named = directions_in_name(metric.name) | directions_in_name(type(metric).__name__)
        return own if named <= {own} else None
    return own


def _is_loss(function: Any, model: Any) -> bool:
    """Return whether a metric averages a loss, such as Keras's `dice` or the function that the model minimises."""
    if function is None:
        return False
    known = (*vars(keras.losses).values(), *keras.tree.flatten(getattr(model, "loss", None)))
    return isinstance(function, keras.losses.Loss) or any(function == loss for loss in known)
