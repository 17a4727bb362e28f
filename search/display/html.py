"""Studies and trials as HTML, for the cells of notebooks.

All functions are pure. Every text is escaped. Colours come from the notebook, so that light and dark ones are readable:
styles use `currentColor` and `opacity` only, and set no background of their own.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from search.display import tables
from search.display.grid import Grid
from search.display.lines import trial_line
from search.display.python_messages import name_arguments
from search.display.text import NONE, format_objective, format_value, printable
from search.space.domain import Value
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["block", "line", "progress_bar", "study_html", "table", "trial_html", "trials_html"]

BEST_TRIALS = 10
"""The number of trials in a study's table."""

CURVE_SIZE = (160, 24)
"""The width and the height of a learning curve, in pixels."""

CURVE_POINTS = 200


# Parts ----------------------------------------------------------------------------------------------------------------


def block(*parts: str) -> str:
    """Return parts of HTML one below the other; wide ones can be scrolled."""
    return f'<div style="overflow-x: auto; line-height: 1.4">{"".join(filter(None, parts))}</div>'


def line(text: str, style: str = "") -> str:
    """Return a line of plain text as HTML. Flags and commands in it become arguments of Python's."""
    style = f"; {style}" if style else ""
    return f'<div style="white-space: pre-wrap{style}">{escape(name_arguments(text))}</div>'


def escape(text: str) -> str:
    """Return plain text as HTML, without characters that steer a terminal."""
    return html.escape(printable(text))


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (), bold: Collection[int] = ()
) -> str:
    """Return a table.

    Args:
        headings: plain text, one for each column.
        rows: the cells of each row, as HTML.
        left: the columns whose cells are aligned to the left, for text.
        bold: the rows in bold.
    """

    def cell(tag: str, column: int, content: str, style: str = "") -> str:
        side = "left" if column in left else "right"
        return f'<{tag} style="text-align: {side}; padding: 2px 8px; white-space: nowrap{style}">{content}</{tag}>'

    head = "".join(
        cell("th", i, escape(text), "; border-bottom: 1px solid currentColor") for i, text in enumerate(headings)
    )
    body = [
        "".join(
            cell("td", i, content, "; font-weight: bold" if number in bold else "") for i, content in enumerate(row)
        )
        for number, row in enumerate(rows)
    ]
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return (
        '<table style="border-collapse: collapse; margin: 4px 0; font-variant-numeric: tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )


def progress_bar(fraction: float) -> str:
    """Return a bar of which `fraction`, 0 to 1, is filled."""
    percent = 100 * min(1.0, max(0.0, fraction))
    return (
        f'<div role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100" aria-label='
        '"budget used" style="border: 1px solid currentColor; border-radius: 3px; max-width: 40em; height: 0.6em; '
        f'margin: 4px 0"><div style="background: currentColor; opacity: 0.6; height: 100%; width: {percent:.1f}%">'
        "</div></div>"
    )


def curve_line(values: Sequence[float], label: str) -> str:
    """Return a learning curve as a small picture; values that are not finite leave gaps.

    Args:
        label: names the curve for people who cannot see it.
    """
    if len(values) > CURVE_POINTS:
        values = [values[i * (len(values) - 1) // (CURVE_POINTS - 1)] for i in range(CURVE_POINTS)]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    (width, height), low, high = CURVE_SIZE, min(finite), max(finite)
    span = high / 2 - low / 2  # halved: the distance of two huge numbers overflows
    stretches: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if math.isfinite(value):
            part = (value / 2 - low / 2) / span if span else 0.5
            x, y = 2 + i * (width - 4) / (len(values) - 1), height - 2 - part * (height - 4)
            stretches[-1].append(f"{x:.1f},{y:.1f}")
        elif stretches[-1]:
            stretches.append([])
    drawn = "".join(
        f'<polyline points="{" ".join(points)}" fill="none" stroke="currentColor" stroke-width="1.5" '
        'stroke-linecap="round"/>'
        for points in stretches
        if points
    )
    return f'<svg role="img" aria-label="{escape(label)}" width="{width}" height="{height}">{drawn}</svg>'


def _as_html(shown: RenderableType) -> str:
    """Return the output of a function of `search.display.tables` as HTML."""
    if isinstance(shown, Grid):
        columns = [*shown.fixed, *shown.wide]
        cells = [[escape(column.cells[i]) for column in columns] for i in range(len(columns[0].cells))]
        left = [i for i, column in enumerate(columns) if column.left]
        bold = [i for i, style in enumerate(shown.styles) if "bold" in style]
        return table([column.heading for column in columns], cells, left, bold)
    if isinstance(shown, Group):
        return "".join(map(_as_html, shown.renderables))
    return line(shown.plain if isinstance(shown, Text) else str(shown))


# Studies and trials ---------------------------------------------------------------------------------------------------


def study_html(study: Study, *, alive: bool, now: float) -> str:
    """Return a study: its state, objective and progress, and its best trials with all their hyperparameters.

    Args:
        alive: a process runs the study.
        now: the time, in seconds since the epoch.
    """
    first, *others = tables.status_lines(study, alive, now)
    best = _as_html(tables.leaderboard(study, BEST_TRIALS, constants=True)) if study.best is not None else ""
    return block(line(first, "font-weight: bold"), *map(line, others), best)


def trials_html(study: Study, trials: Sequence[Trial], *, alive: bool) -> str:
    """Return a table of `trials`, in their order, with all their hyperparameters."""
    return block(_as_html(tables.trials_table(study, trials, alive)))


def trial_html(trial: Trial) -> str:
    """Return a trial: its state and objective, its hyperparameters, and the learning curve of its best execution."""
    head = trial_line(trial, params=False)
    domains = {parameter.name: str(parameter.domain) for parameter in trial.parameters}
    rows = [[escape(name), _exact(value), escape(domains.get(name, ""))] for name, value in trial.params.items()]
    values = table(("hyperparameter", "value", "domain"), rows, left=(0, 1, 2)) if rows else ""
    return block(line(head, "font-weight: bold"), values, _curves(trial))


def _exact(value: Value) -> str:
    return escape(repr(value) if isinstance(value, float) else format_value(value))


def _curves(trial: Trial) -> str:
    """Return a row for each metric: its curve, its value at the best epoch, and its last value."""
    curve = trial.best_execution.curve
    best = trial.best_execution.best_epoch
    names = {name: None for epoch in curve for name in epoch.logs}
    rows = []
    for name in names:
        values = [epoch.logs.get(name, math.nan) for epoch in curve]
        at_best = None if best is None or (found := trial.best_execution.find(best)) is None else found.logs.get(name)
        picture = curve_line(values, f"{name} over {len(values)} epochs")
        last = curve[-1].logs.get(name)
        rows.append([escape(name), picture, *(escape(format_objective(value)) for value in (at_best, last))])
    epoch = NONE if best is None or trial.black_box else best
    return table(("metric", "curve", f"at best epoch {epoch}", "last"), rows, left=(0, 1)) if rows else ""
