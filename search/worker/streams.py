"""Data that come batch by batch: `tf.data.Dataset`, `keras.utils.PyDataset`, and functions that make generators.

Which batches an epoch trains on must be a function of the epoch, so that a trial can go on in another process. Every
stream is therefore read in *passes*, one from its beginning to its end after the other, and an epoch is a stretch of
`steps` batches of them. A stream is made anew for each segment; what it has gone through until then is caught up:

- a `tf.data.Dataset` reshuffles whenever an iterator of it is made: one is made for each past pass;
- a `PyDataset` has its `on_epoch_begin` and `on_epoch_end` called once for each past epoch, and is read in an order
  derived from (seed, pass); its `workers` are threads here, that read ahead within an epoch;
- a function is called once a pass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from search.errors import SpaceError
from search.trial import derive_seed

__all__ = ["Stream", "as_stream", "open_stream"]

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


# Feeding `model.fit` --------------------------------------------------------------------------------------------------


def open_stream(
    stream: Stream, steps: int, *, from_epoch: int = 0, seed: int = 0, shuffle: bool = False
) -> tuple[Any, Callable[[int], None]]:
    """What `model.fit` and `model.evaluate` take, with `steps` batches an epoch; and what to call as epochs begin.

    Args:
        steps: batches an epoch.
        from_epoch: the first epoch, from 0; the stream is caught up with it.
        seed: what the order of a PyDataset's batches is derived from.
        shuffle: whether that order is shuffled; the other kinds shuffle themselves.
    """
    skip = from_epoch * steps
    if stream.kind == "dataset":
        return _dataset(stream, skip), lambda epoch: None
    if stream.kind == "pydataset":
        batches = _Batches(stream, steps, from_epoch, seed, shuffle)
        return batches, batches.begin
    return _passes(stream, skip), lambda epoch: None


def _dataset(stream: Stream, skip: int) -> Any:
    dataset = stream.source
    if stream.batches is None:
        return dataset.skip(skip)  # endless: it was not counted
    past, left = divmod(skip, stream.batches)
    for _ in range(past):
        iter(dataset)
    return dataset.skip(left).concatenate(dataset.repeat()) if left else dataset.repeat()


def _passes(stream: Stream, skip: int) -> Iterator[Any]:
    left = skip % stream.batches if stream.batches else skip
    while True:
        for batch in stream.one_pass():
            if left:
                left -= 1
                continue
            # Keras takes a tuple; a list would be one input of several.
            yield tuple(batch) if isinstance(batch, list) else batch


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """The user's PyDataset in our order, `steps` batches an epoch. Keras reads it in one thread, so in order."""

    def __init__(self, stream: Stream, steps: int, epoch: int, seed: int, shuffle: bool) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._inner = stream.source
        self._count = stream.batches
        self._steps = steps
        self._seed = seed
        self._shuffle = shuffle and stream.batches is not None
        self._first = self._epoch = epoch
        self._ahead: deque[tuple[int, Future[Any]]] = deque()
        workers = int(getattr(self._inner, "workers", 1))
        self._threads = ThreadPoolExecutor(workers, "search-data") if workers > 1 else None
        self._reach = workers + 1
        for _ in range(epoch):
            self._inner.on_epoch_begin()
            self._inner.on_epoch_end()

    def begin(self, epoch: int) -> None:
        if epoch > self._first:
            self._inner.on_epoch_end()
        self._ahead.clear()
        self._inner.on_epoch_begin()
        self._epoch = epoch

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Any:
        if self._threads is None:
            return self._inner[self._position(index)]
        if not self._ahead or self._ahead[0][0] != index:
            self._ahead.clear()
        start = self._ahead[-1][0] + 1 if self._ahead else index
        for ahead in range(start, min(index + self._reach, self._steps)):
            self._ahead.append((ahead, self._threads.submit(self._inner.__getitem__, self._position(ahead))))
        return self._ahead.popleft()[1].result()

    def _position(self, index: int) -> int:
        """Where the batch `index` of this epoch is in the user's PyDataset."""
        position = self._epoch * self._steps + index
        if self._count is None:
            return position
        number, place = divmod(position, self._count)
        if not self._shuffle:
            return place
        order = np.random.default_rng(derive_seed(self._seed, "order", number)).permutation(self._count)
        return int(order[place])


def steps_of(stream: Stream, given: int | None, option: str) -> int:
    """The batches of an epoch: as many as a pass has, unless the user has given another number."""
    if given is not None:
        return given
    if stream.endless or stream.batches is None or not math.isfinite(stream.batches):
        raise SpaceError(f"load_data returned data without an end: say how many batches an epoch has, with {option}")
    return stream.batches
