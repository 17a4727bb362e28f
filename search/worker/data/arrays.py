"""What a space file's `load_data` returned, made ready for training: arrays, checked and cast as Keras would; streams.

A *split* is `(x,)`, `(x, y)` or `(x, y, sample_weight)`; each of the three is one array, or a dict, list or tuple of
arrays for models with several inputs or outputs. Lists become tuples, as Keras makes them before training. What gives
batches itself is a `Stream`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError
from search.worker.data.streams import Stream, as_stream

__all__ = ["Data", "Split", "describe", "described", "prepare", "split_off"]

_NAMES = ("x", "y", "sample_weight")


@dataclass(frozen=True, slots=True)
class Split:
    """Samples that belong together; all arrays have the same length.

    Attributes:
        x: inputs, an array of shape (samples, …) or a dict or tuple of them.
        y: targets, like `x`; None where the model needs none.
        sample_weight: a weight for every sample, shape (samples,) or as the loss allows; as nested as `y`; or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    @property
    def packed(self) -> tuple[Any, ...]:
        """`(x,)`, `(x, y)` or `(x, y, sample_weight)`, as `train_step` and `validation_data` take it."""
        if self.y is None:
            return (self.x,)
        return (self.x, self.y) if self.sample_weight is None else (self.x, self.y, self.sample_weight)

    @property
    def samples(self) -> int:
        return len(keras.tree.flatten(self.x)[0])

    @property
    def x_spec(self) -> Any:
        """The inputs' shapes and dtypes as `keras.KerasTensor`s, the batch's size open."""
        return keras.tree.map_structure(
            lambda array: keras.KerasTensor((None, *array.shape[1:]), array.dtype.name), self.x
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in keras.tree.flatten(self.packed))

    def is_equal(self, other: object) -> bool:
        """Whether `other` has the same samples. Arrays that both share are not looked at."""
        if not isinstance(other, Split):
            return False
        mine, others = keras.tree.flatten(self.packed), keras.tree.flatten(other.packed)
        if len(self.packed) != len(other.packed) or len(mine) != len(others):
            return False
        pairs = zip(mine, others, strict=True)
        return all(a is b or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs)

    def part(self, where: slice) -> Split:
        """The samples in a slice."""
        take = functools.partial(keras.tree.map_structure, lambda array: None if array is None else array[where])
        return Split(take(self.x), take(self.y), take(self.sample_weight))

    def take(self, indices: Any) -> tuple[Any, ...]:
        """The samples at `indices` (an index array or a slice), packed."""
        packed: tuple[Any, ...] = keras.tree.map_structure(lambda array: array[indices], self.packed)
        return packed


@dataclass(frozen=True, slots=True)
class Data:
    """The splits of a space file; only `train` must be there.

    Attributes:
        raw: what `load_data` returned for each, for a `fit` of the user's.
    """

    train: Split | Stream
    validation: Split | Stream | None = None
    test: Split | Stream | None = None
    raw: tuple[Any, ...] = ()

    @property
    def is_arrays(self) -> bool:
        """Whether all splits are arrays, which stay as they are from trial to trial."""
        return not any(isinstance(part, Stream) for part in (self.train, self.validation, self.test))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(part.nbytes for part in (self.train, self.validation, self.test) if isinstance(part, Split))


def prepare(raw: Any) -> Data:
    """`raw`, as `load_data` returned it: numpy arrays with floats in `keras.config.floatx()`, or streams.

    Takes `(train, validation)` or `(train, validation, test)`, each of arrays that `numpy.asarray` understands (numpy,
    pandas, of which a Series becomes a column, as in Keras, tensors), or a stream.

    Raises:
        SpaceError: in one line, for anything else, for no samples, and for unequal numbers of samples.
    """
    if not isinstance(raw, tuple) or len(raw) not in (2, 3):
        found = f"a tuple of {len(raw)}" if isinstance(raw, tuple) else _kind(raw)
        raise SpaceError(f"load_data returned {found}: return (train, validation) or (train, validation, test)")
    if raw[0] is None:
        raise SpaceError("load_data returned None for train: return (x, y) arrays, or a dataset, to train on")
    train, validation, test = (
        None if part is None else _part(part, name)
        for part, name in zip((*raw, None), ("train", "validation", "test"), strict=False)
    )
    assert train is not None
    return Data(train, validation, test, raw)


def _part(raw: Any, name: str) -> Split | Stream:
    return as_stream(raw, name) or _split(raw, name)


def split_off(split: Split, fraction: float) -> tuple[Split, Split]:
    """The samples but for the last `fraction`, and those: what `validation_split` means to Keras."""
    at = math.floor(split.samples * (1.0 - fraction))
    if not 0 < at < split.samples:
        raise SpaceError(f"validation_split={fraction} leaves nothing to train or to validate on: give another")
    return split.part(slice(at)), split.part(slice(at, None))


def _split(raw: Any, name: str) -> Split:
    if not isinstance(raw, tuple) or not 1 <= len(raw) <= 3:
        found = f"a tuple of {len(raw)}" if isinstance(raw, tuple) else _kind(raw)
        raise SpaceError(
            f"load_data: {name} is {found}: return (x, y) or (x, y, sample_weight) of arrays, or a dataset"
        )
    parts = [
        None if part is None and position else _arrays(part, f"{name} {_NAMES[position]}")
        for position, part in enumerate(raw)
    ]
    x, y, weight = (*parts, None, None)[:3]
    split = Split(x, y, _weights(weight, y, name))
    _check_lengths(split, name)
    return split


def _arrays(value: Any, where: str) -> Any:
    """`value` with every leaf a numpy array and every list a tuple."""
    arrays = keras.tree.map_structure(lambda leaf: _array(leaf, where), value)
    if not keras.tree.flatten(arrays):
        raise SpaceError(f"load_data: {where} holds no array: return at least one")
    return keras.tree.lists_to_tuples(arrays)


def _array(leaf: Any, where: str) -> np.ndarray[Any, Any]:
    if not hasattr(leaf, "__array__"):
        raise SpaceError(f"load_data: {where} holds {_kind(leaf)}, which is no array: return numpy arrays")
    try:
        array = np.asarray(leaf)
    except Exception as error:
        raise SpaceError(
            f"load_data: {where} cannot be made a numpy array ({type(error).__name__}: {error}): return dense arrays"
        ) from error
    # Extension types such as bfloat16 are of kind V.
    is_float = array.dtype.kind == "f" or "float" in array.dtype.name
    if array.dtype.kind not in "biufc" and not is_float:
        raise SpaceError(
            f"load_data: {where} is of dtype {array.dtype}: return numbers, encode text and categories first"
        )
    if array.ndim == 0:
        raise SpaceError(f"load_data: {where} is a single value: return an array with one row for each sample")
    if is_float and array.dtype.name != keras.config.floatx():
        array = array.astype(keras.config.floatx())
    # Keras makes a pandas Series a column.
    return array[:, None] if hasattr(leaf, "iloc") and array.ndim == 1 else array


def _weights(weight: Any, y: Any, name: str) -> Any:
    """One array of weights stands for every output; several must be nested as `y` is. As in Keras."""
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
        label: {len(array) for array in keras.tree.flatten(part)}
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
    """`value` in a few words, for an error message."""
    return "None" if value is None else f"a {type(value).__name__}"


# Inputs as JSON -------------------------------------------------------------------------------------------------------


def describe(x_spec: Any) -> Any:
    """The inputs' shapes and dtypes as JSON, for who brings a model back without its data."""
    if isinstance(x_spec, dict):
        return {"dict": {name: describe(item) for name, item in x_spec.items()}}
    if isinstance(x_spec, (list, tuple)):
        return {"tuple": [describe(item) for item in x_spec]}
    return {"shape": list(x_spec.shape), "dtype": x_spec.dtype}


def described(data: Any) -> Any:
    """The `keras.KerasTensor`s that `describe` made `data` of."""
    if "dict" in data:
        return {name: described(item) for name, item in data["dict"].items()}
    if "tuple" in data:
        return tuple(described(item) for item in data["tuple"])
    return keras.KerasTensor(tuple(data["shape"]), data["dtype"])
