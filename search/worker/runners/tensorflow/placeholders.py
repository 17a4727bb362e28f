"""Tracing a model on TensorFlow with stand-ins: variables, and numbers, that are not its own and may have open sizes.

What is traced so belongs to no model: it serves every one with the same signature, which has the stand-ins as its
variables until another one needs them.

What Keras does by a size that is open here, it does as it would by any size that `search.worker.runners.dynamic_sizes` opens: then
the results are those of a graph that knows it, to the last bit.
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
from keras.src.backend.tensorflow import numpy as keras_numpy
from keras.src.backend.tensorflow import random as keras_random

from search.worker.runners.dynamic_sizes import DynamicSizes, Scalar

__all__ = ["Placeholders"]


class Placeholders:
    """Stand-ins for the variables and the open numbers of a model.

    Args:
        model: built and compiled, with all variables that training needs.
        freedom: what is open of it.
    """

    def __init__(self, model: Any, freedom: DynamicSizes) -> None:
        self._variables = [
            tf.Variable(
                variable.value,
                shape=tf.TensorShape(freedom.shape(variable)),
                dtype=variable.value.dtype,
                trainable=variable.trainable,
            )
            for variable in _variables_of(model)
        ]
        self._numbers = [_Number(scalar) for scalar in freedom.scalars]
        # The variables of the model that has them, each with what they stand in for. A new one in its place would cost
        # TensorFlow 1 ms: it makes a kernel for each name and shape.
        self._replaced: weakref.WeakKeyDictionary[Any, list[tuple[Any, Any]]] = weakref.WeakKeyDictionary()

    @property
    def handles(self) -> list[Any]:
        """Those of all variables, as a graph captures them."""
        made = [variable for number in self._numbers for variable in number.variables]
        return [variable.handle for variable in (*self._variables, *made)]

    @contextmanager
    def in_place_of(self, model: Any, freedom: DynamicSizes) -> Iterator[None]:
        """Have all that is traced meet the stand-ins; at the end the model is as it was."""
        with ExitStack() as restored:
            for variable, stand_in in zip(_variables_of(model), self._variables, strict=True):
                _replace(restored, variable, "_value", stand_in)
                _replace(restored, variable, "_shape", freedom.shape(variable))
            _replace(restored, model.optimizer, "_trainable_variables_indices", {})
            _index(model.optimizer)
            for width in freedom.widths:
                _replace(restored, width.owner, width.name, -1)  # to a reshape: what is left
            for scalar, number in zip(freedom.scalars, self._numbers, strict=True):
                _replace(restored, scalar.owner, scalar.name, number.stand_in)
            _replace(restored, keras_numpy, "add", _add)
            _replace(restored, keras_random, "dropout", _dropout)
            yield

    def lend(self, model: Any, freedom: DynamicSizes) -> None:
        """Make them a model's variables, with its values. The model that has them gets its own back, with theirs.

        Args:
            model, freedom: with the same signature as those that the stand-ins were made for.
        """
        if _lenders.get(model) is self:
            return
        for borrower in list(self._replaced):
            self._take_back(borrower)
        if (lender := _lenders.get(model)) is not None:
            lender._take_back(model)
        variables = _variables_of(model)
        self._replaced[model] = [(variable, variable.value) for variable in variables]
        for variable, stand_in in zip(variables, self._variables, strict=True):
            stand_in.assign(variable.value)
            variable._value = stand_in
        _index(model.optimizer)
        for number, scalar in zip(self._numbers, freedom.scalars, strict=True):
            number.put(scalar.value)
        _lenders[model] = self

    def _take_back(self, model: Any) -> None:
        del _lenders[model]
        for (variable, own), stand_in in zip(self._replaced.pop(model), self._variables, strict=True):
            own.assign(stand_in)
            variable._value = own
        _index(model.optimizer)


_lenders: weakref.WeakKeyDictionary[Any, Placeholders] = weakref.WeakKeyDictionary()
"""Whose stand-ins a model has."""


def _variables_of(model: Any) -> list[Any]:
    """All that training changes: of the model, of its metrics and of its optimizer, each once."""
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _index(optimizer: Any) -> None:
    """Tell an optimizer which of its slots are whose: it knows that by the addresses of variables."""
    variables = optimizer._trainable_variables
    optimizer._trainable_variables_indices = {optimizer._var_key(each): i for i, each in enumerate(variables)}


def _replace(restored: ExitStack, owner: Any, name: str, value: Any) -> None:
    attributes = vars(owner)  # past what Keras does when an attribute is set
    restored.callback(attributes.__setitem__, name, attributes[name])
    attributes[name] = value


class _Number:
    """What stands in for an open number. Each is rounded as a constant in the graph would be."""

    def __init__(self, scalar: Scalar) -> None:
        is_rate = isinstance(scalar.owner, keras.layers.Dropout)
        self.variables = [tf.Variable(0.0) for _ in range(1 + is_rate)]
        self.put(scalar.value)
        self.stand_in = _Rate(scalar.value, *self.variables) if is_rate else self.variables[0]

    def put(self, value: float) -> None:
        numbers = (value, 1 / (1 - value)) if len(self.variables) == 2 else (value,)
        for variable, number in zip(self.variables, numbers, strict=True):
            variable.assign(np.float32(number))


class _Rate(float):
    """A dropout's rate, which its layer compares. The graph has it as `variable`, and 1 / (1 - rate) as `scale`."""

    def __new__(cls, value: float, variable: Any, scale: Any) -> _Rate:
        made = super().__new__(cls, value)
        made.variable, made.scale = variable, scale
        return made

    variable: Any
    scale: Any


# What Keras does by a number or a size that is open here --------------------------------------------------------------

_keras_add = keras_numpy.add
_keras_dropout = keras_random.dropout


@functools.cache
def _knows_biases() -> bool:
    """Whether this version of Keras takes a bias for one by its size, and has TensorFlow add it as one."""
    with tf.Graph().as_default():
        added = _keras_add(*(tf.compat.v1.placeholder(tf.float32, shape) for shape in ((None, 2), (2,))))
        return bool(added.op.type == "BiasAdd")


def _add(x1: Any, x2: Any) -> Any:
    """Keras's `add`."""
    one, bias = (tuple(getattr(x, "shape", ())) for x in (x1, x2))
    is_bias = len(bias) > 0 and bias[-1] is None and all(size == 1 for size in bias[:-1])
    if len(one) > 1 and one[-1] is None and is_bias and _knows_biases():
        return tf.nn.bias_add(tf.convert_to_tensor(x1), tf.reshape(x2, [-1]))
    return _keras_add(x1, x2)


def _dropout(inputs: Any, rate: Any, noise_shape: Any = None, seed: Any = None) -> Any:
    """Keras's `dropout`, which would divide by a rate that is a tensor, and multiplies for one that is not."""
    if not isinstance(rate, _Rate):
        return _keras_dropout(inputs, rate, noise_shape, seed)
    seeds = keras_random._cast_seed(keras_random.draw_seed(seed))
    random = tf.random.stateless_uniform(tf.shape(inputs), seeds, dtype=inputs.dtype, alg="auto_select")
    return tf.where(random >= rate.variable, inputs * rate.scale, tf.zeros([], inputs.dtype))
