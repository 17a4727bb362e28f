"""The terminal as the commands use it: results on stdout, all else on stderr."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console, RenderableType

from search.executors.waiting import quiet
from search.space.error_text import escape_controls

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line for people on stderr. Commands for terminals, as in names or servers' answers, are escaped."""
    with quiet():
        err.print(escape_controls(line), markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """Print a line of a command's result on stdout; escaped as by `say`."""
    out.print(escape_controls(line), markup=False, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """Print a table or a page on stdout: wrapped in a terminal, whole elsewhere."""
    from search.display.grid import print_whole

    with quiet():
        print_whole(out, renderable)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))


def fail(message: str, code: int) -> int:
    say(f"search: {' '.join(message.split())}")
    return code
