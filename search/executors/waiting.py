"""The words for what a search waits for, on their way from the code that waits to the person who does.

A program that shows them sets a `Listener`. Without one they go nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

__all__ = ["Listener", "listen", "muted", "quiet", "show_stage", "stage", "waiting_for"]


class Listener(Protocol):
    """Shows what the process waits for."""

    def show(self, text: str | None, *, soon: bool = False) -> None:
        """Show that the process waits for `text`, None for nothing.

        Args:
            soon: the wait is known to be long, so it is shown at once.
        """

    def quiet(self) -> AbstractContextManager[None]:
        """Return a context in which the listener writes nothing, for other output."""


_listener: Listener | None = None
_text: str | None = None


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Let `listener` show all waits of the block."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def waiting_for(text: str, *, soon: bool = False) -> Iterator[None]:
    """Say that the process waits for `text` until the block ends, or until a stage of it is shown."""
    before = _text
    show_stage(text, soon=soon)
    try:
        yield
    finally:
        show_stage(before)


def show_stage(text: str | None, *, soon: bool = False) -> None:
    """Say that the process waits for `text` from now on, None for nothing."""
    global _text
    changed, _text = text != _text, text
    if _listener is not None and changed:
        _listener.show(text, soon=soon)


def stage() -> str | None:
    """Return what the process waits for, None for nothing."""
    return _text


@contextmanager
def muted() -> Iterator[None]:
    """Let no listener show the waits of the block: something else shows them."""
    global _listener
    before = _listener
    if before is not None:
        before.show(None)
    _listener = None
    try:
        yield
    finally:
        _listener = before


def quiet() -> AbstractContextManager[None]:
    """Return a context for other output to the terminal."""
    return nullcontext() if _listener is None else _listener.quiet()
