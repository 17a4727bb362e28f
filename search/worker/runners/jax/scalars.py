"""The dynamic scalars of a model on JAX: numbers of Keras's layers, regularizers and optimizers that trials draw.

Each of them, as an input of a program, gives the bits that it gives as a constant. A number that does not stays a
constant: XLA merges some constants with their neighbours (`clipnorm`), and LLVM rounds sums of products with constants
otherwise (RMSprop).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import keras
from keras import layers, optimizers, regularizers
from keras.optimizers import schedules

from search.worker.keras_internals import calls_of_layers, flatten_layers, learning_rate_of
from search.worker.runners.dynamic_sizes import DynamicScalar, DynamicSizes

__all__ = ["find_dynamic_scalars"]

_Names = Mapping[type, tuple[str, ...]]

_OF_LAYERS: _Names = {
    layers.BatchNormalization: ("momentum", "epsilon"),
    layers.Dropout: ("rate",),
    layers.ELU: ("alpha",),
    layers.GaussianDropout: ("rate",),
    layers.GaussianNoise: ("stddev",),
    layers.LayerNormalization: ("epsilon",),
    layers.LeakyReLU: ("negative_slope",),
    layers.SpatialDropout1D: ("rate",),
    layers.SpatialDropout2D: ("rate",),
    layers.SpatialDropout3D: ("rate",),
}
_DROPOUTS = {layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D}

_BEFORE_DROPOUTS = {
    layers.Activation,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.Conv1D,
    layers.Conv2D,
    layers.Dense,
    layers.Embedding,
    layers.GRU,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.InputLayer,
    layers.LSTM,
    layers.LeakyReLU,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.ReLU,
    layers.SeparableConv2D,
}
"""Layers before a dropout. Behind others (a normalization) a rate is a constant: its gradient's bits would differ."""

_ACTIVATIONS_BEFORE_DROPOUTS = {"gelu", "linear", "relu", "sigmoid", "silu", "tanh"}

_OF_REGULARIZERS: _Names = {
    regularizers.L1: ("l1",),
    regularizers.L2: ("l2",),
    regularizers.L1L2: ("l1", "l2"),
}
_OF_OPTIMIZERS: _Names = {
    optimizers.Adadelta: (),
    optimizers.Adagrad: ("epsilon",),
    optimizers.Adam: ("beta_1", "beta_2", "epsilon"),
    optimizers.AdamW: ("beta_1", "beta_2", "epsilon"),
    optimizers.Adamax: ("beta_1", "beta_2", "epsilon"),
    optimizers.Lion: ("beta_1", "beta_2"),
    optimizers.Nadam: ("beta_1", "beta_2", "epsilon"),
    optimizers.RMSprop: (),
    optimizers.SGD: ("momentum",),
}
_OF_SCHEDULES: _Names = {
    schedules.ExponentialDecay: ("initial_learning_rate", "decay_steps", "decay_rate"),
    schedules.PolynomialDecay: ("initial_learning_rate", "decay_steps", "end_learning_rate", "power"),
}


def find_dynamic_scalars(model: Any) -> DynamicSizes:
    """Return the dynamic scalars of a model that is built and compiled. They are all that is dynamic on JAX."""
    return DynamicSizes(scalars=tuple(filter(_may_differ, _scalars(model))))


def _scalars(model: Any) -> Iterator[DynamicScalar]:
    makers = {id(tensor): call for call in calls_of_layers(model) for tensor in call.outputs}
    inputs = {id(call.operation): call.input_tensors for call in makers.values()}
    for layer in flatten_layers(model):
        if layer.compute_dtype != "float32":
            continue  # a number would be rounded twice
        if type(layer) not in _DROPOUTS or _drops_out_known(inputs.get(id(layer), ()), makers):
            yield from _scalars_of(layer, _OF_LAYERS)
    regularizers_by_id = {id(variable.regularizer): variable.regularizer for variable in model.trainable_variables}
    for regularizer in regularizers_by_id.values():
        yield from _scalars_of(regularizer, _OF_REGULARIZERS)
    optimizer = model.optimizer
    yield from _scalars_of(optimizer, _OF_OPTIMIZERS)
    if type(optimizer) in _OF_OPTIMIZERS:
        yield DynamicScalar(optimizer, "clipvalue")
        if optimizer.use_ema:
            yield DynamicScalar(optimizer, "ema_momentum")
        yield from _scalars_of(learning_rate_of(optimizer), _OF_SCHEDULES)


def _drops_out_known(tensors: Sequence[Any], makers: Mapping[int, Any]) -> bool:
    """Return whether a dropout's input comes from a layer before which its rate may be dynamic."""
    maker = makers.get(id(tensors[0])) if len(tensors) == 1 else None
    while maker is not None and type(maker.operation) is layers.Flatten:
        maker = makers.get(id(maker.input_tensors[0]))
    if maker is None or type(maker.operation) not in _BEFORE_DROPOUTS:
        return False
    activation = getattr(maker.operation, "activation", keras.activations.linear)
    return getattr(activation, "__name__", "") in _ACTIVATIONS_BEFORE_DROPOUTS


def _scalars_of(owner: Any, names: _Names) -> Iterator[DynamicScalar]:
    for name in names.get(type(owner), ()):
        yield DynamicScalar(owner, name)


def _may_differ(scalar: DynamicScalar) -> bool:
    """Return whether a scalar has a value as most have. Keras asks whether some are None, 0, 1 or a whole number.

    A dropout with a rate of 0.5 doubles what it keeps. XLA treats powers of two otherwise than other factors.
    """
    value = vars(scalar.owner)[scalar.name]
    is_number = isinstance(value, float) or (isinstance(value, jax.Array) and value.shape == ())
    is_count = scalar.name == "decay_steps" and type(value) is int
    if not (is_number or is_count) or not value > 0 or value == 1:
        return False
    return type(scalar.owner) not in _DROPOUTS or math.frexp(1 - value)[0] != 0.5
