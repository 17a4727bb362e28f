"""The terminal as the commands use it: results on stdout, all else on stderr."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console, RenderableType

from search.executors.waiting import quiet

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line for people on stderr."""
    with quiet():
        err.print(line, markup=False, soft_wrap=True)


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
