"""The arguments of `Model.fit` that `search` takes, and the data among them as the (train, validation) of a space."""

from __future__ import annotations

import math
from typing import Any

from search.errors import OptionError, nearest
from search.space.fit_arguments import readable

__all__ = ["bind_arguments", "take_data", "train_and_validation"]

_POSITIONAL = ("x", "y", "batch_size", "epochs", "verbose", "callbacks", "validation_split", "validation_data")

_FIT = (
    *_POSITIONAL,
    "shuffle",
    "class_weight",
    "sample_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
"""The arguments of `Model.fit` that `search` takes, the positional ones first; a `fit` of one's own may take others."""

_SPLIT = {"x": None, "y": None, "sample_weight": None, "validation_data": None, "validation_split": 0.0}
"""The arguments of `search` that are data, with their defaults."""


def bind_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `search` by the names of `Model.fit`.

    Raises:
        OptionError: `Model.fit` has no such argument, or there are no data.
    """
    if len(args) > len(_POSITIONAL):
        raise OptionError(f"search takes {len(_POSITIONAL)} positional arguments: name the others")
    positional = dict(zip(_POSITIONAL, args, strict=False))
    if twice := positional.keys() & kwargs.keys():
        raise OptionError(f"search was given {min(twice)} twice: give it once")
    named = {**positional, **kwargs}
    for name in named:
        if name not in _FIT:
            raise OptionError(f"search does not take {name!r}: leave it out.{nearest(name, _FIT)}")
    if named.get("x") is None:
        raise OptionError("search was given no data: give x and y, or a dataset, as Model.fit takes them")
    return named


def take_data(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Remove the data from the arguments of `search`, and return them as (train, validation)."""
    return train_and_validation(*(arguments.pop(name, default) for name, default in _SPLIT.items()))


def train_and_validation(x: Any, y: Any, sample_weight: Any, validation: Any, split: float) -> tuple[Any, Any]:
    """Return (train, validation), like a space file's `load_data`."""
    x, validation = readable(x, "x"), readable(validation, "validation_data")
    arrays = y is not None or sample_weight is not None or isinstance(x, (dict, list, tuple)) or _is_array(x)
    train = x
    if arrays:
        train = (x,) if y is None and sample_weight is None else (x, y)
        train = train if sample_weight is None else (x, y, sample_weight)
    if validation is not None or not split:
        return train, tuple(validation) if isinstance(validation, list) else validation
    if not arrays:
        raise OptionError("validation_split needs arrays: give validation_data")
    samples = _count_samples(x)
    at = math.floor(samples * (1.0 - split))
    if not 0 < at < samples:
        raise OptionError(f"validation_split={split} leaves nothing to train or to validate on: give another")
    return _take_samples(train, slice(at)), _take_samples(train, slice(at, None))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "shape")


def _count_samples(value: Any) -> int:
    while isinstance(value, (dict, list, tuple)) and len(value):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return int(value.shape[0]) if hasattr(value, "shape") else len(value)


def _take_samples(value: Any, samples: slice) -> Any:
    if isinstance(value, dict):
        return {name: _take_samples(item, samples) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_take_samples(item, samples) for item in value)
    if hasattr(value, "tocsr"):
        return value.tocsr()[samples]  # other sparse matrices of SciPy's have no rows
    return value if value is None else getattr(value, "iloc", value)[samples]
