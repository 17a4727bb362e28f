"""Which models train by the same graph: equal in all that tracing can read, but for the values of variables.

A trial's learning rate, its initial weights and its seeds are variables' values; so trials that differ in nothing else,
and the executions of one trial, need one traced or compiled graph between them.

A configuration would not do for a signature: Keras's leave things out (the `delta` of a Huber loss). This one goes
through the attributes of everything that the model refers to. It knows Keras's own objects only: what a class or a
function of the user's reads cannot be known, so a model with one in it has no signature.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["of_callbacks", "of_model"]

_UNREAD = {
    "_tracker",  # a layer's list of its variables and parts, which are attributes, too
    "_nodes",  # of a functional model, by their addresses; its operations refer to them
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
    "_self_unconditional_deferred_dependencies",
    "_distribution_strategy",
    "_distribute_strategy",
    "_call_signature",  # of its class
}
"""Attributes that say nothing more of the graph, or nothing that is the same in an equal model."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class _Unknown(Exception):
    """Something that may be or do anything."""


def of_model(model: Any) -> Hashable | None:
    """What a built and compiled model's graph depends on; None where that cannot be told.

    Models with the same signature have variables of the same shapes in the same order.
    """
    try:
        return tuple(_walk(model, {}))
    except _Unknown:
        return None


def of_callbacks(callbacks: Sequence[Any]) -> Hashable | None:
    """As `of_model`, of callbacks that know of no model but the one that they are given; None where they might."""
    return of_model(list(callbacks))


def _walk(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[Hashable]:
    """A description of `value` and of all that it refers to, which is said once.

    `seen` keeps what it names, so that no other object gets the same address.
    """
    if type(value) in _PLAIN:
        yield type(value).__name__
        yield repr(value)  # a float's digits, -0.0 and nan
        return
    if id(value) in seen:
        yield "seen", seen[id(value)][0]
        return
    seen[id(value)] = len(seen), value
    if isinstance(value, keras.Variable):
        yield "variable", tuple(value.shape), value.dtype, value.trainable, value.aggregation
    elif isinstance(value, keras.initializers.Initializer):
        yield "initializer"  # it has done its work
    elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        yield "array", value.shape, value.dtype.str, value.tobytes()
    elif isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)) and _is_keras(value.__module__):
        yield "name", value.__module__, value.__qualname__
    elif isinstance(value, types.ModuleType):
        yield "module", value.__name__
    elif isinstance(value, inspect.Parameter):
        yield "parameter", str(value)
    elif isinstance(value, dict) and _is_known(type(value)):
        yield "dict", len(value)
        for key, item in value.items():
            yield from _walk(key, seen)
            yield from _walk(item, seen)
    elif isinstance(value, (list, tuple)) and _is_known(type(value)):
        yield type(value).__name__, len(value)
        for item in value:
            yield from _walk(item, seen)
    elif isinstance(value, (set, frozenset)) and all(type(item) in _PLAIN for item in value):
        yield "set", tuple(sorted(map(repr, value)))
    elif _is_keras(type(value).__module__):
        yield "object", type(value).__module__, type(value).__qualname__
        for name, attribute in _attributes(value):
            if name not in _UNREAD:
                yield name
                yield from _walk(attribute, seen)
    else:
        raise _Unknown(value)


def _is_known(container: type) -> bool:
    return container.__module__.partition(".")[0] in ("builtins", "collections", "keras", "tensorflow")


def _is_keras(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == "keras"


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)
