"""The data arguments of `Model.fit` as the (train, validation) of a space."""

from __future__ import annotations

import math
from typing import Any

from search.errors import OptionError
from search.space.fit_arguments import readable

__all__ = ["train_and_validation"]


def train_and_validation(x: Any, y: Any, sample_weight: Any, validation: Any, split: float) -> tuple[Any, Any]:
    """Return (train, validation), like a space file's `load_data`."""
    x, validation = readable(x), readable(validation)
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
