"""Values as text, for terminals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from search.space.domain import Value
from search.space.error_text import escape_controls
from search.wording import format_time

NONE = "–"  # noqa: RUF001  # the placeholder for a missing value


def format_seconds(seconds: float | None) -> str:
    """Return a time in its two largest units, a dash for an unknown one: 0.42s, 12s, 3m 5s, 2h 4m, 1d 3h."""
    return NONE if seconds is None or not math.isfinite(seconds) else format_time(seconds)


def format_value(value: Value) -> str:
    """Return `value` on one line: floats with 4 significant digits, integers in full."""
    if isinstance(value, float):
        return f"{value:.0f}" if 9999.5 <= abs(value) < 1e7 else f"{value:.4g}"
    return printable(str(value))


def format_objective(value: float | None) -> str:
    """Return an objective with trailing zeros, so that a column of them is easy to compare: 0.9500."""
    if value is None:
        return NONE
    text = format_value(float(value))
    return f"{value:#.4g}" if math.isfinite(value) and 1e-4 <= abs(value) < 999.95 else text


def format_params(params: Mapping[str, Value], width: int | None = None) -> str:
    """Return hyperparameters as `lr=0.003 units=64`; an ellipsis replaces those that exceed `width` cells."""
    items = [f"{printable(name)}={format_value(value)}" for name, value in params.items()]
    text = " ".join(items)
    if width is None or cell_len(text) <= width:
        return text
    # A truncated value would read as another value. So whole items go; only the first one is truncated.
    for kept in range(len(items) - 1, 0, -1):
        text = " ".join([*items[:kept], "…"])
        if cell_len(text) <= width:
            return text
    return truncate(items[0], width)


def printable(text: str) -> str:
    """Return `text` on one line, without the characters that a terminal takes for commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def coloured(text: str) -> Text:
    """Return the output of a user's code with its colours. Other commands for terminals are escaped."""
    parts = _COLOUR.split(text.replace("\r\n", "\n").replace("\r", "\n"))
    return Text.from_ansi("".join(part if number % 2 else escape_controls(part) for number, part in enumerate(parts)))


_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def truncate(text: str, width: int) -> str:
    """Return `text` in at most `width` cells; an ellipsis replaces the rest."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 0 else ""
