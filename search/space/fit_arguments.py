"""The arguments of a call of `tuner.search`, kept as they were given: a `fit` of a hypermodel's gets just these."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FitArguments", "OneReading", "readable"]

_DATA_NAMES = ("x", "y")
"""The names of the first positional arguments, as in `Model.fit`."""


@dataclass(frozen=True, eq=False)
class FitArguments:
    """Positional and named arguments, which stand in for the data of a space.

    Attributes:
        args: the positional arguments.
        kwargs: the named ones.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by name: positional ones have the names of `Model.fit`, or `args[2]` from the third one on."""
        names = [*_DATA_NAMES, *(f"args[{place}]" for place in range(len(_DATA_NAMES), len(self.args)))]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    @property
    def splits(self) -> tuple[Any, Any]:
        """The arguments as (train, validation) of a space: tuples of what `Model.fit` takes as `x`, `y` and weights.

        Each part is None if the arguments have none.
        """
        x, y, weight = (readable(self.named.get(name), name) for name in (*_DATA_NAMES, "sample_weight"))
        train = (x,) if y is None and weight is None else (x, y) if weight is None else (x, y, weight)
        validation = readable(self.named.get("validation_data"), "validation_data")
        return (None if x is None else train), tuple(validation) if isinstance(validation, list) else validation

    def leaves(self) -> list[tuple[str, Any]]:
        """Return each argument with its name; those within tuples, lists and dicts as `validation_data[0]`."""
        return [leaf for name, value in self.named.items() for leaf in _leaves(name, value)]

    def map(self, change: Callable[[str, Any], Any]) -> FitArguments:
        """Return the arguments with `change(name, value)` in place of each value."""
        named = {name: change(name, value) for name, value in self.named.items()}
        args = tuple(named[name] for name in list(named)[: len(self.args)])
        return FitArguments(args, {name: named[name] for name in self.kwargs})


class OneReading:
    """A generator that `Model.fit` was given: whoever reads it goes on where the last reader stopped.

    So its batches belong to no epoch, and a trial that continues gets others than one that was not interrupted.

    Args:
        generator: the generator, without an end or with `steps_per_epoch`.
        name: the argument's.
    """

    def __init__(self, generator: Iterator[Any], name: str) -> None:
        self._generator = generator
        self._name = name

    def __call__(self) -> Iterator[Any]:
        """Return the generator."""
        return self._generator

    def leaves(self) -> list[tuple[str, Any]]:
        """Return the generator, which cannot be pickled, as a part of its own."""
        return [(self._name, self._generator)]


def readable(value: Any, name: str) -> Any:
    """Return a generator, the argument called `name`, as a source of batches, and any other value as it is."""
    return OneReading(value, name) if isinstance(value, Generator) else value


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (tuple, list)):
        for place, item in enumerate(value):
            yield from _leaves(f"{name}[{place}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}[{key!r}]", item)
    else:
        yield name, value
