"""Placeholders: variables and numbers that take the place of a model's own, and may have dynamic sizes.

A graph that is traced with placeholders belongs to no model. It serves all models with the same key, one at a time: a
model has the placeholders as its variables until another model needs them.

Size-dependent branches of Keras behave as in a static graph, for all sizes that `search.worker.runners.dynamic_sizes`
finds. So the results are those of a static graph, to the last bit.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.runners.dynamic_sizes import DynamicScalar, DynamicSizes
from search.worker.runners.tensorflow.internals import (
    index_slots,
    own_operations,
    replace_attribute,
    replace_operations,
    replace_slot_indices,
    replace_variable,
    seeds_of,
    set_value,
)

__all__ = ["Placeholders", "variables_of"]


class Placeholders:
    """Placeholders for the variables and the dynamic scalars of a model.

    Args:
        model: a built and compiled model, with all variables that training needs.
        dynamic_sizes: the dynamic sizes of that model.
    """

    def __init__(self, model: Any, dynamic_sizes: DynamicSizes) -> None:
        self._variables = [
            tf.Variable(
                variable.value,
                shape=tf.TensorShape(dynamic_sizes.shape(variable)),
                dtype=variable.value.dtype,
                trainable=variable.trainable,
            )
            for variable in variables_of(model)
        ]
        self._scalars = [_ScalarPlaceholder(scalar) for scalar in dynamic_sizes.scalars]
        # The attached model's variables, each with its own `tf.Variable`, which is given back. A new one would cost
        # TensorFlow 1 ms: it makes a kernel for each name and shape.
        self._replaced: weakref.WeakKeyDictionary[Any, list[tuple[Any, Any]]] = weakref.WeakKeyDictionary()

    @property
    def handles(self) -> list[Any]:
        """The handles of all placeholders, as a graph captures them."""
        scalars = [variable for scalar in self._scalars for variable in scalar.variables]
        return [variable.handle for variable in (*self._variables, *scalars)]

    @contextmanager
    def substituted_in(self, model: Any, dynamic_sizes: DynamicSizes) -> Iterator[None]:
        """Trace within this context: all that reads the model meets placeholders. Afterwards the model is restored."""
        with ExitStack() as restored:
            for variable, placeholder in zip(variables_of(model), self._variables, strict=True):
                replace_variable(restored, variable, placeholder, dynamic_sizes.shape(variable))
            replace_slot_indices(restored, model.optimizer)
            for width in dynamic_sizes.widths:
                replace_attribute(restored, width.owner, width.name, -1)  # a reshape infers it
            for scalar, placeholder in zip(dynamic_sizes.scalars, self._scalars, strict=True):
                replace_attribute(restored, scalar.owner, scalar.name, placeholder.attribute)
            operations = _operations()
            replace_operations(restored, add=operations.add, dropout=operations.dropout)
            yield

    def attach(self, model: Any, dynamic_sizes: DynamicSizes) -> None:
        """Make the placeholders a model's variables, with its values.

        The model that had them gets its own variables back, with the placeholders' values.

        Args:
            model, dynamic_sizes: with the same key as those that the placeholders were made for.
        """
        if _attached.get(model) is self:
            return
        for other in list(self._replaced):
            self.detach(other)
        if (previous := _attached.get(model)) is not None:
            previous.detach(model)
        variables = variables_of(model)
        self._replaced[model] = [(variable, variable.value) for variable in variables]
        for variable, placeholder in zip(variables, self._variables, strict=True):
            placeholder.assign(variable.value)
            set_value(variable, placeholder)
        index_slots(model.optimizer)
        for placeholder, scalar in zip(self._scalars, dynamic_sizes.scalars, strict=True):
            placeholder.assign(scalar.value)
        _attached[model] = self

    def detach(self, model: Any) -> None:
        """Give a model that has the placeholders its own variables back, with the placeholders' values."""
        del _attached[model]
        for (variable, own), placeholder in zip(self._replaced.pop(model), self._variables, strict=True):
            own.assign(placeholder)
            set_value(variable, own)
        index_slots(model.optimizer)


_attached: weakref.WeakKeyDictionary[Any, Placeholders] = weakref.WeakKeyDictionary()
"""The placeholders that a model has as its variables."""


def variables_of(model: Any) -> list[Any]:
    """Return all variables that training changes, each once: of the model, of its metrics and of its optimizer."""
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


class _ScalarPlaceholder:
    """The placeholder of a dynamic scalar. Its values are rounded as a constant in the graph would be.

    Attributes:
        variables: the variables that a graph captures: the scalar, and for a dropout's rate 1 / (1 - rate), too.
        attribute: the value of the owner's attribute during tracing.
    """

    def __init__(self, scalar: DynamicScalar) -> None:
        is_rate = isinstance(scalar.owner, keras.layers.Dropout)
        self.variables = [tf.Variable(0.0) for _ in range(1 + is_rate)]
        self.assign(scalar.value)
        self.attribute = _DynamicRate(scalar.value, *self.variables) if is_rate else self.variables[0]

    def assign(self, value: float) -> None:
        values = (value, 1 / (1 - value)) if len(self.variables) == 2 else (value,)
        for variable, number in zip(self.variables, values, strict=True):
            variable.assign(np.float32(number))


class _DynamicRate(float):
    """A dropout's rate: a float that the layer can compare.

    Attributes:
        variable: the rate in the graph.
        scale: 1 / (1 - rate) in the graph.
    """

    def __new__(cls, value: float, variable: Any, scale: Any) -> _DynamicRate:
        rate = super().__new__(cls, value)
        rate.variable, rate.scale = variable, scale
        return rate

    variable: Any
    scale: Any


# Keras's operations on dynamic sizes and scalars ----------------------------------------------------------------------


class _Operations:
    """Keras's `add` and `dropout`, which also take dynamic sizes and scalars."""

    def __init__(self) -> None:
        self._add, self._dropout = own_operations()

    @functools.cached_property
    def _uses_bias_add(self) -> bool:
        """True if this version of Keras recognizes a bias by its size, and adds it by TensorFlow's `BiasAdd`."""
        with tf.Graph().as_default():
            added = self._add(*(tf.compat.v1.placeholder(tf.float32, shape) for shape in ((None, 2), (2,))))
            return bool(added.op.type == "BiasAdd")

    def add(self, x1: Any, x2: Any) -> Any:
        """Add as Keras's `add` does for static sizes: a bias by `BiasAdd`."""
        one, bias = (tuple(getattr(x, "shape", ())) for x in (x1, x2))
        is_bias = len(bias) > 0 and bias[-1] is None and all(size == 1 for size in bias[:-1])
        if len(one) > 1 and one[-1] is None and is_bias and self._uses_bias_add:
            return tf.nn.bias_add(tf.convert_to_tensor(x1), tf.reshape(x2, [-1]))
        return self._add(x1, x2)

    def dropout(self, inputs: Any, rate: Any, noise_shape: Any = None, seed: Any = None) -> Any:
        """Drop out as Keras's `dropout` does for a constant rate: by a multiplication. By a tensor it would divide."""
        if not isinstance(rate, _DynamicRate):
            return self._dropout(inputs, rate, noise_shape, seed)
        random = tf.random.stateless_uniform(tf.shape(inputs), seeds_of(seed), dtype=inputs.dtype, alg="auto_select")
        return tf.where(random >= rate.variable, inputs * rate.scale, tf.zeros([], inputs.dtype))


@functools.cache
def _operations() -> _Operations:
    return _Operations()
