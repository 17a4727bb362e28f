"""Tables of the page: headers with a scope, cells that are escaped, and a frame that scrolls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.display.text import NONE, format_value
from search.report.html import Child, Html, element, join, one_line
from search.space.domain import Value

WIDE = 14
"""Columns up to which a table fits on a printed page. In wider ones, words are broken."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: its text or HTML.
        sort: the number that it is sorted by; None sorts by its text.
        number: it stands on the right.
    """

    content: Child
    sort: float | None = None
    number: bool = False


def number_cell(value: float | None, text: str) -> Cell:
    """Return the cell of a number, shown as `text`."""
    return Cell(text if value is not None else NONE, value, number=True)


def value_cell(value: Value | None, *, used: bool = True) -> Cell:
    """Return the cell of a hyperparameter's value; empty if its trial did not use it."""
    if not used:
        return Cell("")
    shown = code(format_value(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(shown, float(value), number=True)
    return Cell(shown)


def code(text: str) -> Html:
    """Return a name or a value of a user's, on one line, which other text cannot flow into."""
    return element("bdi", one_line(text), class_="code")


def table(
    caption: str, columns: Sequence[Child], rows: Iterable[Sequence[Cell]], *, sortable: bool = False, key: bool = False
) -> Html:
    """Return a table in a frame that scrolls if it is too wide.

    Args:
        caption: names the table for screen readers.
        columns: the headers.
        rows: the cells of each row.
        sortable: a click on a header sorts the rows.
        key: the first cell of each row is its header.
    """
    body = [_row(row, key) for row in rows]
    first = next(iter(rows), ()) if isinstance(rows, Sequence) else ()
    numbers = [cell.number for cell in first] or [False] * len(columns)
    heads = [
        element(
            "th",
            element("button", column, type="button") if sortable else column,
            scope="col",
            class_="number" if number else None,
        )
        for column, number in zip(columns, numbers, strict=True)
    ]
    grid = element(
        "table",
        element("caption", caption, class_="hidden"),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_=" ".join(filter(None, ["sortable" if sortable else "", "wide" if len(columns) > WIDE else ""])) or None,
    )
    return element("div", grid, class_="frame", role="region", aria_label=caption, tabindex=0)


def _row(cells: Sequence[Cell], key: bool) -> Html:
    return element("tr", *(_cell(cell, header=key and i == 0) for i, cell in enumerate(cells)))


def _cell(cell: Cell, header: bool) -> Html:
    return element(
        "th" if header else "td",
        cell.content,
        scope="row" if header else None,
        class_="number" if cell.number else None,
        data_sort=None if cell.sort is None else repr(cell.sort),
    )


def definitions(pairs: Iterable[tuple[Child, Child]]) -> Html:
    """Return names with their facts; pairs without a fact are left out."""
    rows = [
        element("div", element("dt", name), element("dd", fact))
        for name, fact in pairs
        if fact is not None and fact != ""
    ]
    return element("dl", *rows)


def folded(summary: Child, *content: Child) -> Html:
    """Return content that a click unfolds."""
    return element("details", element("summary", summary), *content)


def listing(text: str) -> Html:
    """Return text with its line breaks, such as a traceback."""
    return element("pre", element("code", text), tabindex=0)


def sentences(*lines: Child) -> Html:
    """Return one paragraph for each line that is there."""
    return join(*(element("p", line) for line in lines if line))
