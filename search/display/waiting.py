"""The line that says what a command waits for, from the first tenth of a second on.

In a terminal the line is drawn again and again, with the seconds, and erased at the end. Elsewhere each wait that is
long gets a line of its own, once. This module loads nothing slow: it runs while the rest of `search` is imported.
"""

from __future__ import annotations

import os
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["WaitingLine", "is_live"]

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_SECONDS = 0.1

FIRST_SECONDS = 0.2
"""Seconds after which the first wait of a process counts as long: Python itself has taken some before."""

LONG_SECONDS = 0.5
"""Seconds after which any other wait counts as long."""

SHOWN_SECONDS = 2.0
"""Seconds of a wait from which on the line in a terminal shows them."""

ERASE = "\r\x1b[2K"


def is_live(stream: TextIO) -> bool:
    """Return whether a line on `stream` can be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class WaitingLine:
    """A `Listener` of `search.executors.waiting` that writes to a terminal, or to a file or pipe.

    Args:
        stream: the place to write to.
        live: draw one line again and again; only a terminal can.
    """

    def __init__(self, stream: TextIO, *, live: bool) -> None:
        self._given, self._stream = stream, _own(stream)
        self._live = live
        self._changed = threading.Condition(threading.RLock())
        self._text: str | None = None
        self._since = 0.0
        self._long = FIRST_SECONDS
        self._drawn = False
        self._printed: set[str] = set()
        self._closed = False
        threading.Thread(target=self._keep_drawing, name="search-waiting", daemon=True).start()

    def show(self, text: str | None, *, soon: bool = False) -> None:
        """Wait for `text` from now on, None for nothing; `soon` if that is known to take long."""
        with self._changed:
            if self._closed:
                return
            if self._since:
                self._long = LONG_SECONDS
            self._text, self._since = text, time.monotonic()
            if soon:
                self._long = 0.0
            if text is None:
                self._erase()
            elif self._live or soon:
                self._draw()
            self._changed.notify()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Erase the line, and draw none until the block ends."""
        with self._changed:
            self._erase()
            yield

    def close(self) -> None:
        """Erase the line, and draw no other one."""
        with self._changed:
            self._text = None
            self._erase()
            if self._stream is not self._given and not self._closed:
                self._stream.close()
            self._closed = True
            self._changed.notify()

    def _keep_drawing(self) -> None:
        with self._changed:
            while not self._closed:
                if self._text is not None:
                    self._draw()
                self._changed.wait(None if self._text is None else FRAME_SECONDS)

    def _draw(self) -> None:
        assert self._text is not None
        seconds = time.monotonic() - self._since
        if self._live:
            self._write(ERASE + render_wait(self._text, seconds, _width(self._stream)))
            self._drawn = True
        elif seconds >= self._long and self._text not in self._printed:
            self._printed.add(self._text)
            self._write(f"{_printable(self._text)} …\n")

    def _erase(self) -> None:
        if self._drawn:
            self._write(ERASE)
            self._drawn = False

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True  # nobody reads any more


def render_wait(text: str, seconds: float, width: int) -> str:
    """Return the line about a wait that has lasted for `seconds`, narrower than `width` cells."""
    frame = FRAMES[int(seconds / FRAME_SECONDS) % len(FRAMES)]
    time_ = f" {seconds:.0f}s" if seconds >= SHOWN_SECONDS else ""
    room = width - 1 - len(f"{frame}  …{time_}")
    shown = ""
    for char in _printable(text):
        room -= 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if room < 0:
            break
        shown += char
    return f"{frame} {shown} …{time_}"[: max(0, width - 1)]


def _own(stream: TextIO) -> TextIO:
    """Return another handle of a terminal or file: the output of a process is redirected while frameworks load."""
    try:
        return open(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace")
    except (OSError, ValueError):
        return stream  # it has no file


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
