"""The state of Keras objects that the user's code makes while it is imported, such as layers for augmentation.

A worker imports the code once, and builds many models with these objects. Each model must begin with them as the import
and `load_data`, which may adapt them, have left them: else a trial's result would depend on the trials that its worker
had before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from search.space.file import SPACE_MODULE, Space, SpaceRef
from search.space.names import globals_of
from search.worker.variables import read_variables

__all__ = ["ImportedState"]


class ImportedState:
    """The variables of the Keras objects that the code has made so far.

    Args:
        ref, space: the code that this process has imported, and its functions. No model has been built yet.
    """

    def __init__(self, ref: SpaceRef, space: Space) -> None:
        values = globals_of(sys.modules[SPACE_MODULE]) if ref.path is not None else _values_of_functions(space)
        self._objects = list({id(each): each for value in values for each in _stateful_objects(value)}.values())
        self._counts = [len(each.variables) for each in self._objects]
        self._variables = _variables_of(self._objects)
        self._arrays = read_variables(self._variables)

    @property
    def is_unchanged(self) -> bool:
        """True if all objects are as they were."""
        if self._counts != [len(each.variables) for each in self._objects]:
            return False
        return all(map(np.array_equal, self._arrays, read_variables(self._variables)))

    def reset(self) -> bool:
        """Give the variables their first values.

        Returns:
            False if an object has been built since: only a new import makes it what it was.
        """
        if self._counts != [len(each.variables) for each in self._objects]:
            return False
        for variable, array in zip(self._variables, self._arrays, strict=True):
            variable.assign(array)
        return True

    def is_in(self, model: Any) -> bool:
        """Return whether a model has variables of these objects, which other models may have, too."""
        known = {id(variable) for variable in _variables_of(self._objects)}
        return any(id(variable) in known for variable in model.variables)


def _variables_of(objects: Iterable[Any]) -> list[Any]:
    return list({id(variable): variable for each in objects for variable in each.variables}.values())


def _values_of_functions(space: Space) -> Iterator[Any]:
    """Yield the objects that the functions of a factory from Python refer to."""
    parts: tuple[Callable[..., Any] | None, ...] = (space.build_model, space.compile_model, space.callbacks, space.fit)
    for part in parts:
        yield getattr(part, "__self__", None)
        function = getattr(part, "__func__", part)
        yield from list(getattr(function, "__globals__", {}).values())
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # it is empty
                yield cell.cell_contents


def _stateful_objects(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the Keras objects with variables in a global: itself, or within containers and the user's own objects."""
    if isinstance(value, (keras.layers.Layer, keras.metrics.Metric, keras.optimizers.Optimizer)):
        yield value
    elif isinstance(value, keras.random.SeedGenerator):
        yield _OneVariable(value.state)
    elif depth < 2 and isinstance(value, (list, tuple, dict)):
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _stateful_objects(item, depth + 1)
    elif depth < 2 and type(value).__module__ == SPACE_MODULE:
        yield from _stateful_objects(getattr(value, "__dict__", None), depth + 1)


class _OneVariable:
    """A single variable, in the form of an object that has several."""

    def __init__(self, variable: Any) -> None:
        self.variables = [variable]
