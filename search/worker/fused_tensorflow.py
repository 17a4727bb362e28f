"""Fused epochs on TensorFlow, equal to `model.fit` to the last bit on CPU.

Training and validation are a `tf.function` each; the last, smaller batch has a dynamic size, so each step is traced
once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.data import Split
from search.worker.fit import Plan
from search.worker.fused import has_own_steps, logs_of, on_device

__all__ = ["TensorFlowLoops"]


class TensorFlowLoops:
    """See `search.worker.fused.Loops`."""

    def __init__(self, model: Any, plan: Plan) -> None:
        _create_variables(model, plan)
        self._train = _loop(model, model.train_step, plan.arrays.packed, plan.batch_size)
        if plan.validation is not None:
            assert isinstance(plan.validation, Split), "streams are not fused"
            self._validate = _loop(model, model.test_step, plan.validation.packed, plan.validation_batch_size)

    def train(self, order: Any) -> dict[str, Any]:
        logs: dict[str, Any] = self._train(tf.constant(order))
        return logs

    def validate(self) -> dict[str, Any]:
        logs: dict[str, Any] = self._validate()
        return logs


def _create_variables(model: Any, plan: Plan) -> None:
    """Create what training adds to the model's variables: a function that does so is traced twice.

    What steps of the user's make of the data is theirs to know, so what they need is left to the trace.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if has_own_steps(model):
        return
    batch = keras.tree.map_structure(_spec, plan.arrays.packed)
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    outputs = getattr(model, "outputs", None)  # of a functional or sequential model
    if outputs is None or len(outputs) != 1 or y is None or keras.tree.is_nested(y):
        with suppress(Exception):  # what cannot be used is said when it is trained on
            model._symbolic_build(data_batch=batch)
        return
    # The same for one output, in a tenth of the time.
    for part in (model._compile_metrics, model._compile_loss):
        if part is not None and not part.built:
            part.build(y, model(x))


def _spec(array: Any) -> Any:
    return keras.KerasTensor((None, *array.shape[1:]), array.dtype.name)


def _loop(model: Any, step: Any, packed: Any, batch_size: int) -> Any:
    """A function of the samples' order (by default the natural one) that runs `step` on every batch of `packed`.

    It returns the epoch's logs as tensors.
    """
    # Keras compiles with XLA what its "auto" resolves to: nothing where there are only CPUs (it is slower there),
    # else the step. To compile the same unit here keeps both runners equal.
    if model.jit_compile:
        step = tf.function(step, autograph=False, reduce_retracing=True, jit_compile=True)
    data = on_device(packed, _tensor)
    samples = int(keras.tree.flatten(data)[0].shape[0])
    steps = -(-samples // batch_size)
    # Where a step's own logs count, those of the last one: it is traced once more, after the loop.
    looped = steps - has_own_steps(model)

    def run(order: Any = None) -> Any:
        def take(i: Any) -> Any:
            part = slice(i * batch_size, tf.minimum((i + 1) * batch_size, samples))
            if order is None:
                return step(keras.tree.map_structure(lambda array: array[part], data))
            indices = order[part]
            return step(keras.tree.map_structure(lambda array: tf.gather(array, indices), data))

        def body(i: Any) -> tuple[Any]:
            take(i)
            return (i + 1,)

        # One iteration at a time: each reads the weights that the one before wrote.
        tf.while_loop(lambda i: i < looped, body, (tf.constant(0),), parallel_iterations=1)
        last = take(tf.constant(looped)) if looped < steps else None
        return logs_of(model, last)

    function = tf.function(run, autograph=False)
    function._omit_frequent_tracing_warning = True  # each model has one of this name
    return function


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    """The array on the device; where that is the processor, its own memory, if TensorFlow can use it as it lies."""
    aligned = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable
    if aligned and array.dtype.kind in "fiu" and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


_ALIGNMENT = 64
"""Bytes: what TensorFlow's vectorised code counts on."""
