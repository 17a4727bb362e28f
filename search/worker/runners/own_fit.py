"""A `fit` of the user's: called as KerasTuner calls it, with its call of `model.fit` intercepted.

The interception covers the model that the user's `fit` was given. So that model is trained, checkpointed and continued
like any other. The user's code before that call runs again in each segment, and so does the code after it, a second
`model.fit` included. If the user's `fit` returns numbers, they belong to the segment's last epoch: an objective of its
own is one value per segment.

A `fit` that never calls `model.fit` on its model is *whole*: it begins anew for each segment, and its result is the
segment's only record.
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
from search.space.file import Space, describe_type
from search.study.trial import Objective
from search.worker.data.arrays import Data, Split, prepare_data, split_off
from search.worker.data.streams import Stream
from search.worker.runners.logs import scalar_logs

__all__ = ["FitCall", "StopProbe", "call_own_fit", "first_samples", "returned_logs"]

_DATA_ARGUMENTS = ("x", "y", "sample_weight", "validation_data", "validation_split")
_SEARCH_ARGUMENTS = ("self", "epochs", "initial_epoch", "callbacks", "verbose")


@dataclass(frozen=True, slots=True)
class FitCall:
    """A call of `model.fit` by the user's code.

    Attributes:
        data: the data to train and to validate on.
        options: the other arguments.
        callbacks: the callbacks.
        epochs: the last epoch; None if the call does not say.
    """

    data: Data
    options: Mapping[str, Any]
    callbacks: list[Any]
    epochs: int | None


def call_own_fit(
    space: Space,
    hp: Any,
    model: Any,
    data: Data,
    *,
    epochs: int,
    initial_epoch: int,
    options: Mapping[str, Any],
    callbacks: list[Any],
    train: Callable[[FitCall], Any],
) -> Any:
    """Call the user's `fit`, and return its result.

    Args:
        train: is called in place of `model.fit`. Its History is returned to the user's code.
    """
    assert space.fit is not None
    seen: list[FitCall] = []

    def intercepted(*args: Any, **kwargs: Any) -> Any:
        if seen:
            return type(model).fit(model, *args, **kwargs)
        seen.append(_make_fit_call(model, args, kwargs, data))
        return train(seen[0])

    keywords = {**options, "epochs": epochs, "initial_epoch": initial_epoch, "callbacks": callbacks, "verbose": 0}
    positional, named = space.fit_arguments(data.raw)
    object.__setattr__(model, "fit", intercepted)
    try:
        return _call_with_accepted(space.fit, (hp, model, *positional), {**named, **keywords})
    finally:
        object.__delattr__(model, "fit")


def _call_with_accepted(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function with those of `kwargs` that it takes, and does not itself pass on under the same name."""
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    while True:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # As in `model.fit(*args, epochs=hp.Int("epochs", 5, 20), **kwargs)`: the user's own value is used.
            repeated = re.search(r"multiple values for keyword argument '(\w+)'", str(error))
            if repeated is None or repeated[1] not in kwargs:
                raise
            kwargs = {name: value for name, value in kwargs.items() if name != repeated[1]}


def _make_fit_call(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], loaded: Data) -> FitCall:
    bound = inspect.signature(type(model).fit).bind(model, *args, **kwargs).arguments
    bound |= bound.pop("kwargs", {})
    callbacks = bound.get("callbacks") or []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return FitCall(
        data=_data_of(bound, loaded),
        options={name: value for name, value in bound.items() if name not in (*_DATA_ARGUMENTS, *_SEARCH_ARGUMENTS)},
        callbacks=list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks],
        epochs=bound.get("epochs"),
    )


def _data_of(bound: Mapping[str, Any], loaded: Data) -> Data:
    """Return the data of a call of `model.fit`: `loaded` itself if they are what `load_data` returned."""
    x, y, weight = (bound.get(name) for name in ("x", "y", "sample_weight"))
    raw = (x,) if y is None and weight is None else (x, y) if weight is None else (x, y, weight)
    validation = bound.get("validation_data")
    if isinstance(validation, list):
        validation = tuple(validation)
    if _is_same(raw, loaded.raw[0]) and _is_same(validation, loaded.raw[1]) and not bound.get("validation_split"):
        return loaded
    is_stream = x is not None and y is None and weight is None and not _is_arrays(x)
    data = prepare_data((x if is_stream else raw, validation))
    if bound.get("validation_split") and validation is None:
        if isinstance(data.train, Stream):
            raise SpaceError("fit calls model.fit with validation_split: that needs arrays, give validation_data")
        train, held_out = split_off(data.train, bound["validation_split"])
        data = replace(data, train=train, validation=held_out)
    return data


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two splits consist of the same objects."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(one is other for one, other in zip(a, b, strict=True))
    if isinstance(a, tuple) and len(a) == 1:
        return a[0] is b
    return a is b


def _is_arrays(value: Any) -> bool:
    return all(hasattr(leaf, "__array__") for leaf in keras.tree.flatten(value))


# Results --------------------------------------------------------------------------------------------------------------


def returned_logs(returned: Any, objective: Objective, history: Any, *, whole: bool) -> dict[str, float]:
    """Return the numbers in the result of a user's `fit`.

    Args:
        returned: a History, the objective, a dict of metrics, or a list of these.
        history: the History of the intercepted `model.fit`, which adds nothing if it is returned.
        whole: True if the user's `fit` is whole, so that its result must have numbers.

    Raises:
        SpaceError: the user's `fit` returned anything else.
    """
    if not whole and (returned is None or returned is history):
        return {}
    if isinstance(returned, (int, float, np.number)) and not isinstance(returned, bool):
        return {objective.name: float(returned)}
    if isinstance(returned, Mapping):
        return scalar_logs(returned)
    if isinstance(returned, keras.callbacks.History):
        return _best_epoch(returned, objective)
    if isinstance(returned, list) and returned:
        found = [returned_logs(item, objective, history, whole=whole) for item in returned]
        names = [name for name in found[0] if all(name in logs for logs in found)]
        return {name: float(np.mean([logs[name] for logs in found])) for name in names}
    if np.ndim(returned) == 0 and hasattr(returned, "__array__"):
        return {objective.name: float(np.asarray(returned))}
    raise SpaceError(
        f"fit returned {describe_type(returned)}: return a History, the objective as a float, a dict of metrics, or a "
        "list of these"
    )


def _best_epoch(history: Any, objective: Objective) -> dict[str, float]:
    """Return the logs of a History's best epoch, or of its last one if the objective is not in it."""
    epochs = [
        scalar_logs(dict(zip(history.history, values, strict=True)))
        for values in zip(*history.history.values(), strict=False)
    ]
    if not epochs:
        return {}
    if objective.name not in epochs[0]:
        return epochs[-1]
    return min(epochs, key=lambda logs: objective.cost(logs[objective.name]))


# Probes ---------------------------------------------------------------------------------------------------------------


class StopProbe(BaseException):
    """The end of a probe of the user's `fit`, raised when it calls `model.fit`. Not an error of the user's."""


def first_samples(data: Data, batch_size: int) -> Data:
    """Return the first two batches of arrays, for a probe; streams as they are."""
    if not isinstance(data.train, Split):
        return data
    raw = tuple(
        part.part(slice(2 * batch_size)).packed if isinstance(part, Split) else part
        for part in (data.train, data.validation)
    )
    return prepare_data(raw)
