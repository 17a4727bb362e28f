"""The end of a text file, which may be large: a log has the output of a whole training."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["last_lines"]

_TAIL_BYTES = 1 << 20
"""Bytes at the end of a file that are read, at most."""


def last_lines(path: Path, lines: int | None = None) -> str:
    """Return the last lines of a text file, "" if it cannot be read. Only its last MiB is read.

    Args:
        lines: the most lines; None for any number.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - _TAIL_BYTES)
            file.seek(begin)
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    found = text.splitlines()
    if begin and len(found) > 1:
        found = found[1:]  # the first line was cut
    return "\n".join(found if lines is None else found[-lines:])
