"""Keras's private API, behind functions with public names, on any back end.

A private name may change with any release of Keras. So each capability tests itself on a tiny example, the first time
that a process uses it. If the test fails, the public way is used.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import opcode
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from search.study.trial import Direction

__all__ = [
    "assigned_names",
    "built_for",
    "direction_of_metric",
    "flatten_layers",
    "function_of_metric",
    "give_unused_name",
    "inherits_direction",
    "learning_rate_of",
    "metrics_within",
    "seed_unseeded_draws",
    "set_used_names",
    "used_names",
]

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


# Names ----------------------------------------------------------------------------------------------------------------

# Keras names an object that the user does not name by its class, with the number of names that the class has had.


def _counters() -> Any:
    from keras.src.backend.common import global_state

    fresh: collections.defaultdict[str, int] = collections.defaultdict(int)
    return global_state.get_global_attribute("object_name_uids", fresh, set_to_default=True)


@functools.cache
def _names_are_counted() -> bool:
    """Test whether Keras's counters can be read and set. If not, each model is named as the first in its process."""
    try:
        before = dict(_counters())
        _replace_counters({"search_self_test": 1})
        try:
            layer = type("SearchSelfTest", (keras.layers.Layer,), {})()
            works = (layer.name, _counters()["search_self_test"]) == ("search_self_test_1", 2)
        finally:
            _replace_counters(before)
    except Exception:
        works = False
    if not works:
        print(
            f"search: the names of Keras {keras.__version__} cannot be counted: a model's layers are named without "
            "regard to those that the space file makes while it is imported"
        )
    return works


def _replace_counters(counts: Mapping[str, int]) -> None:
    counters = _counters()
    counters.clear()
    counters.update(counts)


def used_names() -> dict[str, int]:
    """Return how many names Keras has given in this process, by prefix: {"dense": 2} for `dense` and `dense_1`."""
    return dict(_counters()) if _names_are_counted() else {}


def set_used_names(counts: Mapping[str, int]) -> None:
    """Make Keras give names as if it had given `counts`, which are in the form of `used_names`."""
    if _names_are_counted():
        _replace_counters(counts)


def give_unused_name(model: Any, used: Mapping[str, int]) -> None:
    """Rename a model that Keras has named, if its name is among those that `used` counts."""
    if not _names_are_counted():
        return
    from keras.src.utils import naming

    prefix = naming.to_snake_case(type(model).__name__)
    found = re.fullmatch(rf"{re.escape(prefix)}(?:_(\d+))?", model.name)
    if found is not None and int(found[1] or 0) < used.get(prefix, 0):
        model.name = naming.auto_name(prefix)


# State ----------------------------------------------------------------------------------------------------------------

_FRAMEWORKS = ("keras", "tensorflow", "torch")
_STORE_ATTR, _EXTENDED_ARG = opcode.opmap["STORE_ATTR"], opcode.opmap["EXTENDED_ARG"]


def flatten_layers(layer: Any) -> list[Any]:
    """Return a layer and all layers in it, an outer one before its inner ones."""
    if hasattr(layer, "_flatten_layers"):
        return list(layer._flatten_layers())
    return [layer, *(each for inner in getattr(layer, "layers", ()) for each in flatten_layers(inner))]


def built_for(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for; none if it is not built, or if that cannot be known."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def learning_rate_of(optimizer: Any) -> Any:
    """Return an optimizer's learning rate: a variable, a schedule or a function."""
    return getattr(optimizer, "_learning_rate", optimizer.learning_rate)


def seed_unseeded_draws(seed: int) -> None:
    """Set the state from which `keras.random` draws if it is given no seed. There is no public way."""
    with contextlib.suppress(ImportError, AttributeError):
        from keras.src.random.seed_generator import global_seed_generator

        global_seed_generator().state.assign([seed % 2**31, 0])


@functools.cache
def assigned_names(cls: type[Any]) -> frozenset[str]:
    """Return the attributes that Keras or its framework may assign to an object of `cls`.

    These are all names that the methods of the class's bases in these packages assign to, on any object.
    """
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in _FRAMEWORKS]
    names = frozenset[str]().union(*map(_names_assigned_in, bases))
    if issubclass(cls, keras.Model):
        names |= {"history"}  # assigned by a callback
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.nn.Module):
        names = names.union(vars(torch.nn.Module()))  # assigned by their names as strings
    return names


@functools.cache
def _names_assigned_in(cls: type[Any]) -> frozenset[str]:
    return frozenset(
        name for member in vars(cls).values() for code in _codes_of(member) for name in _stored_attributes(code)
    )


def _codes_of(member: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function, also of a wrapped one, or of a property's functions."""
    functions: list[Any] = [member.fget, member.fset] if isinstance(member, property) else [member]
    for function in functions:
        function = getattr(function, "__func__", function)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def _stored_attributes(code: types.CodeType) -> Iterator[str]:
    """Yield the names of attributes that a code assigns. `dis` would find them too, in ten times the time."""
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    at = operations.find(_STORE_ATTR)
    while at >= 0:
        extended = arguments[at - 1] << 8 if at and operations[at - 1] == _EXTENDED_ARG else 0
        yield code.co_names[extended | arguments[at]]
        at = operations.find(_STORE_ATTR, at + 1)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _stored_attributes(constant)
