"""Model keys: models with equal keys train by the same graph.

Such models are equal in all that tracing can read, except the values of variables. Learning rate, initial weights and
seeds are values of variables, and a graph may leave sizes dynamic (`search.worker.runners.dynamic_sizes`). Trials that
differ only in these, and the executions of one trial, need one traced or compiled graph between them.

Keras's configurations would not do as keys, as they leave things out (the `delta` of a Huber loss). A key describes the
attributes of everything that the model refers to. It knows Keras's own objects only. A class or function of the user's
may read anything, so a model that contains one has no key.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from search.worker.capabilities import capability
from search.worker.keras_internals import DERIVED_ATTRIBUTES, TRACKING_ATTRIBUTES, UNTRACED_ATTRIBUTES, tiny_model
from search.worker.runners.dynamic_sizes import DynamicSizes, find_dynamic_sizes

__all__ = ["TESTED_KERAS", "ModelKey", "describe_callbacks", "describe_model", "model_keys"]

TESTED_KERAS = ("3.12", "3.13", "3.14", "3.15")
"""The versions of Keras whose models are known to have right keys. Models of other versions share no graph."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelKey:
    """All that the graph of a model depends on.

    Attributes:
        description: the same for all models that one graph can train.
        dynamic_sizes: the sizes of this model that its graph leaves dynamic.
    """

    description: Hashable
    dynamic_sizes: DynamicSizes


def _owner(attribute: str) -> str:
    return "tensorflow" if attribute.startswith("_self_") else "keras"


@capability(
    "graph sharing",
    without="each model has a graph of its own",
    uses=tuple(f"{_owner(name)}.{name}" for name in sorted(UNTRACED_ATTRIBUTES - TRACKING_ATTRIBUTES)),
    packages=lambda: f"Keras {keras.__version__}",
    for_speed=True,
)
def model_keys() -> bool:
    """Test whether models have equal keys if they differ in a dynamic width, in a version of Keras that is known."""
    if keras.config.backend() == "torch":
        return True  # it has no graphs
    if ".".join(keras.__version__.split(".")[:2]) not in TESTED_KERAS:
        tested = f"{TESTED_KERAS[0]} to {TESTED_KERAS[-1]}"
        model_keys.turn_off(f"Keras {keras.__version__} is not one of the tested versions, {tested}")
        return False
    models = tiny_model(1), tiny_model(2)  # no other test changes them
    sizes = [find_dynamic_sizes(model) for model in models]
    one, other = (describe_model(*each) for each in zip(models, sizes, strict=True))
    return one is not None and (one == other) == bool(sizes[0].widths)


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def describe_model(model: Any, dynamic_sizes: DynamicSizes | None = None) -> Hashable | None:
    """Return all that the graph of a built and compiled model depends on; None if that cannot be known.

    Models with equal descriptions have their variables in the same order, of the same shapes except dynamic sizes.

    Args:
        dynamic_sizes: the sizes that the graph leaves dynamic; by default none.
    """
    return _describe(model, dynamic_sizes or DynamicSizes())


def describe_callbacks(callbacks: Sequence[Any]) -> Hashable | None:
    """Describe callbacks that have not met their model, like `describe_model`; None if one might know of a model."""
    return _describe(list(callbacks), DynamicSizes())


def _describe(root: Any, dynamic_sizes: DynamicSizes) -> Hashable | None:
    """Describe all that `root` refers to, each object once and before its parts; None if one is unknown."""
    dynamic_attributes = dynamic_sizes.attributes()
    description: list[Hashable] = []
    seen: dict[int, tuple[int, Any]] = {}  # keeps each object, so that no other one gets its address
    waiting = [root]  # no recursion: a deep model is a long chain
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN:
            description += type(value).__name__, repr(value)  # a float's digits, -0.0 and nan
        elif id(value) in seen:
            description.append(("seen", seen[id(value)][0]))
        else:
            seen[id(value)] = len(seen), value
            described = _describe_object(value, dynamic_sizes, dynamic_attributes)
            if described is None:
                return None
            own, parts = described
            description.append(own)
            waiting += reversed(parts)
    return tuple(description)


def _describe_object(
    value: Any, dynamic_sizes: DynamicSizes, dynamic_attributes: set[tuple[int, str]]
) -> tuple[Hashable, list[Any]] | None:
    """Return the description of `value` without its parts, and the parts; None if `value` may be or do anything."""
    if isinstance(value, keras.Variable):
        own = "variable", dynamic_sizes.shape(value), value.dtype, value.trainable, value.aggregation
        return own, [value.regularizer, value.constraint, value.overwrite_with_gradient]
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
    if isinstance(value, dict) and _is_known_container(type(value)):
        return ("dict", len(value)), [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)) and _is_known_container(type(value)):
        return (type(value).__name__, len(value)), list(value)
    if isinstance(value, (set, frozenset)) and all(type(item) in _PLAIN for item in value):
        return ("set", tuple(sorted(map(repr, value)))), []
    if not _is_keras(type(value).__module__):
        return None
    attributes = {
        name: None if (id(value), name) in dynamic_attributes else attribute
        for name, attribute in _attributes(value)
        if name not in UNTRACED_ATTRIBUTES and (type(value), name) not in DERIVED_ATTRIBUTES
    }
    return ("object", type(value).__module__, type(value).__qualname__, *attributes), list(attributes.values())


def _is_known_container(container: type) -> bool:
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
