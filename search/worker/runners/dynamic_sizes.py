"""What a model's graph can leave open: the widths of hidden layers, the rates of dropouts, the factors of penalties.

A search draws just these anew for every trial. A graph that is traced with them open serves all trials whose models are
otherwise the same: it is traced once, and not for each.

A width is open only between layers that are known to read none while they are traced. Keras decides some things by the
size of a dimension (whether one of 1 is dropped, how a bias is added); so a width of 1, that of the model's output, and
those that any other layer sees, are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers, optimizers, regularizers

__all__ = ["DynamicSizes", "Scalar", "find"]

_WIDTH = {layers.Dense: "units", layers.Conv1D: "filters", layers.Conv2D: "filters"}
"""Layers that give their output its width (the size of its last dimension), and the attribute that says it."""

_PASSING = {
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
"""Layers whose output has an open width if their input has."""

ELEMENTWISE = {
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
"""Optimizers whose variables are as large as those that they are for, whatever that is."""

_KERAS = (3, 12)
"""The first version of Keras whose layers do as these here are known to."""

_PENALTY = {regularizers.L1: "l1", regularizers.L2: "l2"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number that is open: an attribute of a layer, a regularizer or an optimizer."""

    owner: Any
    name: str

    @property
    def value(self) -> float:
        return float(vars(self.owner)[self.name])


@dataclass(frozen=True, slots=True)
class DynamicSizes:
    """What is open of a model.

    Attributes:
        sizes: which of its dimensions, of each variable that has open ones, by its identity.
        widths: the layers with an open width.
        scalars: as many, in the same order, for all models that differ only in what is open.
    """

    sizes: Mapping[int, tuple[bool, ...]] = field(default_factory=dict)
    widths: tuple[Scalar, ...] = ()
    scalars: tuple[Scalar, ...] = ()

    def attributes(self) -> set[tuple[int, str]]:
        """Where what is open is said: an owner's identity and the name of its attribute."""
        return {(id(scalar.owner), scalar.name) for scalar in (*self.widths, *self.scalars)}

    def shape(self, variable: Any) -> tuple[int | None, ...]:
        """A variable's shape, with None for what is open."""
        shape = tuple(variable.shape)
        is_open = self.sizes.get(id(variable), (False,) * len(shape))
        return tuple(None if free else size for size, free in zip(shape, is_open, strict=True))


def find(model: Any) -> DynamicSizes:
    """What is open of a model that is built and compiled, its optimizer built, too."""
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) < _KERAS:
        return DynamicSizes()
    nodes = _nodes(model)
    widths = _open_widths(model, nodes)
    return DynamicSizes(
        sizes=dict(_open_sizes(model, nodes, widths)),
        widths=tuple(Scalar(layer, _WIDTH[type(layer)]) for layer in widths),
        scalars=(*_rates(model), *_penalties(model), *_decays(model)),
    )


def _nodes(model: Any) -> list[Any]:
    """The calls of layers and other operations that a model is made of, in their order; none where they are not known,
    or one layer is called twice."""
    by_depth = getattr(getattr(model, "_functional", model), "_nodes_by_depth", {})
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return nodes if len({id(node.operation) for node in nodes}) == len(nodes) else []


def _open_widths(model: Any, nodes: list[Any]) -> list[Any]:
    """The layers whose width nothing reads that comes after them."""
    if type(model.optimizer) not in ELEMENTWISE or model.optimizer.gradient_accumulation_steps:
        return []
    read = {id(tensor) for tensor in keras.tree.flatten(getattr(model, "outputs", None))}
    found = []
    for node in reversed(nodes):
        layer = node.operation
        is_read = any(id(tensor) in read for tensor in node.outputs)
        if _gives_width(layer):
            if not is_read and getattr(layer, _WIDTH[type(layer)]) > 1:
                found.append(layer)
        elif is_read or not _passes_width(layer):
            read.update(id(tensor) for tensor in node.input_tensors)
    return found[::-1]


def _gives_width(layer: Any) -> bool:
    """Whether it takes inputs of any width and gives its outputs another."""
    if type(layer) not in _WIDTH or layer.lora_enabled or getattr(layer, "quantization_mode", None) is not None:
        return False
    if type(layer) is layers.Dense:
        return bool(len(layer.input.shape) == 2)
    return bool(layer.data_format == "channels_last" and layer.groups == 1)


def _passes_width(layer: Any) -> bool:
    if type(layer) is layers.BatchNormalization:
        return bool(layer.axis == -1 and not getattr(layer, "renorm", False))
    return type(layer) in _PASSING and getattr(layer, "data_format", "channels_last") == "channels_last"


def _open_sizes(model: Any, nodes: list[Any], widths: list[Any]) -> Iterator[tuple[int, tuple[bool, ...]]]:
    if not widths:
        return
    givers = {id(layer) for layer in widths}
    wide: set[int] = set()  # the tensors with an open width
    for node in nodes:
        layer = node.operation
        before = any(id(tensor) in wide for tensor in node.input_tensors)
        after = id(layer) in givers or (before and _passes_width(layer))
        if after:
            wide.update(id(tensor) for tensor in node.outputs)
        for variable in layer.weights if before or after else ():
            ranks = len(variable.shape)
            # A kernel's last two dimensions are its input's width and its output's.
            yield id(variable), (False,) * (ranks - 2) + (before, after)[-ranks:]
    for variable in model.optimizer.variables:
        yield id(variable), (True,) * len(variable.shape)


def _rates(model: Any) -> Iterator[Scalar]:
    """Of dropouts. Other dtypes would round a rate twice."""
    for layer in model._flatten_layers():
        if type(layer) is not layers.Dropout or layer.noise_shape is not None:
            continue
        if 0 < layer.rate < 1 and layer.compute_dtype == "float32":
            yield Scalar(layer, "rate")


def _penalties(model: Any) -> Iterator[Scalar]:
    found = {id(variable.regularizer): variable.regularizer for variable in model.trainable_variables}
    for regularizer in found.values():
        if type(regularizer) in _PENALTY:
            yield Scalar(regularizer, _PENALTY[type(regularizer)])


def _decays(model: Any) -> Iterator[Scalar]:
    if type(model.optimizer) in ELEMENTWISE and model.optimizer.weight_decay is not None:
        yield Scalar(model.optimizer, "weight_decay")
