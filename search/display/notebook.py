"""The display of a search in a notebook: one output of a cell, replaced as the search goes on.

It needs no widgets, so a saved notebook keeps its final state. IPython is used only in a program that IPython runs:
`search` does not depend on it.
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from search.display.area import HEADINGS, TEXT_COLUMNS, area_header, budget_line, slot_rows, used_columns
from search.display.html import block, escape, line, progress_bar, table
from search.display.lines import best_line, counts_line
from search.display.progress import Pace, budget_progress
from search.display.python_messages import name_arguments
from search.display.text import format_params
from search.options import Options
from search.space.error_text import escape_controls
from search.study.study import Study

__all__ = ["NotebookView", "in_notebook", "notebook_view"]

REDRAW_SECONDS = 0.5

KEPT_LINES = 100
"""The most lines above the progress. The first ones tell the plan, and are kept."""

PLAN_LINES = 8
"""The first lines, which are kept."""

SHOWN_SLOTS = 24

Publish = Callable[[dict[str, str]], None]
"""A function that shows an output, by MIME type, in place of the one before."""


def in_notebook() -> bool:
    """Return whether this program is the kernel of a notebook. IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def notebook_view() -> NotebookView:
    """Return a view that is shown in the running cell. `in_notebook` must be true."""
    # Optuna imports tqdm, which then asks for widgets. Nothing here needs them.
    warnings.filterwarnings("ignore", "IProgress not found")
    display: Any = sys.modules["IPython.display"]
    name = f"search-{secrets.token_hex(8)}"
    handles: list[Any] = []

    def publish(output: dict[str, str]) -> None:
        if handles:
            display.update_display(output, raw=True, display_id=name)
        else:
            handles.append(display.display(output, raw=True, display_id=name))

    return NotebookView(publish)


class NotebookView:
    """A view in a notebook: lines that stay, and below them the progress.

    It is made before the study is known, so that the lines of the beginning are among the others. Only the thread that
    made it draws: another thread's output may belong to another cell.

    Args:
        publish: shows an output.
        clock: tells the time for the pace of drawing, in seconds.
    """

    def __init__(self, publish: Publish, clock: Callable[[], float] = time.monotonic) -> None:
        self._publish = publish
        self._clock = clock
        self._thread = threading.get_ident()
        self._plan: list[str] = []
        self._lines: deque[str] = deque(maxlen=KEPT_LINES - PLAN_LINES)
        self._left_out = 0
        self._drawn: dict[str, str] = {}
        self._drawn_at = -REDRAW_SECONDS
        self._search: tuple[Study, Options] | None = None
        self._labels: list[str | None] = []
        self._pace: Pace | None = None
        self._now = 0.0
        self._closed = False

    def attach(self, study: Study, options: Options, slot_labels: Sequence[str]) -> NotebookView:
        """Show the progress of `study` from now on. Return this view."""
        self._search = study, options
        self._labels = list(slot_labels)
        self._closed = False
        return self

    def update(self, now: float) -> None:
        self._now = now
        if not self._closed and 0 <= self._clock() - self._drawn_at < REDRAW_SECONDS:
            return
        self._draw()

    def say(self, line: str) -> None:
        for each in escape_controls(name_arguments(line)).splitlines():
            if len(self._plan) < PLAN_LINES:
                self._plan.append(each)
            else:
                self._left_out += len(self._lines) == self._lines.maxlen
                self._lines.append(each)
        # While a search runs, `update` draws: a thousand lines in a second are one output.
        if threading.get_ident() == self._thread and (self._search is None or self._closed):
            self._draw()

    def name_slot(self, slot: int, label: str | None) -> None:
        self._labels += [None] * (slot + 1 - len(self._labels))
        self._labels[slot] = label

    def close(self) -> None:
        self._closed = True
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        parts, plain = self._log()
        progress, progress_plain = self._progress()
        output = {
            "text/html": block(*parts, *progress),
            "text/plain": "\n".join([*plain, *progress_plain]),
        }
        if output != self._drawn:
            self._drawn = output
            self._publish(output)

    def _log(self) -> tuple[list[str], list[str]]:
        """Return the lines that stay, as HTML and as plain text."""
        left_out = [f"… {self._left_out} lines left out …"] if self._left_out else []
        plain = [*self._plan, *left_out, *self._lines]
        return [line(each, "opacity: 0.8; font-size: 0.9em") for each in plain], plain

    def _progress(self) -> tuple[list[str], list[str]]:
        """Return the progress of the search, as HTML and as plain text; nothing before the first record."""
        if self._search is None or self._search[0].header is None:
            return [], []
        study, options = self._search
        if self._pace is None:
            self._pace = Pace(self._now, budget_progress(study, options, self._now))
        header, best = area_header(study, options), best_line(study) or "best: none yet"
        budget, amount = budget_line(study, options, self._pace, self._now)
        counts = counts_line(study, alive=not self._closed)  # after a stop at once, trials have not ended
        plain = [header, best, counts, amount]
        bar = [] if budget is None else [progress_bar(budget.fraction)]
        lines = [line(header, "font-weight: bold; margin-top: 6px"), self._slots(study), line(best)]
        return [*lines, line(counts), *bar, line(amount)], plain

    def _slots(self, study: Study) -> str:
        """Return the table of slots; "" if the search has ended, as nothing runs any more."""
        rows, left_out = slot_rows(study, [] if self._closed else self._labels, SHOWN_SLOTS + 1)
        if not rows:
            return ""
        columns = used_columns(rows)
        cells = [[*row[:-1], format_params(params) or row[-1]] for row, params in rows]
        shown = [[escape(row[i]) for i in columns] for row in cells]
        left = [place for place, i in enumerate(columns) if HEADINGS[i] in TEXT_COLUMNS]
        return table([HEADINGS[i] for i in columns], shown, left) + (line(left_out) if left_out else "")
