"""Fused epochs on TensorFlow, equal to `model.fit` to the last bit on CPU.

Training and validation are a `tf.function` each; batches have a dynamic size, so each step is traced once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.data.arrays import Split
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import Plan
from search.worker.runners.fused import Loops, has_own_steps, logs_of, on_device
from search.worker.runners.model_key import ModelKey
from search.worker.runners.tensorflow import graph_files as traced
from search.worker.runners.tensorflow import grappler as rewriting
from search.worker.runners.tensorflow import optimizer_updates as updates

__all__ = ["graph", "loops"]


def loops(model: Any, plan: Plan) -> Loops:
    """See `search.worker.runners.fused.Framework`."""
    _create_variables(model, plan)
    return _Loops(plan, *_functions(model, plan))


def graph(model: Any, plan: Plan, signature: ModelKey) -> _Graph:
    """See `search.worker.runners.fused.Framework`."""
    return _Graph(model, plan, signature)


class _Loops:
    """See `search.worker.runners.fused.Loops`.

    Args:
        train: a function (order of the samples, samples a batch) → logs.
        validate: a function (samples a batch) → logs.
        borrow: called before either of them.
    """

    def __init__(self, plan: Plan, train: Any, validate: Any, borrow: Callable[[], None] | None = None) -> None:
        self._train, self._validate, self._borrow = train, validate, borrow
        self._batch_size = tf.constant(plan.batch_size)
        self._validation_batch_size = tf.constant(plan.validation_batch_size)

    def train(self, order: Any) -> dict[str, Any]:
        return self._call(self._train, tf.constant(order), self._batch_size)

    def validate(self) -> dict[str, Any]:
        return self._call(self._validate, self._validation_batch_size)

    def _call(self, function: Any, *arguments: Any) -> dict[str, Any]:
        if self._borrow is not None:
            self._borrow()
        with rewriting.once():
            logs: dict[str, Any] = function(*arguments)
        return logs


class _Graph:
    """See `search.worker.runners.fused.Graph`.

    Raises:
        ValueError: it captures more of the model than its variables.
    """

    def __init__(self, model: Any, plan: Plan, signature: ModelKey) -> None:
        # It needs Keras's insides. Where a version has others, each model has a graph of its own.
        from search.worker.runners.tensorflow.placeholders import Placeholders

        _create_variables(model, plan)
        self._stand_ins = Placeholders(model, signature.freedom)
        splits = {"train": plan.arrays}
        if isinstance(plan.validation, Split):
            splits["validate"] = plan.validation
        data = {name: on_device(split.packed, _tensor) for name, split in splits.items()}
        known = {name: [*self._stand_ins.handles, *keras.tree.flatten(arrays)] for name, arrays in data.items()}
        word = signature.word, repr(keras.tree.map_structure(lambda array: (array.shape, array.dtype), data))
        functions = traced.load(word, known)
        if functions is None:
            with self._stand_ins.in_place_of(model, signature.freedom), updates.repeated(model.optimizer):
                functions = traced.keep(word, _traced(model, plan), known)
        self._functions = functions

    def loops(self, model: Any, plan: Plan, freedom: DynamicSizes) -> Loops:
        _create_variables(model, plan)
        train, validate = self._functions["train"], self._functions.get("validate")
        return _Loops(plan, train, validate, borrow=lambda: self._stand_ins.lend(model, freedom))


def _traced(model: Any, plan: Plan) -> dict[str, Any]:
    """The concrete functions of a model."""
    size = tf.TensorSpec((), tf.int32)
    train, validate = _functions(model, plan)
    made = {"train": train.get_concrete_function(tf.TensorSpec((plan.arrays.samples,), tf.int64), size)}
    if validate is not None:
        made["validate"] = validate.get_concrete_function(size)
    return made


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


def _functions(model: Any, plan: Plan) -> tuple[Any, Any]:
    """What trains an epoch and what validates after it, if anything does."""
    if plan.validation is None:
        return _training(model, plan.arrays), None
    assert isinstance(plan.validation, Split), "streams are not fused"
    return _training(model, plan.arrays), _validation(model, plan.validation)


def _training(model: Any, split: Split) -> Any:
    """A function (order, batch size) that runs `model.train_step` on every batch, and returns the epoch's logs."""
    step, data = _compiled(model, model.train_step), on_device(split.packed, _tensor)

    def run(order: Any, batch_size: Any) -> Any:
        def take(begin: Any, end: Any) -> Any:
            indices = order[begin:end]
            return step(keras.tree.map_structure(lambda array: tf.gather(array, indices), data))

        return _loop(model, take, split.samples, batch_size)

    return _function(run)


def _validation(model: Any, split: Split) -> Any:
    """A function (batch size) that runs `model.test_step` on every batch, and returns the logs."""
    step, data = _compiled(model, model.test_step), on_device(split.packed, _tensor)

    def run(batch_size: Any) -> Any:
        def take(begin: Any, end: Any) -> Any:
            return step(keras.tree.map_structure(lambda array: array[begin:end], data))

        return _loop(model, take, split.samples, batch_size)

    return _function(run)


def _compiled(model: Any, step: Any) -> Any:
    # Keras compiles with XLA what its "auto" resolves to: nothing where there are only CPUs (it is slower there),
    # else the step. To compile the same unit here keeps both runners equal.
    return tf.function(step, autograph=False, reduce_retracing=True, jit_compile=True) if model.jit_compile else step


def _function(run: Any) -> Any:
    function = tf.function(run, autograph=False)
    function._omit_frequent_tracing_warning = True  # each model has one of this name
    return function


def _loop(model: Any, take: Any, samples: int, batch_size: Any) -> Any:
    """Take every batch, by its first sample and the one after its last."""
    steps = -(-samples // batch_size)
    # Where a step's own logs count, those of the last one: it is traced once more, after the loop.
    own = has_own_steps(model)
    looped = steps - 1 if own else steps

    def batch(i: Any) -> Any:
        return take(i * batch_size, tf.minimum((i + 1) * batch_size, samples))

    def body(i: Any) -> tuple[Any]:
        batch(i)
        return (i + 1,)

    # One iteration at a time: each reads the weights that the one before wrote.
    tf.while_loop(lambda i: i < looped, body, (tf.constant(0),), parallel_iterations=1)
    return logs_of(model, batch(looped) if own else None)


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    """The array on the device; where that is the processor, its own memory, if TensorFlow can use it as it lies."""
    aligned = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable
    if aligned and array.dtype.kind in "fiu" and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


_ALIGNMENT = 64
"""Bytes: what TensorFlow's vectorised code counts on."""
