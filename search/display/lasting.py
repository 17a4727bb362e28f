"""Output that outlives its reader: a terminal may be closed, and a pipe's reader may end (`search run … | head`).

Printing never decides about a search. What nobody can read any more is dropped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["LastingStream", "lasting_output"]


class LastingStream:
    """A text stream that writes to another one, until that is broken.

    Then the other one's file descriptor becomes one of /dev/null. So nothing else that writes to it fails, neither
    native code nor the interpreter at its end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._broken = False

    def write(self, text: str) -> int:
        """Write `text`, or drop it. Return its length."""
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Any, *arguments: str) -> None:
        if self._broken:
            return
        try:
            call(*arguments)
        except UnicodeError:
            raise
        except (OSError, ValueError):  # ValueError: it is closed
            self._broken = True
            with suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let `sys.stdout` and `sys.stderr` be `LastingStream`s in the block."""
    before = sys.stdout, sys.stderr
    if any(stream is None or isinstance(stream, LastingStream) for stream in before):
        yield
        return
    ours: Any = [LastingStream(stream) for stream in before]
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        # Somebody else may have redirected them meanwhile.
        if [sys.stdout, sys.stderr] == ours:
            sys.stdout, sys.stderr = before
