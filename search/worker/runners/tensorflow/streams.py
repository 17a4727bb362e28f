"""Streams in fused epochs on TensorFlow: the loop over an iterator, and the iterators that `model.fit` would make.

The data set is no part of a graph, only the spec of its batches is. An iterator is an argument, so a graph serves all
trials whose batches have the same spec. Iterators are made when Keras makes them, and as many: each one advances a
shuffle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.data.streams import Stream
from search.worker.runners.fit import OpenedStreams, TrainingPlan
from search.worker.runners.fused import epoch_logs, has_own_steps

__all__ = ["StreamFeeds", "example_batch", "stream_function", "stream_signature"]

_ALL = tf.int64.max
"""The number of batches of a stream that is read to its end."""

_RAN_OUT = (
    "Your input ran out of data; interrupting training. Make sure that your dataset or generator can generate at least "
    "`steps_per_epoch * epochs` batches. You may need to use the `.repeat()` function when building your dataset."
)
"""Keras's warning."""


# The loop -------------------------------------------------------------------------------------------------------------


def stream_signature(stream: Stream) -> tuple[Any, ...]:
    """Return the specs of the arguments of a `stream_function`."""
    return tf.data.IteratorSpec(stream.element_spec), tf.TensorSpec((), tf.int64)


def stream_function(model: Any, step: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a function (iterator, most batches) → (batches, logs), which runs `step` on the iterator's next batches.

    The iterator may have fewer batches. One that raises an error does so before the step of its batch has begun.
    """

    def step_on(batch: Any) -> Any:
        # As Keras does with the parts of a batch that may be missing.
        is_missing = tf.experimental.Optional
        return step(
            keras.tree.map_structure(lambda leaf: None if isinstance(leaf, is_missing) else leaf, batch.get_value())
        )

    loop = _own_logs_loop if has_own_steps(model) else _loop

    def run(iterator: Any, most: Any) -> tuple[Any, Any]:
        return loop(model, step_on, iterator, most)

    return run


def _loop(model: Any, step_on: Callable[[Any], Any], iterator: Any, most: Any) -> tuple[Any, Any]:
    def body(count: Any, more: Any) -> tuple[Any, Any]:
        batch = iterator.get_next_as_optional()

        def run_step() -> tuple[Any, Any]:
            step_on(batch)
            return count + 1, more

        return tuple(tf.cond(batch.has_value(), run_step, lambda: (count, tf.constant(False))))

    start = tf.constant(0, tf.int64), tf.constant(True)
    # One iteration at a time: each reads the weights that the one before wrote.
    count, _ = tf.while_loop(lambda count, more: more & (count < most), body, start, parallel_iterations=1)
    return count, epoch_logs(model, None)


def _own_logs_loop(model: Any, step_on: Callable[[Any], Any], iterator: Any, most: Any) -> tuple[Any, Any]:
    """Do as `_loop`, for at least one batch, and return the logs of the last step, which is traced apart.

    Only the next batch, or its absence, tells which step is the last. So a batch is read before the step on the one
    before it.
    """
    one = tf.constant(1, tf.int64)

    def read(count: Any) -> Any:
        nothing = tf.experimental.Optional.empty(iterator.element_spec)
        return tf.cond(count < most, iterator.get_next_as_optional, lambda: nothing)

    def body(count: Any, batch: Any, following: Any) -> tuple[Any, Any, Any]:
        step_on(batch)
        return count + 1, following, read(count + 1)

    start = one, iterator.get_next_as_optional(), read(one)
    count, last, _ = tf.while_loop(
        lambda count, batch, following: following.has_value(), body, start, parallel_iterations=1
    )
    return count, epoch_logs(model, step_on(last))


# A batch for comparison -----------------------------------------------------------------------------------------------

_EXAMPLE_SAMPLES = 32


def example_batch(stream: Stream) -> Any:
    """Return a random batch of the spec of a stream, of which no batch can be read ahead of the training.

    Raises:
        ValueError: the spec leaves open what a batch may be.
    """
    rng = np.random.default_rng(0)
    return tf.nest.map_structure(lambda spec: _example(spec, rng), stream.element_spec)


def _example(spec: Any, rng: np.random.Generator) -> Any:
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None or None in spec.shape[1:]:
        raise ValueError(f"no example of a batch {spec}")
    shape = [_EXAMPLE_SAMPLES if size is None else size for size in spec.shape]
    if spec.dtype.is_floating:
        return tf.constant(rng.normal(size=shape), spec.dtype)
    if not spec.dtype.is_integer and not spec.dtype.is_bool:
        raise ValueError(f"no example of a batch {spec}")
    return tf.cast(tf.constant(rng.integers(2, size=shape)), spec.dtype)


# Iterators as in `fit` ------------------------------------------------------------------------------------------------


class StreamFeeds:
    """Feeds of a plan with streams, see `search.worker.runners.fused.Feeds`."""

    def __init__(self, model: Any, plan: TrainingPlan) -> None:
        self._model, self._plan = model, plan
        self.plan: TrainingPlan | None = None
        self.opened: OpenedStreams | None = None
        self._training: _TrainingStream | None = None
        streams = [part for part in (plan.train, plan.validation) if isinstance(part, Stream)]
        if all(stream.kind == "dataset" for stream in streams):  # else the first batches tell the spec
            train = plan.train.source if isinstance(plan.train, Stream) else None
            validation = plan.validation.source if isinstance(plan.validation, Stream) else None
            self.plan = self._described(OpenedStreams(self._weighted(train), validation))

    def open(self, from_epoch: int) -> None:
        plan = self._plan
        self.opened = OpenedStreams.of(plan, from_epoch)
        dataset = self._weighted(self.opened.train)
        self._training = _TrainingStream(self._model, dataset, plan.steps)
        self.plan = self._described(OpenedStreams(dataset, self.opened.validation))

    def train(self, loops: Any, epoch: int) -> dict[str, Any]:
        if not isinstance(self._plan.train, Stream):
            logs: dict[str, Any] = loops.train(self._plan.sample_order(epoch))
            return logs
        assert self._training is not None, "opened"
        return self._training.train(loops)

    def validate(self, loops: Any) -> dict[str, Any]:
        assert self.opened is not None, "opened"
        if not isinstance(self._plan.validation, Stream):
            logs: dict[str, Any] = loops.validate()
            return logs
        return _validate(loops, self.opened.validation)

    def _weighted(self, dataset: Any) -> Any:
        return dataset if dataset is None else _with_class_weight(dataset, self._plan.class_weight)

    def _described(self, opened: OpenedStreams) -> TrainingPlan:
        """Return the plan with the specs of opened streams."""
        plan = self._plan
        return replace(
            plan,
            train=plan.train.described(opened.train.element_spec) if isinstance(plan.train, Stream) else plan.train,
            validation=plan.validation.described(opened.validation.element_spec)
            if isinstance(plan.validation, Stream)
            else plan.validation,
        )


def _with_class_weight(dataset: Any, class_weight: Mapping[Any, float] | None) -> Any:
    """Return a data set with class weights as sample weights, read ahead, as Keras makes it.

    Raises:
        ValueError: the data have sample weights, or several targets, which Keras refuses.
    """
    if class_weight is None:
        return dataset
    weights = tf.convert_to_tensor([class_weight.get(label, 1.0) for label in range(max(class_weight) + 1)])

    def add_weights(*batch: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if sample_weight is not None or keras.tree.is_nested(y):
            raise ValueError("class weights need one target and no sample weights")
        return x, y, tf.gather(weights, _classes(y))

    return dataset.map(add_weights)


def _classes(y: Any) -> Any:
    """Return the classes of targets: labels, in a column or not, or one-hot rows."""
    if y.shape.rank < 2:
        return tf.cast(tf.round(y), tf.int32)

    def of_rows() -> Any:
        return tf.argmax(y, axis=-1, output_type=tf.int32)

    def of_column() -> Any:
        return tf.cast(tf.round(tf.squeeze(y, axis=-1)), tf.int32)

    if y.shape[-1] is None:
        return tf.cond(tf.shape(y)[-1] > 1, of_rows, of_column)
    return of_rows() if y.shape[-1] > 1 else of_column()


class _TrainingStream:
    """A stream for training, whose iterator serves all epochs of a segment.

    If it runs out before an epoch has its steps, Keras warns, ends the epoch, and begins anew in the next one. From
    then on it takes the steps that it has tried for the length of a pass.
    """

    def __init__(self, model: Any, dataset: Any, steps: int) -> None:
        self._model, self._dataset, self._steps = model, dataset, steps
        self._iterator: Any = None
        self._tried = 0
        self._length: int | None = None

    def train(self, loops: Any) -> dict[str, Any]:
        """Train an epoch by loops, and return the logs."""
        if self._iterator is None:
            self._begin()
        steps = self._steps if self._length is None else min(self._steps, self._length - self._tried)
        count, logs = loops.train_on(self._iterator, steps)
        self._tried += min(count + 1, steps)
        if count < self._steps:
            warnings.warn(_RAN_OUT, stacklevel=2)
        if count < steps:
            self._length = self._length or self._tried
            self._fail_as_fit()
            self._iterator = None
        elif self._tried == self._length:
            self._begin()
        result: dict[str, Any] = logs
        return result

    def _fail_as_fit(self) -> None:
        """Try the step that has no batch, as Keras does: the optimizer may count it, a dropout may draw its numbers."""
        model, own = self._model, self._model.train_function
        model.make_train_function(force=True)
        try:
            with suppress(StopIteration, tf.errors.OutOfRangeError):
                model.train_function(self._iterator)
        finally:
            model.train_function = own

    def _begin(self) -> None:
        self._iterator, self._tried = iter(self._dataset), 0


def _validate(loops: Any, dataset: Any) -> dict[str, Any]:
    """Validate on a pass, and return the logs.

    After a pass of a known length, Keras makes an iterator for the next pass, which it never reads.
    """
    length = max(int(dataset.cardinality()), 0)
    count, logs = loops.validate_on(iter(dataset), length or _ALL)
    if count == length:
        iter(dataset)
    result: dict[str, Any] = logs
    return result
