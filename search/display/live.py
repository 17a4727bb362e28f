"""The display of a running search: a live view in a terminal, plain lines elsewhere.

A view only reads a `Study`, and derives everything from it when it draws.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.display.area import TerminalSize, render_live_area
from search.display.lines import best_line, counts_line, progress_line
from search.display.progress import Pace, budget_progress
from search.executors.waiting import muted, quiet, stage
from search.options import Options
from search.space.error_text import escape_controls
from search.study.study import Study

if TYPE_CHECKING:
    from search.driver.loop import View

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0


def make_view(study: Study, options: Options, slot_labels: Sequence[str], *, live: bool, console: Console) -> View:
    """Return the view of a search: a live one if `live` is set and `console` is a terminal that supports it."""
    if live and console.is_terminal and not console.is_dumb_terminal:
        return LiveView(study, options, slot_labels, console)
    return PlainView(study, options, console)


class PlainView:
    """A view of plain lines: one for every new best trial, and at most every `LINE_SECONDS` one for progress."""

    def __init__(self, study: Study, options: Options, console: Console) -> None:
        self._study = study
        self._options = options
        self._console = console
        self._best = _best_objective(study)
        self._pace: Pace | None = None
        self._said_at = -math.inf
        self._said = ""

    def update(self, now: float) -> None:
        if self._pace is None:
            self._pace = Pace(now, budget_progress(self._study, self._options, now))
            self._said_at = now
        best = _best_objective(self._study)
        if best is not None and self._study.objective.better(best, self._best):
            self.say(best_line(self._study))
        self._best = best
        if 0 <= now - self._said_at < LINE_SECONDS:
            return
        self._said_at = now
        counts = f"{self._study.trained} {counts_line(self._study)}"
        if counts != self._said:
            self._said = counts
            self.say(progress_line(self._study, self._options, self._pace, now))

    def say(self, line: str) -> None:
        _print_line(self._console, line)

    def name_slot(self, slot: int, label: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class LiveView:
    """The live area at the foot of a terminal. Only `update` redraws it, so no thread reads a study as it changes."""

    def __init__(self, study: Study, options: Options, slot_labels: Sequence[str], console: Console) -> None:
        self._study = study
        self._options = options
        self._labels: list[str | None] = list(slot_labels)
        self._console = console
        self._pace: Pace | None = None
        self._live: Live | None = None
        self._muted = ExitStack()
        self._drawn_at = -math.inf
        self._now = 0.0
        self._closed = False

    def update(self, now: float) -> None:
        self._now = now
        if self._closed or self._study.header is None or 0 <= now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        if self._pace is None:
            self._pace = Pace(now, budget_progress(self._study, self._options, now))
        if self._live is None:
            self._muted.enter_context(muted())
            # Output to a file or a pipe must not end up on the terminal.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self._live.start()
        self._draw(self._labels)

    def _draw(self, labels: Sequence[str | None]) -> None:
        assert self._live is not None
        assert self._pace is not None
        size = TerminalSize(self._console.width, self._console.height)
        lines = render_live_area(self._study, self._options, labels, self._pace, self._now, size, stage())
        self._live.update(Group(*lines), refresh=True)

    def say(self, line: str) -> None:
        _print_line(self._console, line)

    def name_slot(self, slot: int, label: str | None) -> None:
        # New slots need not open in the order of their numbers.
        self._labels += [None] * (slot + 1 - len(self._labels))
        self._labels[slot] = label

    def close(self) -> None:
        if self._live is not None and not self._closed:
            self._closed = True
            try:
                self._draw(())  # no slot runs any more
            finally:
                self._live.stop()
                self._muted.close()
        self._closed = True


def _best_objective(study: Study) -> float | None:
    return None if study.best is None else study.best.objective


def _print_line(console: Console, line: str) -> None:
    # Lines are not wrapped: a user can copy them, and search for them in a log.
    with quiet():
        console.print(Text(escape_controls(line)), soft_wrap=True)
