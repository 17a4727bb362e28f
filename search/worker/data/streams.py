"""Data that come in batches: `tf.data.Dataset`, `keras.utils.PyDataset`, and functions that return generators.

The batches of an epoch must be a function of the epoch, so that a trial can continue in another process. So a stream is
read in *passes*, each from its beginning to its end, and an epoch is the next `steps` batches of them. A stream is made
anew for each segment. It is then advanced past the completed epochs:

- a `tf.data.Dataset` reshuffles for each new iterator, so one iterator is made for each past pass;
- a `PyDataset` has its `on_epoch_begin` and `on_epoch_end` called once for each past epoch, and is read in an order
  derived from (seed, pass); its `workers` are threads here, which read ahead within an epoch;
- a function is called once per pass.

Keras's own readers of the last two create and drop iterators at will, and some read ahead, so that the batches of an
epoch would depend on timing. The readers here read on demand and in order.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np

from search.errors import SpaceError
from search.space.fit_arguments import OneReading
from search.study.trial import derive_seed
from search.worker.data import kinds

__all__ = ["Stream", "as_stream", "for_evaluation", "for_training", "steps_of"]

COUNTING_SECONDS = 2.0
"""Time after which the user is told that batches are counted, in seconds."""

StreamKind = Literal["dataset", "pydataset", "function"]


_unread: deque[Iterator[Any]] = deque(maxlen=4)
"""Iterators that were left after their first batch.

A data set with a `cache` may lose its later batches for good if its iterator is dropped while TensorFlow reads ahead.
So an iterator is kept for a while, until it has read ahead.
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """A source of batches `(x, y[, sample_weight])` that can be read repeatedly.

    Attributes:
        source: the object that `load_data` returned.
        batches: the number of batches in a pass; None if the pass is endless or was not counted.
        endless: whether a pass never ends.
        element_spec: the batches as `tf.TypeSpec`s, of a stream that is only described.
    """

    kind: StreamKind
    source: Any
    batches: int | None
    endless: bool
    element_spec: Any = None

    def described(self, element_spec: Any) -> Stream:
        """Return the description of this stream: it cannot be read, and holds no data."""
        return replace(self, source=None, element_spec=element_spec)

    def one_pass(self) -> Iterator[Any]:
        """Return an iterator over the batches of a pass, as the source yields them."""
        return iter(self.source() if self.kind == "function" else self.source)

    def count(self, tell: Callable[[], None] = lambda: None) -> int:
        """Return the number of batches in a pass, counting them if it is unknown.

        Args:
            tell: called once, if counting takes longer than `COUNTING_SECONDS`.
        """
        if self.batches is not None:
            return self.batches
        due, count = time.monotonic() + COUNTING_SECONDS, 0
        for _ in self.one_pass():
            count += 1
            if time.monotonic() > due:
                tell()
                due = float("inf")
        return count

    @property
    def first(self) -> tuple[Any, ...]:
        """The first batch; see `pack_batch`."""
        if self.kind == "pydataset":
            batch = self.source[0]
        else:
            unread = self.one_pass()
            batch = next(unread, None)
            _unread.append(unread)
        if batch is None:
            raise SpaceError("load_data: a pass over the data has no batches: return at least one")
        return pack_batch(batch)

    @property
    def x_spec(self) -> Any:
        """Shapes and dtypes of the inputs as `keras.KerasTensor`s, with batch size None.

        A `tf.data.Dataset` states them. Reading its first batch would advance its shuffle.
        """
        spec = self.step_spec
        return spec[0] if isinstance(spec, tuple) else spec

    @property
    def step_spec(self) -> Any:
        """Shapes and dtypes of a batch as a `train_step` takes it, as `keras.KerasTensor`s with batch size None."""
        element_spec = self.element_spec
        if element_spec is None and self.kind == "dataset":
            element_spec = self.source.element_spec
        if element_spec is not None:
            return keras.tree.map_structure(kinds.spec_of_type, element_spec)
        return keras.tree.map_structure(kinds.spec_of, self.first)


def pack_batch(batch: Any) -> tuple[Any, ...]:
    """Return a batch as a tuple of numpy arrays, or of structures of them.

    Text, sparse and ragged data stay tensors.
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return tuple(keras.tree.map_structure(_as_array, part) for part in parts)


def _as_array(leaf: Any) -> Any:
    if kinds.kind_of(leaf) != "numbers":
        return kinds.batch_of(leaf)
    return kinds.in_native_order(np.asarray(keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf))


def as_stream(value: Any, name: str) -> Stream | None:
    """Return `value` as a stream, or None if it is none. SpaceError if it can be read only once."""
    if isinstance(value, keras.utils.PyDataset):
        batches = value.num_batches
        return Stream("pydataset", value, batches, batches is None)
    if isinstance(value, OneReading):
        return Stream("function", value, None, True)
    classes = {cls.__name__ for cls in type(value).__mro__}
    if "DatasetV2" in classes:
        cardinality = int(value.cardinality())
        return Stream("dataset", value, cardinality if cardinality >= 0 else None, cardinality == -1)
    if classes & {"generator", "Generator"}:
        raise SpaceError(
            f"load_data: {name} is a generator, which can be read only once: return the function that makes it"
        )
    if callable(value):
        return Stream("function", value, None, False)
    if "DataLoader" in classes:
        return Stream("function", value.__iter__, _length_of(value), False)
    return None


def _length_of(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None  # that of an IterableDataset


# Feeding Keras --------------------------------------------------------------------------------------------------------


def for_training(stream: Stream, steps: int, *, from_epoch: int = 0, seed: int = 0, shuffle: bool = False) -> Any:
    """Return an endless input for `model.fit`, which starts at the batches of epoch `from_epoch` (from 0).

    Args:
        steps: batches per epoch.
        seed: the seed for the order of a PyDataset's batches.
        shuffle: whether that order is shuffled; streams of other kinds shuffle themselves.
    """
    if stream.kind == "dataset":
        return _skip_batches(stream, from_epoch * steps)
    make = _pydataset_epochs if stream.kind == "pydataset" else _function_epochs
    workers = int(getattr(stream.source, "workers", 1)) if stream.kind == "pydataset" else 1
    reader = _Reader(make(stream, steps, from_epoch, seed, shuffle), workers)
    return _make_input(reader.batches, None)


def for_evaluation(stream: Stream, steps: int | None) -> Any:
    """Return an input for repeated calls of `model.evaluate`: the first `steps` batches of a pass, or all."""
    if stream.kind == "dataset":
        return stream.source if steps is None else stream.source.take(steps)
    if stream.kind == "pydataset":
        count = steps or stream.batches or 0
        return _make_input(lambda: map(_as_tuple, map(stream.source.__getitem__, range(count))), count)
    count = steps or stream.count()
    return _make_input(lambda: map(_as_tuple, itertools.islice(stream.one_pass(), count)), count)


def _as_tuple(batch: Any) -> tuple[Any, ...]:
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return tuple(keras.tree.map_structure(kinds.batch_of, part) for part in parts)


def _skip_batches(stream: Stream, skip: int) -> Any:
    """Return the dataset of `stream`, repeated, without its first `skip` batches.

    TensorFlow reads ahead within a pass only. A shuffled dataset draws a seed for each pass, so a pass that began early
    would take the seed of a validation on the same dataset, sometimes.
    """
    dataset = stream.source
    if stream.endless:
        return dataset.skip(skip)
    import tensorflow as tf

    dataset = dataset.prefetch(tf.data.AUTOTUNE)  # instead of the one that TensorFlow puts behind `repeat`
    if stream.batches is None:
        repeated = dataset.repeat().skip(skip)
    else:
        passes, rest = divmod(skip, stream.batches)
        for _ in range(passes):
            iter(dataset)
        repeated = dataset.skip(rest).concatenate(dataset.repeat()) if rest else dataset.repeat()
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return repeated.with_options(options)


ReadBatch = Callable[[], Any]
"""A function that reads one batch."""


def _pydataset_epochs(
    stream: Stream, steps: int, from_epoch: int, seed: int, shuffle: bool
) -> Iterator[Iterator[ReadBatch]]:
    dataset, count = stream.source, stream.batches
    for _ in range(from_epoch):
        dataset.on_epoch_begin()
        dataset.on_epoch_end()

    @functools.lru_cache(maxsize=1)
    def order(number: int) -> Any:
        assert count is not None
        return np.random.default_rng(derive_seed(seed, "order", number)).permutation(count)

    def index_at(position: int) -> int:
        if count is None:
            return position
        number, index = divmod(position, count)
        return int(order(number)[index]) if shuffle else index

    for epoch in itertools.count(from_epoch):
        dataset.on_epoch_begin()
        yield (functools.partial(dataset.__getitem__, index_at(epoch * steps + step)) for step in range(steps))
        dataset.on_epoch_end()


def _function_epochs(
    stream: Stream, steps: int, from_epoch: int, seed: int, shuffle: bool
) -> Iterator[Iterator[ReadBatch]]:
    skip = from_epoch * steps
    batches = _batches_from(stream, skip % stream.batches if stream.batches else skip)
    while True:
        yield (functools.partial(next, batches) for _ in range(steps))


def _batches_from(stream: Stream, skip: int) -> Iterator[Any]:
    """Yield the batches of successive passes without the first `skip`. Passes are alike, so one shows their length."""
    while True:
        count = 0
        for batch in stream.one_pass():
            count += 1
            if skip:
                skip -= 1
            else:
                yield batch
        if not count:
            raise SpaceError("load_data: a pass over the data has no batches: return at least one")
        skip %= count


class _Reader:
    """A reader of the batches of successive epochs, in order. Threads read a few batches ahead.

    Keras makes iterators that it drops after a look at the first batches. The iterator that trains gets those batches
    from memory.
    """

    def __init__(self, epochs: Iterator[Iterator[ReadBatch]], workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers, "search-data")
        self._ahead = workers + 1
        self._source = self._read(epochs)
        self._first: list[Any] = []

    def _read(self, epochs: Iterator[Iterator[ReadBatch]]) -> Iterator[Any]:
        for epoch in epochs:
            ahead: deque[Future[Any]] = deque()
            for read_batch in epoch:
                ahead.append(self._threads.submit(read_batch))
                if len(ahead) > self._ahead:
                    yield _as_tuple(ahead.popleft().result())
            while ahead:
                yield _as_tuple(ahead.popleft().result())

    def batches(self) -> Iterator[Any]:
        """Yield the batches from the first one on, for one of Keras's iterators."""
        for position in itertools.count():
            if position == len(self._first):
                if position >= _MAX_FIRST:
                    yield from self._source
                self._first.append(next(self._source))
            yield self._first[position]


_MAX_FIRST = 4
"""Batches that Keras may look at before the training begins, at most."""


def _make_input(batches: Callable[[], Iterator[Any]], count: int | None) -> Any:
    """Return an input that Keras reads without reading ahead: on TensorFlow a `tf.data.Dataset`, else a PyDataset."""
    if keras.config.backend() != "tensorflow":
        return _InOrder(batches, count)
    import tensorflow as tf

    first = list(itertools.islice(batches(), 2))
    signature = keras.tree.map_structure(_tensor_spec, *(first if len(first) == 2 else first * 2))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset if count is None else dataset.apply(tf.data.experimental.assert_cardinality(count))


def _tensor_spec(a: Any, b: Any) -> Any:
    """Return the shape and dtype of two batches. The batch size, and sizes that differ, are None."""
    import tensorflow as tf

    a, b = _as_array(a), _as_array(b)
    sizes = [one if one == other else None for one, other in zip(a.shape, b.shape, strict=True)]
    kind, shape = kinds.kind_of(a), [None, *sizes[1:]]
    if kind == "ragged data":
        return tf.RaggedTensorSpec(shape, a.dtype, a.ragged_rank, a.row_splits.dtype)
    return tf.SparseTensorSpec(shape, a.dtype) if kind == "sparse data" else tf.TensorSpec(shape, a.dtype)


class _InOrder(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """A PyDataset that reads its batches in order, and from the first one again when Keras starts anew."""

    def __init__(self, batches: Callable[[], Iterator[Any]], count: int | None) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batches = batches
        self._count = count
        self._next = 0
        self._iterator = batches()

    @property
    def num_batches(self) -> int | None:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if index != self._next:
            self._iterator = itertools.islice(self._batches(), index, None)
        self._next = index + 1
        return next(self._iterator)


def steps_of(stream: Stream, steps: int | None, option: str) -> int:
    """Return the batches per epoch: the user's number `steps`, or by default all batches of a pass.

    Args:
        option: the fit option that sets the number, for the error message.

    Raises:
        SpaceError: if the stream is endless and `steps` is None.
    """
    if steps is not None:
        return steps
    if stream.endless:
        raise SpaceError(f"load_data returned data without an end: say how many batches an epoch has, with {option}")
    return stream.count()
