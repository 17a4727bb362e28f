"""A `fit` of the user's: called as KerasTuner calls it, and intercepted where it calls `model.fit` on the model that it
was given, so that it is trained, checkpointed and continued as any other.

What the user's code does before that call is done again in each segment; what it does after it, too, a second
`model.fit` included. Of what it returns, numbers belong to the segment's last epoch: an objective of its own is one
value a segment. One that never calls `model.fit` on its model is *whole*: it begins anew for each segment, and what it
returns is the segment's one record.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError
from search.space.file import Space, kind
from search.study.trial import Objective
from search.worker.data.arrays import Data, Split, prepare, split_off
from search.worker.data.streams import Stream
from search.worker.runners.logs import scalar_logs

__all__ = ["Call", "call", "logs_of"]

_DATA = ("x", "y", "sample_weight", "validation_data", "validation_split")
_OURS = ("self", "epochs", "initial_epoch", "callbacks", "verbose")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `model.fit` by the user's code.

    Attributes:
        data: what it was given to train and to validate on.
        options: its other arguments.
        callbacks: its callbacks.
        epochs: the last epoch that it wants; None where it does not say.
    """

    data: Data
    options: Mapping[str, Any]
    callbacks: list[Any]
    epochs: int | None


def call(
    space: Space,
    hp: Any,
    model: Any,
    data: Data,
    *,
    epochs: int,
    initial_epoch: int,
    options: Mapping[str, Any],
    callbacks: list[Any],
    train: Callable[[Call], Any],
) -> Any:
    """Call the user's `fit`. What it trains by `model.fit` is handed to `train`, whose History it gets.

    Returns:
        What the user's `fit` returned.
    """
    assert space.fit is not None
    seen: list[Call] = []

    def intercepted(*args: Any, **kwargs: Any) -> Any:
        if seen:
            return type(model).fit(model, *args, **kwargs)
        seen.append(_call(model, args, kwargs, data))
        return train(seen[0])

    keywords = {**options, "epochs": epochs, "initial_epoch": initial_epoch, "callbacks": callbacks, "verbose": 0}
    positional, named = space.fit_arguments(data.raw)
    object.__setattr__(model, "fit", intercepted)
    try:
        return _called(space.fit, (hp, model, *positional), {**named, **keywords})
    finally:
        object.__delattr__(model, "fit")


def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call with those of `kwargs` that the function takes, and that it does not itself hand on under the same name."""
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    while True:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # As in `model.fit(*args, epochs=hp.Int("epochs", 5, 20), **kwargs)`: its own value goes first.
            twice = re.search(r"multiple values for keyword argument '(\w+)'", str(error))
            if twice is None or twice[1] not in kwargs:
                raise
            kwargs = {name: value for name, value in kwargs.items() if name != twice[1]}


def _call(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Data) -> Call:
    bound = inspect.signature(type(model).fit).bind(model, *args, **kwargs).arguments
    bound |= bound.pop("kwargs", {})
    callbacks = bound.get("callbacks") or []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return Call(
        data=_data(bound, given),
        options={name: value for name, value in bound.items() if name not in (*_DATA, *_OURS)},
        callbacks=list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks],
        epochs=bound.get("epochs"),
    )


def _data(bound: Mapping[str, Any], given: Data) -> Data:
    """What a call of `model.fit` trains and validates on; `given` where that is what `load_data` returned."""
    x, y, weight = (bound.get(name) for name in ("x", "y", "sample_weight"))
    raw = (x,) if y is None and weight is None else (x, y) if weight is None else (x, y, weight)
    validation = bound.get("validation_data")
    if isinstance(validation, list):
        validation = tuple(validation)
    if _is_same(raw, given.raw[0]) and _is_same(validation, given.raw[1]) and not bound.get("validation_split"):
        return given
    whole = x is not None and y is None and weight is None and not _is_arrays(x)
    data = prepare((x if whole else raw, validation))
    if bound.get("validation_split") and validation is None:
        if isinstance(data.train, Stream):
            raise SpaceError("fit calls model.fit with validation_split: that needs arrays, give validation_data")
        train, held_out = split_off(data.train, bound["validation_split"])
        data = replace(data, train=train, validation=held_out)
    return data


def _is_same(a: Any, b: Any) -> bool:
    """Whether two splits are of the same objects."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(one is other for one, other in zip(a, b, strict=True))
    if isinstance(a, tuple) and len(a) == 1:
        return a[0] is b
    return a is b


def _is_arrays(value: Any) -> bool:
    return all(hasattr(leaf, "__array__") for leaf in keras.tree.flatten(value))


# What it returned -----------------------------------------------------------------------------------------------------


def logs_of(returned: Any, objective: Objective, ours: Any, *, whole: bool) -> dict[str, float]:
    """The numbers that a user's `fit` returned: a History, the objective, a dict of metrics, or a list of these.

    Args:
        ours: the History that the interception gave; it adds nothing.
        whole: whether what was returned is all that there is.

    Raises:
        SpaceError: for anything else.
    """
    if not whole and (returned is None or returned is ours):
        return {}
    if isinstance(returned, (int, float, np.number)) and not isinstance(returned, bool):
        return {objective.name: float(returned)}
    if isinstance(returned, Mapping):
        return scalar_logs(returned)
    if isinstance(returned, keras.callbacks.History):
        return _best_epoch(returned, objective)
    if isinstance(returned, list) and returned:
        found = [logs_of(item, objective, ours, whole=whole) for item in returned]
        names = [name for name in found[0] if all(name in logs for logs in found)]
        return {name: float(np.mean([logs[name] for logs in found])) for name in names}
    if np.ndim(returned) == 0 and hasattr(returned, "__array__"):
        return {objective.name: float(np.asarray(returned))}
    raise SpaceError(
        f"fit returned {kind(returned)}: return a History, the objective as a float, a dict of metrics, or a list of "
        "these"
    )


def _best_epoch(history: Any, objective: Objective) -> dict[str, float]:
    """The logs of a History's best epoch, of its last one where the objective is not in it."""
    epochs = [
        dict(zip(history.history, values, strict=True)) for values in zip(*history.history.values(), strict=False)
    ]
    if not epochs:
        return {}
    if objective.name not in epochs[0]:
        return scalar_logs(epochs[-1])
    return scalar_logs(min(epochs, key=lambda logs: objective.cost(float(logs[objective.name]))))


# Trying it ------------------------------------------------------------------------------------------------------------


class Enough(BaseException):
    """Unwinds the user's `fit` in a probe, where it calls `model.fit`. Not an error of the user's."""


def few(data: Data, batch_size: int) -> Data:
    """The first samples of arrays, for a probe."""
    if not isinstance(data.train, Split):
        return data
    raw = tuple(
        part.part(slice(2 * batch_size)).packed if isinstance(part, Split) else part
        for part in (data.train, data.validation)
    )
    return prepare(raw)
