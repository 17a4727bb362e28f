"""The values of variables, of Keras and of frameworks: read, compared and assigned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError
from search.wording import pluralize
from search.worker.plain_values import Array

__all__ = [
    "HINT",
    "assign_checked",
    "assign_variables",
    "check_variables",
    "count_bytes",
    "describe_misfit",
    "read_variables",
]

HINT = "build_model must give the same model, compiled in the same way, for the same hyperparameters"
"""Advice for a model that differs from the saved one."""


def read_variables(variables: Sequence[Any]) -> list[Array]:
    """Copy the values of variables, of Keras or of a framework."""
    return [_read_variable(variable) for variable in variables]


def _read_variable(variable: Any) -> Array:
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if keras.config.backend() == "tensorflow":
        return np.array(value.numpy())  # this also reads a variable with a copy on each device
    return np.array(keras.ops.convert_to_numpy(value))


def count_bytes(model: Any) -> int:
    """Return the bytes in the variables of a model and of its optimizer, which are the most of its checkpoints."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(() if optimizer is None else optimizer.variables)]
    # The width in bits ends the name of a type, or comes before its variant: float32, bfloat16, float8_e4m3fn, bool.
    names = [keras.backend.standardize_dtype(variable.dtype).partition("_")[0] for variable in variables]
    widths = [int("".join(filter(str.isdigit, name)) or 8) for name in names]
    return sum(math.prod(each.shape) * -(-width // 8) for each, width in zip(variables, widths, strict=True))


def assign_variables(variables: Sequence[Any], arrays: Sequence[Array], what: str, file: Path) -> None:
    """Assign all arrays, or raise SpaceError before any is assigned.

    Args:
        what: the owner of the variables, for the error.
        file: the file that has held the arrays, for the error.
    """
    check_variables(variables, arrays, what, file)
    assign_checked(variables, arrays)


def assign_checked(variables: Sequence[Any], arrays: Sequence[Array]) -> None:
    """Assign arrays that `check_variables` has accepted."""
    for variable, array in zip(variables, arrays, strict=True):
        if hasattr(variable, "assign"):
            variable.assign(array)
        else:
            variable.detach().copy_(keras.ops.convert_to_tensor(array))  # a parameter of PyTorch


def check_variables(variables: Sequence[Any], arrays: Sequence[Array], what: str, file: Path) -> None:
    """Raise SpaceError if arrays do not fit variables."""
    if len(variables) != len(arrays):
        held = pluralize(len(arrays), "variable")
        raise SpaceError(f"{file} holds {held} of the {what}, the one that was built has {len(variables)}: {HINT}")
    for variable, array in zip(variables, arrays, strict=True):
        if misfit := describe_misfit(variable, array):
            name, built, saved = misfit
            raise SpaceError(f"{file} holds {saved} for the {what}'s variable {name}, which is {built}: {HINT}")


def describe_misfit(variable: Any, array: Array) -> tuple[str, str, str] | None:
    """Return a variable's name, its dtype and shape, and those of an array that does not fit; None if it fits."""
    built = f"{keras.backend.standardize_dtype(variable.dtype)}{list(variable.shape)}"
    saved = f"{array.dtype.name}{list(array.shape)}"
    return None if built == saved else (str(getattr(variable, "path", getattr(variable, "name", ""))), built, saved)
