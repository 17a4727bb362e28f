"""The data of a space file's `load_data`, prepared for training: arrays, checked and cast as by Keras, or streams.

A *split* is `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Each of the three is one array, or a dict, list or tuple of
arrays for models with several inputs or outputs. Lists become tuples, as in Keras before training. An array may hold
numbers, text, sparse or ragged data; see `search.worker.data.kinds`. Data that come in batches are a `Stream`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError
from search.space.fit_arguments import FitArguments
from search.worker.data import kinds
from search.worker.data.streams import Stream, as_stream

__all__ = ["Data", "Split", "prepare_data", "spec_from_json", "spec_to_json", "split_off"]

_NAMES = ("x", "y", "sample_weight")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The samples of one split; all arrays have the same length.

    Attributes:
        x: inputs, an array of shape (samples, …) or a dict or tuple of them.
        y: targets, like `x`; None if the model needs none.
        sample_weight: weights, shape (samples,) or as the loss allows, with the structure of `y`; or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    @property
    def packed(self) -> tuple[Any, ...]:
        """The split as `validation_data` takes it: `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
        if self.y is None:
            return (self.x,)
        return (self.x, self.y) if self.sample_weight is None else (self.x, self.y, self.sample_weight)

    @property
    def step_data(self) -> Any:
        """The split as `train_step` takes it: as `packed`, or `x` itself if it is one array and alone."""
        return keras.utils.pack_x_y_sample_weight(self.x, self.y, self.sample_weight)

    @property
    def samples(self) -> int:
        arrays = keras.tree.flatten(self.x)
        return kinds.rows_of(arrays[0]) if arrays else 0

    @property
    def x_spec(self) -> Any:
        """Shapes and dtypes of the inputs as `keras.KerasTensor`s, with batch size None."""
        return keras.tree.map_structure(kinds.spec_of, self.x)

    @property
    def step_spec(self) -> Any:
        """Shapes and dtypes of `step_data` as `keras.KerasTensor`s, with batch size None."""
        return keras.tree.map_structure(kinds.spec_of, self.step_data)

    @property
    def nbytes(self) -> int:
        """Total size of the arrays in bytes."""
        return sum(map(kinds.bytes_of, self._leaves))

    @property
    def special_kinds(self) -> list[str]:
        """The kinds of those arrays that are not plain numpy arrays of numbers, such as "text"; each once."""
        return list(dict.fromkeys(kinds.kind_of(leaf) for leaf in self._leaves if not kinds.is_plain(leaf)))

    @property
    def _leaves(self) -> list[Any]:
        return [leaf for leaf in keras.tree.flatten(self.packed) if leaf is not None]

    def is_equal(self, other: object) -> bool:
        """Return whether `other` has the same samples. Arrays that both share are not compared."""
        if not isinstance(other, Split):
            return False
        mine, others = keras.tree.flatten(self.packed), keras.tree.flatten(other.packed)
        if len(self.packed) != len(other.packed) or len(mine) != len(others):
            return False
        return all(a is b or _is_equal(a, b) for a, b in zip(mine, others, strict=True))

    def part(self, samples: slice) -> Split:
        """Return the split of the samples in a slice."""
        take = functools.partial(
            keras.tree.map_structure, lambda array: None if array is None else kinds.rows_at(array, samples)
        )
        return Split(take(self.x), take(self.y), take(self.sample_weight))

    def take(self, indices: Any) -> tuple[Any, ...]:
        """Return the samples at `indices` (an index array or a slice) as a batch, in the form of `packed`."""
        packed: tuple[Any, ...] = keras.tree.map_structure(
            lambda array: kinds.batch_of(kinds.rows_at(array, indices)), self.packed
        )
        return packed


def _is_equal(a: Any, b: Any) -> bool:
    return kinds.is_plain(a) and kinds.is_plain(b) and a.dtype == b.dtype and np.array_equal(a, b)


@dataclass(frozen=True, slots=True)
class Data:
    """The splits of a space file. Only `train` is required.

    Attributes:
        raw: the splits as `load_data` returned them, for a user's `fit`; or the arguments of such a `fit`.
    """

    train: Split | Stream
    validation: Split | Stream | None = None
    test: Split | Stream | None = None
    raw: tuple[Any, ...] | FitArguments = ()

    @property
    def raw_splits(self) -> tuple[Any, Any]:
        """The training and the validation split as they were given; see `FitArguments.splits`."""
        return self.raw.splits if isinstance(self.raw, FitArguments) else self.raw[:2]

    @property
    def is_arrays(self) -> bool:
        """True if all splits are arrays, which are the same for all trials."""
        return not any(isinstance(part, Stream) for part in (self.train, self.validation, self.test))

    @property
    def is_streams(self) -> bool:
        """True if no arrays are trained or validated on."""
        return not any(isinstance(part, Split) for part in (self.train, self.validation))

    @property
    def is_plain(self) -> bool:
        """True if all splits are plain numpy arrays of numbers."""
        parts = [part for part in (self.train, self.validation, self.test) if part is not None]
        return all(isinstance(part, Split) and not part.special_kinds for part in parts)

    @property
    def nbytes(self) -> int:
        """Total size of the arrays in bytes."""
        return sum(part.nbytes for part in (self.train, self.validation, self.test) if isinstance(part, Split))


def prepare_data(raw: Any) -> Data:
    """Convert the return value of `load_data` to arrays with floats in `keras.config.floatx()`, or to streams.

    Args:
        raw: `(train, validation)` or `(train, validation, test)`. Each is a stream or consists of arrays that
            `model.fit` takes: from numpy, pandas (a Series becomes a column, as in Keras), SciPy, or tensors. Or the
            arguments of a user's `fit`, which may have no data at all.

    Raises:
        SpaceError: in one line, for anything else, for no samples, and for unequal numbers of samples.
    """
    if isinstance(raw, FitArguments):
        return _prepare_arguments(raw)
    if not isinstance(raw, tuple) or len(raw) not in (2, 3):
        found = f"a tuple of {len(raw)}" if isinstance(raw, tuple) else _kind(raw)
        raise SpaceError(f"load_data returned {found}: return (train, validation) or (train, validation, test)")
    if raw[0] is None:
        raise SpaceError("load_data returned None for train: return (x, y) arrays, or a dataset, to train on")
    train, validation, test = (
        None if part is None else _prepare_split(part, name)
        for part, name in zip((*raw, None), ("train", "validation", "test"), strict=False)
    )
    assert train is not None
    if isinstance(test, Stream) and test.endless:
        raise SpaceError("load_data: test has no end, so its evaluation would have none: return it with .take(batches)")
    return Data(train, validation, test, raw)


def _prepare_arguments(raw: FitArguments) -> Data:
    """Return the data among the arguments of a user's `fit`, which may use them in any way; no samples without data."""
    train, validation = raw.splits
    if train is not None:
        x = train[0]
        try:
            data = prepare_data((x if len(train) == 1 and as_stream(x, "train") is not None else train, validation))
            _ = data.train.step_spec  # a stream may have batches of a form that `model.fit` does not take
            return replace(data, raw=raw)
        except Exception:
            pass  # only the user's `fit` knows the meaning of its arguments
    return Data(Split(()), raw=raw)


def _prepare_split(raw: Any, name: str) -> Split | Stream:
    return as_stream(raw, name) or _make_split(raw, name)


@functools.lru_cache(maxsize=4)
def split_off(split: Split, fraction: float) -> tuple[Split, Split]:
    """Split off the last `fraction` of the samples for validation, as Keras does for `validation_split`.

    The same split gives the same parts, so that trials share their copies on a device.
    """
    at = math.floor(split.samples * (1.0 - fraction))
    if not 0 < at < split.samples:
        raise SpaceError(f"validation_split={fraction} leaves nothing to train or to validate on: give another")
    return split.part(slice(at)), split.part(slice(at, None))


def _make_split(raw: Any, name: str) -> Split:
    if not isinstance(raw, tuple) or not 1 <= len(raw) <= 3:
        found = f"a tuple of {len(raw)}" if isinstance(raw, tuple) else _kind(raw)
        raise SpaceError(
            f"load_data: {name} is {found}: return (x, y) or (x, y, sample_weight) of arrays, or a dataset"
        )
    parts = [
        None if part is None and position else _to_arrays(part, f"{name} {_NAMES[position]}")
        for position, part in enumerate(raw)
    ]
    x, y, weight = (*parts, None, None)[:3]
    split = Split(x, y, _nest_weights(weight, y, name))
    _check_lengths(split, name)
    return split


def _to_arrays(value: Any, where: str) -> Any:
    """Return `value` with every leaf as a numpy array and every list as a tuple."""
    arrays = keras.tree.map_structure(lambda leaf: kinds.to_array(leaf, where), value)
    if not keras.tree.flatten(arrays):
        raise SpaceError(f"load_data: {where} holds no array: return at least one")
    return keras.tree.lists_to_tuples(arrays)


def _nest_weights(weight: Any, y: Any, name: str) -> Any:
    """Return sample weights in the structure of `y`. As in Keras, one array serves all outputs."""
    if weight is None or not keras.tree.is_nested(y):
        return weight
    if not keras.tree.is_nested(weight):
        return keras.tree.map_structure(lambda _: weight, y)
    try:
        keras.tree.assert_same_structure(y, weight)
    except (ValueError, TypeError):
        raise SpaceError(
            f"load_data: {name} sample_weight is not nested as {name} y is: give one array, or one for every output"
        ) from None
    return weight


def _check_lengths(split: Split, name: str) -> None:
    counts = {
        label: {kinds.rows_of(array) for array in keras.tree.flatten(part)}
        for label, part in zip(_NAMES, (split.x, split.y, split.sample_weight), strict=True)
        if part is not None
    }
    if len(set.union(*counts.values())) > 1:
        found = ", ".join(f"{label} has {' and '.join(map(str, sorted(sizes)))}" for label, sizes in counts.items())
        raise SpaceError(
            f"load_data: {name} has unequal numbers of samples ({found}): give every array the same number"
        )
    if not split.samples:
        raise SpaceError(f"load_data: {name} has no samples: return at least one")


def _kind(value: Any) -> str:
    """Return the kind of `value` for an error message."""
    return "None" if value is None else f"a {type(value).__name__}"


# Inputs as JSON -------------------------------------------------------------------------------------------------------


def spec_to_json(x_spec: Any) -> Any:
    """Return the shapes and dtypes of inputs as JSON, to rebuild a model without its data."""
    if isinstance(x_spec, dict):
        return {"dict": {name: spec_to_json(item) for name, item in x_spec.items()}}
    if isinstance(x_spec, (list, tuple)):
        return {"tuple": [spec_to_json(item) for item in x_spec]}
    found = {"shape": list(x_spec.shape), "dtype": x_spec.dtype}
    if getattr(x_spec, "sparse", False):
        found["sparse"] = True
    if getattr(x_spec, "ragged", False):
        found |= {"ragged": True, **{name: getattr(x_spec, name) for name in _RAGGED}}
    return found


_RAGGED = ("ragged_rank", "row_splits_dtype")
"""Attributes of a ragged `keras.KerasTensor`."""


def spec_from_json(data: Any) -> Any:
    """Return the `keras.KerasTensor`s that `spec_to_json` converted to `data`."""
    if "dict" in data:
        return {name: spec_from_json(item) for name, item in data["dict"].items()}
    if "tuple" in data:
        return tuple(spec_from_json(item) for item in data["tuple"])
    return keras.KerasTensor(**data)
