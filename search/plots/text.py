"""Users' text in figures: names and values of hyperparameters, errors, names of studies.

Plotly reads a part of HTML in every text, and a text may be of any length and any content. So each text of a user's
passes through `label` or `full`, and through no other way. No text of a user's is part of a template such as
`hovertemplate`, where `%{…}` has a meaning: templates refer to `text` and `customdata`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from search.display.text import format_value, printable
from search.space.domain import Value

__all__ = ["LABEL", "full", "label", "params_lines", "plain_value", "value_label"]

LABEL = 24
"""The most characters of a label at an axis."""

LINE = 80
"""The most characters of a line in a hover text."""

MAX_LINES = 12
"""The most lines of one text, or of a trial's hyperparameters, in a hover text."""


def label(text: str, width: int = LABEL) -> str:
    """Return `text` for a title, an axis or a legend: on one line, with an ellipsis beyond `width` characters."""
    return _escape(_shorten(text, width))


def full(text: str) -> str:
    """Return `text` for a hover text: whole, unless it has more than `MAX_LINES` lines of `LINE` characters."""
    lines = textwrap.wrap(_plain(text), LINE, drop_whitespace=False) or [""]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], "…"]
    return "<br>".join(_escape(line) for line in lines)


def value_label(value: Value, width: int = 16) -> str:
    """Return a hyperparameter's value as a label."""
    return label(format_value(value), width)


def plain_value(value: Value, width: int = 16) -> str:
    """Return a hyperparameter's value for the ticks of parallel coordinates, where Plotly reads no HTML."""
    return _shorten(format_value(value), width)


def params_lines(params: Mapping[str, Value]) -> str:
    """Return hyperparameters for a hover text, a line each; the first ones if they are many."""
    shown = list(params.items())[: MAX_LINES if len(params) <= MAX_LINES else MAX_LINES - 1]
    lines = [f"{label(name, LINE // 2)} = {value_label(value, LINE // 2)}" for name, value in shown]
    if len(shown) < len(params):
        lines.append(f"… {len(params) - len(shown)} more")
    return "<br>".join(lines)


def _shorten(text: str, width: int) -> str:
    line = _plain(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def _plain(text: str) -> str:
    # Half a surrogate pair, as in a file name that is not UTF-8, is no character of JSON.
    return printable(text.encode(errors="replace").decode())


def _escape(text: str) -> str:
    """Return `text` so that Plotly shows it as it is. MathJax would read what stands between two dollars."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("$", "&#36;")
