"""Parts of a study that cannot be pickled: the memory of the script's process has them, and so have its forks.

A study's pickle names such a part by a `Key`. A process that is neither the script's nor a fork of it lacks the part,
and says so when the part is needed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from search.errors import SpaceError

__all__ = ["Key", "Leaves", "Missing", "find", "forget", "keep", "leaves_of"]

Key = tuple[str, int, str]
"""The name of a part in a pickle: a token of the process, the part's number, and the name of its argument."""

_kept: dict[Key, Any] = {}
"""The parts of the studies of this process, and of the process that it was forked from."""


@runtime_checkable
class Leaves(Protocol):
    """An object that can be taken apart, such as the arguments of a call of `fit`."""

    def leaves(self) -> Sequence[tuple[str, Any]]:
        """Return the parts with their names: those of arguments, such as `x` or `callbacks[1]`."""


def leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the innermost parts of `value` with their names, such as `data[0][1]` and `data[0]['image']`."""
    if isinstance(value, Leaves):
        for inner, part in value.leaves():
            yield from leaves_of(inner, part)
    elif type(value) in (tuple, list):
        for number, part in enumerate(value):
            yield from leaves_of(f"{name}[{number}]", part)
    elif type(value) is dict:
        for key, part in value.items():
            yield from leaves_of(f"{name}[{key!r}]", part)
    else:
        yield name, value


def keep(parts: Mapping[str, Any]) -> dict[int, Key]:
    """Keep `parts` in the memory of this process, for itself and its later forks.

    Args:
        parts: the parts by the names of their arguments.

    Returns:
        The keys by the ids of the parts.
    """
    token = secrets.token_hex(8)
    keys = {id(part): (token, number, name) for number, (name, part) in enumerate(parts.items())}
    _kept.update((keys[id(part)], part) for part in parts.values())
    return keys


def forget(keys: Mapping[int, Key]) -> None:
    """Drop parts that `keep` has kept."""
    for key in keys.values():
        _kept.pop(key, None)


def find(key: Key) -> Any:
    """Return the part of a key in a pickle; a `Missing` if this process lacks it."""
    return _kept[key] if key in _kept else Missing(key[-1])


@dataclass(frozen=True, slots=True)
class Missing:
    """The place of a part that this process lacks. A call of it raises SpaceError.

    Attributes:
        name: the argument's name.
    """

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error()

    def error(self) -> SpaceError:
        """Return the error for a use of the part."""
        return SpaceError(f"{self.name} of this study came from its script's memory: run the script again, it goes on")
