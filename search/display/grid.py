"""Tables of plain text that hide nothing: a row that is too wide for the terminal continues on lines of its own.

In a pipe or a file a table has its full width. All but `print_whole`, which prints, is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

__all__ = ["Blocks", "Column", "Grid", "print_whole", "wrap_cells"]

GAP = 2
"""Cells between two columns."""

INDENT = 2
"""Cells before a continuation line, if the first column leaves no room for more."""

LEAST_ROOM = 24
"""Cells that continuation lines have at least, if they begin below the second column."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and one cell for each row; `left` aligns to the left, for text."""

    heading: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        """The cells that the widest entry takes."""
        return max(cell_len(self.heading), *map(cell_len, self.cells), 0)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of the `fixed` columns and then the `wide` ones.

    If all do not fit in the terminal, the `wide` ones become lines below each row: `heading=cell, …`, wrapped. If the
    `fixed` ones do not fit either, each row becomes such lines.

    Attributes:
        styles: one of Rich's styles for each row, or none.
        below: for each row the entries of its lines, in place of those of the `wide` columns.
    """

    fixed: Sequence[Column]
    wide: Sequence[Column] = ()
    styles: Sequence[str] = ()
    below: Sequence[Sequence[str]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width if options.is_terminal else None)

    def lines(self, width: int | None) -> Iterator[Text]:
        """Yield the lines of the table: none is wider than `width` cells; None for as wide as they are."""
        columns = [*self.fixed, *self.wide]
        if width is None or _total(columns) <= width:
            yield from self._rows(columns, [()] * self._count, 0)
        elif _total(self.fixed) <= width:
            indent = self.fixed[0].width + GAP
            indent = indent if width - indent >= LEAST_ROOM else _indent(width)
            below = self.below or [_entries(self.wide, row) for row in range(self._count)]
            yield from self._rows(self.fixed, [wrap_cells(", ".join(each), width - indent) for each in below], indent)
        else:
            indent = _indent(width)
            for row in range(self._count):
                below = self.below[row] if self.below else _entries(self.wide, row)
                first, *rest = wrap_cells(", ".join([*_entries(self.fixed, row), *below]), width - indent)
                for number, line in enumerate((first, *rest)):
                    yield _line(line if number == 0 else " " * indent + line, self._style(row))

    @property
    def _count(self) -> int:
        return len(self.fixed[0].cells)

    def _style(self, row: int) -> str:
        return self.styles[row] if self.styles else ""

    def _rows(self, columns: Sequence[Column], below: Sequence[Sequence[str]], indent: int) -> Iterator[Text]:
        widths = [column.width for column in columns]
        yield _line(_join([column.heading for column in columns], columns, widths), "bold")
        for row in range(self._count):
            yield _line(_join([column.cells[row] for column in columns], columns, widths), self._style(row))
            for line in below[row]:
                yield _line(" " * indent + line, self._style(row))


@dataclass(frozen=True, slots=True)
class Blocks:
    """A table of many columns. Those that do not fit in the terminal follow in further tables with the same `keys`.

    Attributes:
        keys: the columns that identify a row.
        first: columns of the first table alone.
        columns: all others.
        styles: one of Rich's styles for each row, or none.
    """

    keys: Sequence[Column]
    first: Sequence[Column]
    columns: Sequence[Column]
    styles: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width if options.is_terminal else None
        for number, block in enumerate(self._blocks(width)):
            if number > 0:
                yield Text()
            yield from Grid(block, styles=self.styles).lines(width)

    def _blocks(self, width: int | None) -> Iterator[list[Column]]:
        block = [*self.keys, *self.first]
        for column in self.columns:
            if width is not None and len(block) > len(self.keys) and _total([*block, column]) > width:
                yield block
                block = [*self.keys]
            block.append(column)
        yield block


def print_whole(console: Console, renderable: RenderableType) -> None:
    """Print `renderable`, wrapped in a terminal. In a pipe or a file, no line is wrapped or cut."""
    console.print(renderable, soft_wrap=not console.is_terminal)


def wrap_cells(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` cells, 2 at least, broken at spaces, and within long words."""
    width = max(2, width)
    lines: list[str] = []
    for word in text.split(" ") if text else []:
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines += chop_cells(word, width) or [""]
    return lines


def _indent(width: int) -> int:
    return INDENT if width >= LEAST_ROOM else 0


def _entries(columns: Sequence[Column], row: int) -> list[str]:
    """Return the cells of a row with their headings; empty cells are left out."""
    return [f"{column.heading}={column.cells[row]}" for column in columns if column.cells[row]]


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width + GAP for column in columns) - GAP


def _join(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(cell + space if column.left else space + cell)
    return (" " * GAP).join(padded).rstrip()


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ignore")
