"""Data that come batch by batch: `tf.data.Dataset`, `keras.utils.PyDataset`, and functions that make generators.

Which batches an epoch trains on must be a function of the epoch, so that a trial can go on in another process. Every
stream is therefore read in *passes*, one from its beginning to its end after the other, and an epoch is a stretch of
`steps` batches of them. A stream is made anew for each segment; what it has gone through until then is caught up:

- a `tf.data.Dataset` reshuffles whenever an iterator of it is made: one is made for each past pass;
- a `PyDataset` has its `on_epoch_begin` and `on_epoch_end` called once for each past epoch, and is read in an order
  derived from (seed, pass); its `workers` are threads here, that read ahead within an epoch;
- a function is called once a pass.

Keras's own readers of the last two make and drop iterators as they like, some of which read ahead: what an epoch trains
on would depend on timing. Ours read on demand, in order.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from search.errors import SpaceError
from search.study.trial import derive_seed

__all__ = ["Stream", "as_stream", "for_evaluation", "for_training", "steps_of"]

Kind = Literal["dataset", "pydataset", "function"]


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches `(x, y[, sample_weight])`, as often as they are asked for.

    Attributes:
        source: the object that the user gave.
        batches: how many a pass has; None where it is endless, or has not been counted.
        endless: whether a pass never ends.
    """

    kind: Kind
    source: Any
    batches: int | None
    endless: bool

    def one_pass(self) -> Iterator[Any]:
        """The batches of a pass, as the source gives them."""
        return iter(self.source() if self.kind == "function" else self.source)

    def count(self) -> int:
        """How many batches a pass has, counted where it is not known."""
        if self.batches is not None:
            return self.batches
        return sum(1 for _ in self.one_pass())

    @property
    def first(self) -> tuple[Any, ...]:
        """The first batch, of numpy arrays."""
        batch = self.source[0] if self.kind == "pydataset" else next(self.one_pass(), None)
        if batch is None:
            raise SpaceError("load_data: a pass over the data has no batches: return at least one")
        return packed(batch)

    @property
    def x_spec(self) -> Any:
        """The inputs' shapes and dtypes as `keras.KerasTensor`s, the batch's size open.

        Of a `tf.data.Dataset` they are known; reading it would shuffle it on.
        """
        if self.kind == "dataset":
            spec = self.source.element_spec
            x = spec[0] if isinstance(spec, tuple) else spec
            return keras.tree.map_structure(lambda leaf: _open(leaf.shape[1:], leaf.dtype.name), x)
        return keras.tree.map_structure(lambda leaf: _open(leaf.shape[1:], leaf.dtype.name), self.first[0])


def _open(shape: Any, dtype: str) -> Any:
    return keras.KerasTensor((None, *shape), dtype)


def packed(batch: Any) -> tuple[Any, ...]:
    """A batch as a tuple of numpy arrays, or of structures of them."""
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return tuple(keras.tree.map_structure(_as_array, part) for part in parts)


def _as_array(leaf: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf)


def as_stream(value: Any, name: str) -> Stream | None:
    """`value` as a stream; None where it is none. SpaceError for what can be read only once."""
    if isinstance(value, keras.utils.PyDataset):
        batches = value.num_batches
        return Stream("pydataset", value, batches, batches is None)
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
        return Stream("function", value.__iter__, len(value) if hasattr(value, "__len__") else None, False)
    return None


# Feeding Keras --------------------------------------------------------------------------------------------------------


def for_training(stream: Stream, steps: int, *, from_epoch: int = 0, seed: int = 0, shuffle: bool = False) -> Any:
    """What `model.fit` takes, with `steps` batches an epoch, from `from_epoch` on; it never ends.

    Args:
        seed: what the order of a PyDataset's batches is derived from.
        shuffle: whether that order is shuffled; the other kinds shuffle themselves.
    """
    if stream.kind == "dataset":
        return _dataset(stream, from_epoch * steps)
    make = _pydataset_epochs if stream.kind == "pydataset" else _function_epochs
    workers = int(getattr(stream.source, "workers", 1)) if stream.kind == "pydataset" else 1
    reader = _Reader(make(stream, steps, from_epoch, seed, shuffle), workers)
    return _fed(reader.batches, None)


def for_evaluation(stream: Stream, steps: int | None) -> Any:
    """What `model.evaluate` takes, again and again: `steps` batches from the beginning of a pass, or all."""
    if stream.kind == "dataset":
        return stream.source if steps is None else stream.source.take(steps)
    if stream.kind == "pydataset":
        count = steps or stream.batches or 0
        return _fed(lambda: map(_as_tuple, map(stream.source.__getitem__, range(count))), count)
    count = steps or stream.count()
    return _fed(lambda: map(_as_tuple, itertools.islice(stream.one_pass(), count)), count)


def _as_tuple(batch: Any) -> tuple[Any, ...]:
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _dataset(stream: Stream, skip: int) -> Any:
    dataset = stream.source
    if stream.batches is None:
        return dataset.skip(skip)  # endless: it was not counted
    past, left = divmod(skip, stream.batches)
    for _ in range(past):
        iter(dataset)
    return dataset.skip(left).concatenate(dataset.repeat()) if left else dataset.repeat()


Batch = Callable[[], Any]
"""Reads a batch."""


def _pydataset_epochs(
    stream: Stream, steps: int, from_epoch: int, seed: int, shuffle: bool
) -> Iterator[Iterator[Batch]]:
    inner, count = stream.source, stream.batches
    for _ in range(from_epoch):
        inner.on_epoch_begin()
        inner.on_epoch_end()

    @functools.lru_cache(maxsize=1)
    def order(number: int) -> Any:
        assert count is not None
        return np.random.default_rng(derive_seed(seed, "order", number)).permutation(count)

    def place(position: int) -> int:
        if count is None:
            return position
        number, index = divmod(position, count)
        return int(order(number)[index]) if shuffle else index

    for epoch in itertools.count(from_epoch):
        inner.on_epoch_begin()
        yield (functools.partial(inner.__getitem__, place(epoch * steps + index)) for index in range(steps))
        inner.on_epoch_end()


def _function_epochs(
    stream: Stream, steps: int, from_epoch: int, seed: int, shuffle: bool
) -> Iterator[Iterator[Batch]]:
    skip = from_epoch * steps
    left = skip % stream.batches if stream.batches else skip
    passes = itertools.islice(_passes(stream), left, None)
    while True:
        yield (functools.partial(next, passes) for _ in range(steps))


def _passes(stream: Stream) -> Iterator[Any]:
    while True:
        empty = True
        for batch in stream.one_pass():
            empty = False
            yield batch
        if empty:
            raise SpaceError("load_data: a pass over the data has no batches: return at least one")


class _Reader:
    """Reads the batches of one epoch after the other, a few ahead, in order.

    Keras makes iterators that it throws away after a first look. What they have read is read again from memory by the
    one that trains.
    """

    def __init__(self, epochs: Iterator[Iterator[Batch]], workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers, "search-data")
        self._reach = workers + 1
        self._source = self._read(epochs)
        self._kept: list[Any] = []

    def _read(self, epochs: Iterator[Iterator[Batch]]) -> Iterator[Any]:
        for epoch in epochs:
            ahead: deque[Future[Any]] = deque()
            for batch in epoch:
                ahead.append(self._threads.submit(batch))
                if len(ahead) > self._reach:
                    yield _as_tuple(ahead.popleft().result())
            while ahead:
                yield _as_tuple(ahead.popleft().result())

    def batches(self) -> Iterator[Any]:
        """The batches from the first one on, for an iterator of Keras's."""
        for position in itertools.count():
            if position == len(self._kept):
                if position >= _LOOKS:
                    yield from self._source
                self._kept.append(next(self._source))
            yield self._kept[position]


_LOOKS = 4
"""Batches that may be looked at before the training begins."""


def _fed(batches: Callable[[], Iterator[Any]], count: int | None) -> Any:
    """What Keras reads without reading ahead: on TensorFlow a `tf.data.Dataset`, else a PyDataset."""
    if keras.config.backend() != "tensorflow":
        return _InOrder(batches, count)
    import tensorflow as tf

    first = list(itertools.islice(batches(), 2))
    signature = keras.tree.map_structure(_signature, *(first if len(first) == 2 else first * 2))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset if count is None else dataset.apply(tf.data.experimental.assert_cardinality(count))


def _signature(a: Any, b: Any) -> Any:
    """The shape and dtype that both batches have; sizes that differ, and the batch's, are open."""
    import tensorflow as tf

    a, b = _as_array(a), _as_array(b)
    sizes = [one if one == other else None for one, other in zip(a.shape, b.shape, strict=True)]
    return tf.TensorSpec([None, *sizes[1:]], a.dtype)


class _InOrder(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """Batches that come in order, from the first one again where Keras begins anew."""

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


def steps_of(stream: Stream, given: int | None, option: str) -> int:
    """The batches of an epoch: as many as a pass has, unless the user has given another number."""
    if given is not None:
        return given
    if stream.endless:
        raise SpaceError(f"load_data returned data without an end: say how many batches an epoch has, with {option}")
    return stream.count()
