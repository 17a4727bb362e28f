"""Our errors as a script for KerasTuner catches them: each is a ValueError, a TypeError or a RuntimeError, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from search.compat.original import errors
from search.errors import OptionError, SearchError, SpaceError

__all__ = ["as_kerastuner"]

_NAMED = re.compile(r"\b(\w*Error)\b")
_BUILTIN = {cls.__name__: cls for cls in (ValueError, TypeError, RuntimeError)}


@contextmanager
def as_kerastuner() -> Iterator[None]:
    """Raise each of our errors within the context as one that is also the error that KerasTuner would raise."""
    try:
        yield
    except SearchError as error:
        kind = _kind_of(error)
        if isinstance(error, kind):
            raise
        raise _combined(type(error), kind)(*error.args) from error.__cause__


def _kind_of(error: SearchError) -> type[Exception]:
    """Return the class of KerasTuner's error.

    An exception of the user's code is known by its name in the message: KerasTuner raises it as it is.
    """
    if isinstance(error, OptionError):
        return ValueError
    text = str(error)
    for name in _NAMED.findall(text):
        fatal: type[Exception] = getattr(errors, name, Exception)
        if issubclass(fatal, errors.FatalError):
            return fatal
    if isinstance(error, SpaceError):
        named = next((_BUILTIN[name] for name in _NAMED.findall(text) if name in _BUILTIN), None)
        return named or (errors.FatalTypeError if "returned" in text else RuntimeError)
    return RuntimeError


_classes: dict[tuple[str, str], type[SearchError]] = {}


def _combined(ours: type[SearchError], theirs: type[Exception]) -> type[SearchError]:
    """Return a class that is both, with the name of ours."""
    key = ours.__name__, theirs.__name__
    if key not in _classes:
        _classes[key] = type(ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__doc__": ours.__doc__})
    return _classes[key]
