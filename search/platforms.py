"""The platforms that a search runs on. This module imports nothing else, as it is asked before anything is imported."""

from __future__ import annotations

import sys

__all__ = ["UNSUPPORTED", "is_unsupported", "untested_line"]

UNSUPPORTED = (
    "search does not run on Windows, as its workers are forked: run it in WSL, the Windows Subsystem for Linux "
    "(wsl --install)"
)
"""The line for a platform without `fork`."""

_NAMES = {"darwin": "macOS", "cygwin": "Cygwin"}


def is_unsupported(platform: str | None = None) -> bool:
    """Return whether no search can run here.

    Args:
        platform: as `sys.platform`, which is the default.
    """
    return (platform or sys.platform) == "win32"


def untested_line(platform: str | None = None) -> str | None:
    """Return the line about a platform on which the tests have never run; None on Linux.

    Args:
        platform: as `sys.platform`, which is the default.
    """
    found = platform or sys.platform
    if found.startswith("linux"):
        return None
    return f"{_NAMES.get(found, found)} is untested: all tests run on Linux. If something fails here, try it on Linux"
