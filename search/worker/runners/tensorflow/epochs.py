"""Fused epochs on TensorFlow, equal to `model.fit` to the last bit on CPU.

Training and validation are a `tf.function` each. Batches of arrays have a dynamic size, those of streams the shape that
the stream states, so each step is traced once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.data.arrays import Split
from search.worker.data.streams import Stream
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import TrainingPlan
from search.worker.runners.fused import Loops, copy_to_device, create_metric_variables, epoch_logs, has_own_steps
from search.worker.runners.model_key import ModelKey
from search.worker.runners.tensorflow.comparison import MAX_SAMPLES, trains_alike
from search.worker.runners.tensorflow.graph_files import load_functions, save_functions
from search.worker.runners.tensorflow.grappler import light_grappler
from search.worker.runners.tensorflow.internals import expect_retracing
from search.worker.runners.tensorflow.optimizer_updates import repeated_updates
from search.worker.runners.tensorflow.placeholders import Placeholders
from search.worker.runners.tensorflow.streams import example_batch, stream_function, stream_signature

__all__ = ["make_loops", "make_shared_graph"]


def make_loops(model: Any, plan: TrainingPlan) -> Loops:
    """Return loops of the model's own, see `search.worker.runners.fused.Framework`."""
    _create_variables(model, plan)
    return _Loops(plan, *_epoch_functions(model, plan))


def make_shared_graph(model: Any, plan: TrainingPlan, model_key: ModelKey) -> _SharedGraph:
    """Return a graph for all models with this key, see `search.worker.runners.fused.Framework`."""
    return _SharedGraph(model, plan, model_key)


class _Loops:
    """Loops as in `search.worker.runners.fused.Loops`.

    Args:
        train: a function (order of the samples, batch size) → logs; for a stream as below.
        validate: a function (batch size) → logs; for a stream as below.
        attach: called before either of them.

    For a stream, both are functions (iterator, most batches) → (batches, logs).
    """

    def __init__(self, plan: TrainingPlan, train: Any, validate: Any, attach: Callable[[], None] | None = None) -> None:
        self._train, self._validate, self._attach = train, validate, attach
        self._batch_size = tf.constant(plan.batch_size)
        self._validation_batch_size = tf.constant(plan.validation_batch_size)
        self._signatures = _signatures(plan)

    def prepare(self) -> None:
        for function, arguments in zip((self._train, self._validate), self._signatures, strict=True):
            if hasattr(function, "get_concrete_function"):  # else it is traced
                function.get_concrete_function(*arguments)

    def train(self, order: Any) -> dict[str, Any]:
        logs: dict[str, Any] = self._call(self._train, tf.constant(order), self._batch_size)
        return logs

    def validate(self) -> dict[str, Any]:
        logs: dict[str, Any] = self._call(self._validate, self._validation_batch_size)
        return logs

    def train_on(self, iterator: Any, batches: int) -> tuple[int, dict[str, Any]]:
        """Train on the next batches of a stream. Return how many these were, and the logs."""
        return self._read(self._train, iterator, batches)

    def validate_on(self, iterator: Any, batches: int) -> tuple[int, dict[str, Any]]:
        """Validate on the next batches of a stream. Return how many these were, and the logs."""
        return self._read(self._validate, iterator, batches)

    def _read(self, function: Any, iterator: Any, batches: int) -> tuple[int, dict[str, Any]]:
        found, logs = self._call(function, iterator, tf.constant(batches, tf.int64))
        return int(found), logs

    def _call(self, function: Any, *arguments: Any) -> Any:
        if self._attach is not None:
            self._attach()
        with light_grappler():
            return function(*arguments)


class _SharedGraph:
    """A graph as in `search.worker.runners.fused.SharedGraph`.

    Raises:
        ValueError: the graph captures more of the model than its variables.
    """

    def __init__(self, model: Any, plan: TrainingPlan, model_key: ModelKey) -> None:
        _create_variables(model, plan)
        self._placeholders = Placeholders(model, model_key.dynamic_sizes)
        parts = {"train": plan.train}
        if plan.validation is not None:
            parts["validate"] = plan.validation
        known = {name: [*self._placeholders.handles, *_captures(part)] for name, part in parts.items()}
        key = model_key.description, repr({name: _shapes(part) for name, part in parts.items()})
        functions = load_functions(key, known)
        self.is_loaded = functions is not None
        if functions is None:
            with (
                self._placeholders.substituted_in(model, model_key.dynamic_sizes),
                repeated_updates(model.optimizer),
            ):
                functions = save_functions(key, _concrete_functions(model, plan), known)
        self._functions = functions

    def loops_for(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> Loops:
        _create_variables(model, plan)
        train, validate = self._functions["train"], self._functions.get("validate")
        return _Loops(plan, train, validate, attach=lambda: self._placeholders.attach(model, dynamic_sizes))

    def trains_like(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> bool | None:
        _create_variables(model, plan)
        try:
            batch, arguments = _example(plan)
        except ValueError:
            return None

        def train_by_graph() -> None:
            self._placeholders.attach(model, dynamic_sizes)
            with light_grappler():
                self._functions["train"](*arguments)

        def train_by_step() -> None:
            self._placeholders.detach(model)
            model.train_step(batch)

        try:
            return trains_alike(model, train_by_graph, train_by_step)
        except Exception:
            if isinstance(plan.train, Split):
                raise
            with suppress(KeyError):  # detached already
                self._placeholders.detach(model)
            return None  # a random batch need not be one that the model takes


def _concrete_functions(model: Any, plan: TrainingPlan) -> dict[str, Any]:
    """Trace the functions of a model."""
    train, validate = _epoch_functions(model, plan)
    train_signature, validation_signature = _signatures(plan)
    traced = {"train": train.get_concrete_function(*train_signature)}
    if validate is not None:
        traced["validate"] = validate.get_concrete_function(*validation_signature)
    return traced


def _signatures(plan: TrainingPlan) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the specs of the arguments of both functions."""
    order, size = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int32)
    train = stream_signature(plan.train) if isinstance(plan.train, Stream) else (order, size)
    return train, stream_signature(plan.validation) if isinstance(plan.validation, Stream) else (size,)


def _captures(part: Split | Stream) -> list[Any]:
    """Return the tensors of the data that a graph captures. A stream is an argument."""
    return [] if isinstance(part, Stream) else keras.tree.flatten(copy_to_device(part.step_data, _tensor))


def _shapes(part: Split | Stream) -> Any:
    """Return all that a graph depends on, of data that are no part of it."""
    if isinstance(part, Stream):
        return part.element_spec
    data = copy_to_device(part.step_data, _tensor)
    return keras.tree.map_structure(lambda array: (array.shape, array.dtype), data)


def _example(plan: TrainingPlan) -> tuple[Any, tuple[Any, ...]]:
    """Return a batch, and the arguments with which a training function trains on that batch."""
    if isinstance(plan.train, Stream):
        batch = example_batch(plan.train)
        return batch, (iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1, tf.int64))
    samples = tf.range(min(plan.arrays.samples, plan.batch_size, MAX_SAMPLES), dtype=tf.int64)
    data = copy_to_device(plan.arrays.step_data, _tensor)
    return keras.tree.map_structure(lambda array: tf.gather(array, samples), data), (samples, tf.size(samples))


def _create_variables(model: Any, plan: TrainingPlan) -> None:
    """Create the variables that training adds to a model's. A function that creates variables is traced twice.

    Steps of the user's own may make anything of the data, so their variables are left to the trace.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if has_own_steps(model):
        return
    with suppress(Exception):  # unusable data raise again in training
        create_metric_variables(model, plan.train.step_spec)


def _epoch_functions(model: Any, plan: TrainingPlan) -> tuple[Any, Any]:
    """Return the functions that train an epoch and validate after it; None for the latter without validation."""
    train = _training_function(model, plan.train)
    return train, None if plan.validation is None else _validation_function(model, plan.validation)


def _training_function(model: Any, part: Split | Stream) -> Any:
    """Return a function that runs `model.train_step` on every batch, see `_Loops`."""
    step = _compiled(model, model.train_step)
    if isinstance(part, Stream):
        return _function(stream_function(model, step))
    data = copy_to_device(part.step_data, _tensor)

    def run(order: Any, batch_size: Any) -> Any:
        def run_step(begin: Any, end: Any) -> Any:
            indices = order[begin:end]
            return step(keras.tree.map_structure(lambda array: tf.gather(array, indices), data))

        return _loop(model, run_step, tf.shape(order)[0], batch_size)

    return _function(run)


def _validation_function(model: Any, part: Split | Stream) -> Any:
    """Return a function that runs `model.test_step` on every batch, see `_Loops`."""
    step = _compiled(model, model.test_step)
    if isinstance(part, Stream):
        return _function(stream_function(model, step))
    data, samples = copy_to_device(part.step_data, _tensor), part.samples

    def run(batch_size: Any) -> Any:
        def run_step(begin: Any, end: Any) -> Any:
            return step(keras.tree.map_structure(lambda array: array[begin:end], data))

        return _loop(model, run_step, samples, batch_size)

    return _function(run)


def _compiled(model: Any, step: Any) -> Any:
    # Keras's "auto" compiles the step with XLA, or nothing if there are only CPUs (XLA is slower there). To compile the
    # same unit here keeps both runners equal.
    return tf.function(step, autograph=False, reduce_retracing=True, jit_compile=True) if model.jit_compile else step


def _function(run: Any) -> Any:
    return expect_retracing(tf.function(run, autograph=False))


def _loop(model: Any, run_step: Any, samples: int, batch_size: Any) -> Any:
    """Run `run_step` on every batch, and return the epoch's logs.

    Args:
        run_step: a function (index of the batch's first sample, index after its last) → logs.
        samples: their number; a tensor if it is dynamic.
    """
    steps = -(-samples // batch_size)
    # A step's own logs count only for the last batch. That step is traced once more, after the loop.
    own_logs = has_own_steps(model)
    looped = steps - 1 if own_logs else steps

    def batch(i: Any) -> Any:
        return run_step(i * batch_size, tf.minimum((i + 1) * batch_size, samples))

    def body(i: Any) -> tuple[Any]:
        batch(i)
        return (i + 1,)

    # One iteration at a time: each reads the weights that the one before wrote.
    tf.while_loop(lambda i: i < looped, body, (tf.constant(0),), parallel_iterations=1)
    return epoch_logs(model, batch(looped) if own_logs else None)


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    """Return the array on the device. On a processor the tensor shares the array's memory, if TensorFlow can use it."""
    aligned = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable
    if aligned and array.dtype.kind in "fiu" and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


_ALIGNMENT = 64
"""The alignment that TensorFlow's vectorised code relies on, in bytes."""
