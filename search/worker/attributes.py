"""The walk through a model's attributes: it finds the state that Keras does not know of.

`model.variables` and `model.optimizer` are not all that a training changes. A user's model may have a second optimizer,
a `tf.Variable`, a counter, or a copy of its weights in an object of the user's own. The walk begins at the model, all
its layers, its optimizers and losses, and passes over the attributes that Keras itself assigns. A model of Keras's own
classes has no others, so its walk takes about two microseconds for each layer.

The walk enters layers that Keras does not track, containers, and objects of the user's own classes. It does not enter
objects of libraries: a tokenizer, a data set or a lock is found as it is.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import keras
import numpy as np

from search.worker import keras_internals
from search.worker.callback_state import other_attributes
from search.worker.plain_values import is_plain, is_symbolic

__all__ = [
    "Found",
    "Path",
    "Roots",
    "describe_path",
    "find_attributes",
    "inner_layers",
    "is_random_state",
    "kind_of",
    "roots_of",
]

Path = tuple[Any, ...]
"""The way to a value: the name of a root, then steps such as `(".", "attribute")` and `("[", key)`.

`("layer", i)` is the i-th layer in a layer that Keras does not track, and `("variable", i)` its i-th variable.
"""

Roots = dict[str, Any]

Kind = Literal["variable", "optimizer", "generator", "stateful", "plain", "iterator", "opaque", "structure", "unbuilt"]

_MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Found:
    """A value that the walk has found.

    Attributes:
        kind: `variable`, `optimizer`, `generator` (of random numbers) and `stateful` (PyTorch's objects with a
            `state_dict`) can be set in place. `plain` can be replaced. `structure` is the class and the size of an
            object or container that was entered, and `unbuilt` a layer without its variables. Of `iterator` and
            `opaque` nothing is known.
    """

    path: Path
    kind: Kind
    value: Any


def inner_layers(layer: Any) -> list[Any]:
    """Return a layer and those in it, in an order that does not change when a layer is built."""
    return [each for each in keras_internals.flatten_layers(layer) if type(each) is not keras.layers.InputLayer]


def roots_of(model: Any, callbacks: Sequence[Any] = ()) -> Roots:
    """Return the roots of the walk by their names."""
    roots = {"model": model}
    roots |= {f"layers[{i}]": layer for i, layer in enumerate(inner_layers(model)) if layer is not model}
    if getattr(model, "optimizer", None) is not None:
        roots["optimizer"] = model.optimizer
    return roots | {f"callbacks[{i}]": callback for i, callback in enumerate(callbacks)}


def describe_path(path: Path, roots: Roots) -> str:
    """Return a path as the user would write it, from the model or with a layer's name."""
    root, *steps = path
    text = ""
    if root.startswith("callbacks"):
        text = type(roots[root]).__name__
    elif root != "model":
        text = roots[root].name if root in roots and root != "optimizer" else root
    for kind, key in steps:
        text += {".": f".{key}", "[": f"[{key!r}]", "layer": f".layers[{key}]"}.get(kind, f".variables[{key}]")
    return text.removeprefix(".")


def kind_of(value: Any) -> Kind | None:
    """Return the kind of a value that can be set in place; None for any other value."""
    if isinstance(value, keras.Variable) or _is_raw_variable(value):
        return "variable"
    if isinstance(value, keras.optimizers.Optimizer):
        return "optimizer"
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        return "generator"
    return "stateful" if _is_stateful(value) else None


def is_random_state(holder: Any, value: Any) -> bool:
    """Return whether a variable in `holder` is the state of a generator of random numbers."""
    if isinstance(holder, keras.layers.Layer):
        known, weights = ({id(variable) for variable in each} for each in (holder.variables, holder.weights))
        return id(value) in known - weights
    return _state_variable(holder) is value


def find_attributes(model: Any, callbacks: Sequence[Any] = ()) -> list[Found]:
    """Return the values that a model's attributes lead to, and that Keras does not know of.

    Args:
        callbacks: callbacks whose attributes are looked through as well, except plain ones.
    """
    walk = _Walk(model)
    for name, root in roots_of(model, callbacks).items():
        if name.startswith("callbacks"):
            for attribute, value in other_attributes(root).items():
                walk.visit((name, (".", attribute)), value, 0)
        else:
            walk.enter_known((name,), root)
    return walk.found


class _Walk:
    """One walk.

    Attributes:
        found: the values found so far.
    """

    def __init__(self, model: Any) -> None:
        self.found: list[Found] = []
        known = [*model.variables, *model.metrics_variables, *keras_internals.flatten_layers(model)]
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None:  # a model with a loop of its own may have anything there
            known += [optimizer, *getattr(optimizer, "variables", ())]
        self._kept = known  # so that no other object gets the address of one
        self._seen = set(map(id, known))

    def enter_known(self, path: Path, root: Any) -> None:
        """Enter a root whose variables Keras knows of."""
        if isinstance(root, keras.layers.Layer):
            self._enter_layer(path, root, 0)
        else:
            self._enter_optimizer(path, root, 0)

    def visit(self, path: Path, value: Any, depth: int) -> None:
        """Add `value`, or what is in it."""
        if is_plain(value):
            self._add(path, "plain", value)
        elif isinstance(value, (keras.metrics.Metric, type)) or is_symbolic(value):
            return  # metrics start anew each epoch
        elif id(value) not in self._seen:
            self._seen.add(id(value))
            self._kept.append(value)
            self._visit_new(path, value, depth + 1)

    def _add(self, path: Path, kind: Kind, value: Any) -> None:
        self.found.append(Found(path, kind, value))

    def _visit_new(self, path: Path, value: Any, depth: int) -> None:
        kind = kind_of(value)
        if kind is not None:
            self._add(path, kind, value)
            if kind == "optimizer":
                self._seen.update(map(id, value.variables))
                self._enter_optimizer(path, value, depth)
        elif isinstance(value, keras.layers.Layer):
            self._visit_untracked(path, value, depth)
        elif (state := _state_variable(value)) is not None:
            self.visit((*path, (".", "state")), state, depth)
        elif depth > _MAX_DEPTH:
            self._add(path, "opaque", value)
        elif isinstance(value, (list, tuple, dict)):
            self._enter_container(path, value, depth)
        elif _is_own(value):
            self._add(path, "structure", type(value).__qualname__)
            self._enter_object(path, value, depth)
        elif hasattr(value, "__next__") and not isinstance(value, io.IOBase):
            self._add(path, "iterator", value)
        elif not callable(value):
            self._add(path, "opaque", value)

    def _visit_untracked(self, path: Path, layer: Any, depth: int) -> None:
        self._add(path, "structure", type(layer).__qualname__)
        variables = layer.variables
        for i, variable in enumerate(variables):
            self.visit((*path, ("variable", i)), variable, depth)
        self._seen.update(map(id, getattr(layer, "metrics_variables", ())))
        inner = inner_layers(layer)
        self._seen.update(map(id, inner))
        for i, each in enumerate(inner):
            self._enter_layer((*path, ("layer", i)) if i else path, each, depth)

    def _enter_layer(self, path: Path, layer: Any, depth: int) -> None:
        if not layer.built:
            self._add(path, "unbuilt", layer)
        if isinstance(layer, keras.Model):
            # A model in a model may be compiled, and train itself.
            if getattr(layer, "optimizer", None) is not None:
                self.visit((*path, (".", "optimizer")), layer.optimizer, depth)
            self._visit_own((*path, (".", "loss")), getattr(layer, "loss", None), depth)
        if keras.config.backend() == "torch":
            self._enter_module(path, layer, depth)
        self._enter_object(path, layer, depth)

    def _enter_module(self, path: Path, module: Any, depth: int) -> None:
        """Visit a layer's parameters, buffers and modules that PyTorch knows of and Keras does not."""
        for name, value in keras_internals.torch_parts(module):
            if not isinstance(value, keras.layers.Layer):
                self.visit((*path, (".", name)), value, depth)

    def _enter_optimizer(self, path: Path, optimizer: Any, depth: int) -> None:
        self._enter_object(path, optimizer, depth)
        self._visit_own(
            (*path, (".", keras_internals.LEARNING_RATE)), keras_internals.learning_rate_of(optimizer), depth
        )
        inner = getattr(optimizer, "inner_optimizer", None)
        if inner is not None and id(inner) not in self._seen:
            self._seen.add(id(inner))
            self._enter_optimizer((*path, (".", "inner_optimizer")), inner, depth)

    def _visit_own(self, path: Path, value: Any, depth: int) -> None:
        """Visit a value in an attribute of Keras's own if the user's code may have made it."""
        if isinstance(value, (dict, list, tuple)) or _is_own(value):
            self.visit(path, value, depth)

    def _enter_container(self, path: Path, container: Any, depth: int) -> None:
        is_dict = isinstance(container, dict)
        if is_dict and not all(isinstance(key, (str, int, float, bool)) for key in container):
            self._add(path, "structure", ("dict", len(container)))
            self._add(path, "opaque", container)
            return
        items = list(container.items() if is_dict else enumerate(container))
        before = len(self.found)
        for key, item in items:
            self.visit((*path, ("[", key)), item, depth)
        if len(self.found) > before:  # a container of known variables and layers says nothing new
            self._add(path, "structure", (type(container).__name__, tuple(key for key, _ in items)))

    def _enter_object(self, path: Path, value: Any, depth: int) -> None:
        for name, attribute in _own_attributes(value):
            self.visit((*path, (".", name)), attribute, depth)


def _own_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object that Keras does not assign."""
    attributes = getattr(value, "__dict__", {})
    cls: Any = type(value)
    assigned = keras_internals.assigned_names(cls)
    for name in [name for name in attributes if name not in assigned]:
        yield name, attributes[name]
    for base in cls.__mro__ if _is_own(value) else ():
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _is_own(value: Any) -> bool:
    """Return whether a value's class comes from the user's code, not from Python, an installed package or this one."""
    return _is_own_module(type(value).__module__)


@cache
def _is_own_module(name: str) -> bool:
    """Return whether a module comes from the user's code, not from Python, an installed package or this one."""
    root = name.partition(".")[0]
    if root != "__main__" and (root in sys.stdlib_module_names or root in ("search", "keras")):
        return False
    module = sys.modules.get(name)
    if module is None:
        return True  # of a pickled class
    file = getattr(module, "__file__", None)
    if file is None:
        return root == "__main__"
    return not any(part in file for part in ("site-packages", "dist-packages"))


# Frameworks -----------------------------------------------------------------------------------------------------------


def _of_framework(name: str, *names: str) -> tuple[Any, ...]:
    """Return the classes of a framework, or an empty tuple if it is not imported."""
    found = []
    for dotted in names:
        value: Any = sys.modules.get(name)
        for part in dotted.split("."):
            value = getattr(value, part, None)
        if isinstance(value, type):
            found.append(value)
    return tuple(found)


def _is_raw_variable(value: Any) -> bool:
    """Return whether a value is a variable of a framework, not of Keras."""
    return isinstance(value, _of_framework("tensorflow", "Variable") + _of_framework("torch", "nn.Parameter"))


def _state_variable(value: Any) -> Any:
    """Return the variable of a seed generator of Keras or TensorFlow; None for any other value."""
    classes = (keras.random.SeedGenerator, *_of_framework("tensorflow", "random.Generator"))
    return getattr(value, "state", None) if isinstance(value, classes) else None


def _is_stateful(value: Any) -> bool:
    """Return whether a value is an object of PyTorch with a `state_dict`. Keras's layers are more than that."""
    if isinstance(value, keras.layers.Layer):
        return False
    classes = ("nn.Module", "optim.Optimizer", "optim.lr_scheduler.LRScheduler", "amp.GradScaler")
    return isinstance(value, _of_framework("torch", *classes))
