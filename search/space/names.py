"""The names of Keras's objects that the user's code has made before it builds a model.

This module imports no framework. Counts of names have the form of Keras's own: {"dense": 2} for `dense` and `dense_1`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from search.space.file import is_users_module

__all__ = ["count_names", "globals_of", "names_in", "names_in_modules"]

_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?", re.DOTALL)


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Return the lowest counts after which Keras gives none of `names`."""
    counts: dict[str, int] = {}
    for name in names:
        found = _NUMBERED.fullmatch(name)
        assert found is not None  # any text matches
        counts[found[1]] = max(counts.get(found[1], 0), int(found[2] or 0) + 1)
    return counts


def names_in(value: Any) -> Iterator[str]:
    """Yield the names of a Keras object and of the layers in it, or those of the objects in a container."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            if _is_keras_object(item):
                yield from names_in(item)
    elif _is_keras_object(value):
        if isinstance(name := getattr(value, "name", None), str):
            yield name
        if isinstance(layers := getattr(value, "layers", None), (list, tuple)):
            yield from names_in(layers)


def _is_keras_object(value: Any) -> bool:
    return any(cls.__module__.partition(".")[0] == "keras" for cls in type(value).__mro__)


def names_in_modules(module: ModuleType) -> list[str]:
    """Return the names of the Keras objects that are globals of the user's `module` or of modules that it uses.

    Another program in this process may have imported such a module before, and Keras does not count its names again.
    """
    return [name for value in globals_of(module) for name in names_in(value)]


def globals_of(module: ModuleType) -> list[Any]:
    """Return the globals of the user's `module` and of the user's modules that it uses."""
    todo, seen, found = [module], {module.__name__}, list[Any]()
    while todo:
        for value in list(vars(todo.pop()).values()):
            found.append(value)
            used = _module_of(value)
            if used is not None and used.__name__ not in seen:
                seen.add(used.__name__)
                todo += [used] if is_users_module(used) else []
    return found


def _module_of(value: Any) -> ModuleType | None:
    """Return a module itself, or the module of a class, a function or an object's class; None if there is none."""
    if isinstance(value, ModuleType):
        return value
    made = value if isinstance(value, (type, FunctionType)) else type(value)
    return sys.modules.get(str(made.__module__))
