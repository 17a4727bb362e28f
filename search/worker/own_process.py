"""The process that speaks with the driver, and the forks of it that the user's code makes.

A fork that raises, or that returns where its parent would, comes back into our code with all that its parent has. It
must not send messages, write files, or go on with the search: that would be in its parent's name.
"""

from __future__ import annotations

import os
import sys
import traceback

__all__ = ["claim_process", "end_if_forked"]

_process: int | None = None
"""The id of the process that speaks with the driver; a fork has its parent's."""


def claim_process() -> None:
    """Let this process speak with the driver, and none of its forks."""
    global _process
    _process = os.getpid()


def end_if_forked() -> None:
    """End this process if it is a fork of the one that speaks with the driver, as Python would end it."""
    if _process in (None, os.getpid()):
        return
    error = sys.exception()
    code = error.code if isinstance(error, SystemExit) else 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    if error is None:
        print("search: a fork of the user's code returned, as only its parent may: end it by os._exit", file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
