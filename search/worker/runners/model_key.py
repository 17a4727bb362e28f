"""Which models train by the same graph: equal in all that tracing can read, but for the values of variables.

A trial's learning rate, its initial weights and its seeds are variables' values, and a graph may leave more open
(`search.worker.runners.dynamic_sizes`); trials that differ in nothing else, and the executions of one trial, need one traced or
compiled graph between them.

A configuration would not do for a signature: Keras's leave things out (the `delta` of a Huber loss). This one goes
through the attributes of everything that the model refers to. It knows Keras's own objects only: what a class or a
function of the user's reads cannot be known, so a model with one in it has no signature.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from search.worker.runners.dynamic_sizes import DynamicSizes

__all__ = ["ModelKey", "of_callbacks", "of_model"]


@dataclass(frozen=True, slots=True, eq=False)
class ModelKey:
    """What the graph of a model depends on.

    Attributes:
        word: the same for all models that one graph can train.
        freedom: what that graph leaves open, of this model.
    """

    word: Hashable
    freedom: DynamicSizes


_UNREAD = {
    "_tracker",  # a layer's list of its variables and parts, which are attributes, too
    "_nodes",  # of a functional model, by their addresses; its operations refer to them
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
    "_self_unconditional_deferred_dependencies",
    "_distribution_strategy",
    "_distribute_strategy",
    "_call_signature",  # of its class
    "_trainable_variables_indices",  # of an optimizer, by their addresses
    "_build_shapes_dict",  # of a layer
    "_auto_config",  # of a layer: what it was made with
}
"""Attributes that say nothing more of the graph, or nothing that is the same in an equal model."""

_FOLLOWING = {(keras.KerasTensor, "_shape"), (keras.InputSpec, "shape"), (keras.InputSpec, "axes")}
"""Sizes that follow from those of the model's inputs and from what its layers say."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def of_model(model: Any, freedom: DynamicSizes | None = None) -> Hashable | None:
    """What a built and compiled model's graph depends on; None where that cannot be told.

    Models with the same signature have variables in the same order, of the same shapes but for what is open.

    Args:
        freedom: what the graph leaves open; by default nothing.
    """
    return _describe(model, freedom or DynamicSizes())


def of_callbacks(callbacks: Sequence[Any]) -> Hashable | None:
    """As `of_model`, of callbacks that have not met their model; None where they might know of one."""
    return _describe(list(callbacks), DynamicSizes())


def _describe(root: Any, freedom: DynamicSizes) -> Hashable | None:
    """All that `root` refers to, each object once, parts after what they are parts of; None where one is unknown."""
    is_open = freedom.attributes()
    said: list[Hashable] = []
    seen: dict[int, tuple[int, Any]] = {}  # an object is kept, so that no other one gets its address
    waiting = [root]  # no recursion: a deep model is a long chain
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN:
            said += type(value).__name__, repr(value)  # a float's digits, -0.0 and nan
        elif id(value) in seen:
            said.append(("seen", seen[id(value)][0]))
        else:
            seen[id(value)] = len(seen), value
            told = _look(value, freedom, is_open)
            if told is None:
                return None
            word, parts = told
            said.append(word)
            waiting += reversed(parts)
    return tuple(said)


def _look(value: Any, freedom: DynamicSizes, is_open: set[tuple[int, str]]) -> tuple[Hashable, list[Any]] | None:
    """What is to be said of `value` itself, and what it refers to; None where it may be or do anything."""
    if isinstance(value, keras.Variable):
        word = "variable", freedom.shape(value), value.dtype, value.trainable, value.aggregation
        return word, [value.regularizer, value.constraint, value.overwrite_with_gradient]
    if isinstance(value, keras.initializers.Initializer):
        return "initializer", []  # it has done its work
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return ("array", value.shape, value.dtype.str, value.tobytes()), []
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)) and _is_keras(value.__module__):
        return ("name", value.__module__, value.__qualname__), []
    if isinstance(value, types.ModuleType):
        return ("module", value.__name__), []
    if isinstance(value, inspect.Parameter):
        return ("parameter", str(value)), []
    if isinstance(value, dict) and _is_known(type(value)):
        return ("dict", len(value)), [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)) and _is_known(type(value)):
        return (type(value).__name__, len(value)), list(value)
    if isinstance(value, (set, frozenset)) and all(type(item) in _PLAIN for item in value):
        return ("set", tuple(sorted(map(repr, value)))), []
    if not _is_keras(type(value).__module__):
        return None
    attributes = {
        name: None if (id(value), name) in is_open else attribute
        for name, attribute in _attributes(value)
        if name not in _UNREAD and (type(value), name) not in _FOLLOWING
    }
    return ("object", type(value).__module__, type(value).__qualname__, *attributes), list(attributes.values())


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
