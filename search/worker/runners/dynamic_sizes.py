"""Dynamic sizes of a model's graph: the widths of hidden layers, the rates of dropouts, the factors of penalties.

A search draws just these for every trial. A graph that leaves them dynamic serves all trials whose models are otherwise
the same: it is traced once, not once per trial.

A width is dynamic only between layers that are known to read no width while they are traced. Keras decides some things
by the size of a dimension (whether one of 1 is dropped, how a bias is added). So three widths stay static: a width of
1, the width of the model's output, and any width that another layer sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers, optimizers, regularizers

from search.worker.keras_internals import calls_of_layers, flatten_layers

__all__ = ["ELEMENTWISE_OPTIMIZERS", "DynamicScalar", "DynamicSizes", "find_dynamic_sizes"]

_WIDTH_ATTRIBUTES = {layers.Dense: "units", layers.Conv1D: "filters", layers.Conv2D: "filters"}
"""Layers that set the width of their output (the size of its last dimension), and the attribute for it."""

_WIDTH_PRESERVING = {
    layers.Activation,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.BatchNormalization,
    layers.Dropout,
    layers.ELU,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.LeakyReLU,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.ReLU,
}
"""Layers whose output has a dynamic width if their input has."""

ELEMENTWISE_OPTIMIZERS = {
    optimizers.Adadelta,
    optimizers.Adagrad,
    optimizers.Adam,
    optimizers.AdamW,
    optimizers.Adamax,
    optimizers.Ftrl,
    optimizers.Lion,
    optimizers.Nadam,
    optimizers.RMSprop,
    optimizers.SGD,
}
"""Optimizers whose slots have the shape of the variable that they belong to, whatever it is."""

_PENALTY_ATTRIBUTES = {regularizers.L1: "l1", regularizers.L2: "l2"}


@dataclass(frozen=True, slots=True)
class DynamicScalar:
    """A number that may differ between models of one graph: an attribute of a layer, a regularizer or an optimizer."""

    owner: Any
    name: str

    @property
    def value(self) -> float:
        return float(vars(self.owner)[self.name])

    @contextmanager
    def replaced(self, value: float) -> Iterator[None]:
        """Give the attribute another value within, past Keras's `__setattr__`."""
        attributes = vars(self.owner)
        before = attributes[self.name]
        attributes[self.name] = value
        try:
            yield
        finally:
            attributes[self.name] = before


@dataclass(frozen=True, slots=True)
class DynamicSizes:
    """All that the graph of a model leaves dynamic.

    Attributes:
        dimensions: for each variable with dynamic dimensions, by its identity: whether each dimension is one.
        widths: the widths of layers that are dynamic.
        scalars: the scalars that are dynamic. Models with the same key have as many, in the same order.
    """

    dimensions: Mapping[int, tuple[bool, ...]] = field(default_factory=dict)
    widths: tuple[DynamicScalar, ...] = ()
    scalars: tuple[DynamicScalar, ...] = ()

    def attributes(self) -> set[tuple[int, str]]:
        """Return the attributes that are dynamic: (identity of the owner, name of the attribute)."""
        return {(id(scalar.owner), scalar.name) for scalar in (*self.widths, *self.scalars)}

    def shape(self, variable: Any) -> tuple[int | None, ...]:
        """Return a variable's shape, with None for dynamic sizes."""
        shape = tuple(variable.shape)
        is_dynamic = self.dimensions.get(id(variable), (False,) * len(shape))
        return tuple(None if dynamic else size for size, dynamic in zip(shape, is_dynamic, strict=True))


def find_dynamic_sizes(model: Any) -> DynamicSizes:
    """Return the dynamic sizes of a model that is built and compiled, with its optimizer built."""
    nodes = _nodes(model)
    wide_layers = _layers_with_dynamic_width(model, nodes)
    return DynamicSizes(
        dimensions=dict(_dynamic_dimensions(model, nodes, wide_layers)),
        widths=tuple(DynamicScalar(layer, _WIDTH_ATTRIBUTES[type(layer)]) for layer in wide_layers),
        scalars=(*_rates(model), *_penalties(model), *_decays(model)),
    )


def _nodes(model: Any) -> list[Any]:
    """Return the calls of layers and other operations that make up a model, in their order.

    The list is empty if the calls are not known, or if a layer is called twice.
    """
    nodes = calls_of_layers(model)
    return nodes if len({id(node.operation) for node in nodes}) == len(nodes) else []


def _layers_with_dynamic_width(model: Any, nodes: list[Any]) -> list[Any]:
    """Return the layers whose width no later layer reads."""
    if type(model.optimizer) not in ELEMENTWISE_OPTIMIZERS or model.optimizer.gradient_accumulation_steps:
        return []
    read = {id(tensor) for tensor in keras.tree.flatten(getattr(model, "outputs", None))}
    found = []
    for node in reversed(nodes):
        layer = node.operation
        is_read = any(id(tensor) in read for tensor in node.outputs)
        if _sets_width(layer):
            if not is_read and getattr(layer, _WIDTH_ATTRIBUTES[type(layer)]) > 1:
                found.append(layer)
        elif is_read or not _preserves_width(layer):
            read.update(id(tensor) for tensor in node.input_tensors)
    return found[::-1]


def _sets_width(layer: Any) -> bool:
    """Return whether a layer takes inputs of any width and sets the width of its output."""
    if type(layer) not in _WIDTH_ATTRIBUTES:
        return False
    if layer.lora_enabled or getattr(layer, "quantization_mode", None) is not None:
        return False
    if type(layer) is layers.Dense:
        return bool(len(layer.input.shape) == 2)
    return bool(layer.data_format == "channels_last" and layer.groups == 1)


def _preserves_width(layer: Any) -> bool:
    if type(layer) is layers.BatchNormalization:
        return bool(layer.axis == -1 and not getattr(layer, "renorm", False))
    return type(layer) in _WIDTH_PRESERVING and getattr(layer, "data_format", "channels_last") == "channels_last"


def _dynamic_dimensions(model: Any, nodes: list[Any], wide_layers: list[Any]) -> Iterator[tuple[int, tuple[bool, ...]]]:
    """Yield (identity of a variable, whether each of its dimensions is dynamic)."""
    if not wide_layers:
        return
    setters = {id(layer) for layer in wide_layers}
    wide: set[int] = set()  # tensors with a dynamic width
    for node in nodes:
        layer = node.operation
        before = any(id(tensor) in wide for tensor in node.input_tensors)
        after = id(layer) in setters or (before and _preserves_width(layer))
        if after:
            wide.update(id(tensor) for tensor in node.outputs)
        for variable in layer.weights if before or after else ():
            ranks = len(variable.shape)
            # A kernel's last two dimensions are its input's width and its output's.
            yield id(variable), (False,) * (ranks - 2) + (before, after)[-ranks:]
    for variable in model.optimizer.variables:
        yield id(variable), (True,) * len(variable.shape)


def _rates(model: Any) -> Iterator[DynamicScalar]:
    """Yield the rates of dropouts. With other dtypes than float32 a rate would be rounded twice."""
    for layer in flatten_layers(model):
        if type(layer) is not layers.Dropout or layer.noise_shape is not None:
            continue
        if 0 < layer.rate < 1 and layer.compute_dtype == "float32":
            yield DynamicScalar(layer, "rate")


def _penalties(model: Any) -> Iterator[DynamicScalar]:
    found = {id(variable.regularizer): variable.regularizer for variable in model.trainable_variables}
    for regularizer in found.values():
        if type(regularizer) in _PENALTY_ATTRIBUTES:
            yield DynamicScalar(regularizer, _PENALTY_ATTRIBUTES[type(regularizer)])


def _decays(model: Any) -> Iterator[DynamicScalar]:
    if type(model.optimizer) in ELEMENTWISE_OPTIMIZERS and model.optimizer.weight_decay is not None:
        yield DynamicScalar(model.optimizer, "weight_decay")
