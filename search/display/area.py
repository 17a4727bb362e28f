"""The live area at the foot of a terminal, as lines. The time is an argument, in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from search.display.grid import wrap_cells
from search.display.lines import (
    best_line,
    counts_line,
    epoch_limit,
    format_amount,
    format_time,
    header_line,
    variable_params,
)
from search.display.progress import BudgetProgress, Pace, budget_progress, current_options
from search.display.text import NONE, format_objective, format_params, format_value, printable, truncate
from search.options import Options
from search.space.domain import Value
from search.study.study import Study
from search.study.trials import Trial
from search.wording import pluralize

SMALLEST_BAR = 10


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """The size of a terminal, in cells."""

    width: int
    height: int


def render_live_area(
    study: Study,
    options: Options,
    slot_labels: Sequence[str | None],
    pace: Pace,
    now: float,
    size: TerminalSize,
    stage: str | None = None,
) -> list[Text]:
    """Return the lines of the live area: narrower than the terminal, and fewer than its rows.

    Args:
        stage: what the search waits for while no trial trains.
    """
    width = size.width - 1  # a full line makes some terminals begin another one
    counts = counts_line(study) + (f" · {printable(stage)} …" if stage else "")
    below = [Text(counts), _bar(study, options, pace, now, width)]
    slots = _slot_lines(study, slot_labels, width, size.height - len(below) - 3)
    best = _best_lines(study, width, size.height - len(below) - len(slots) - 2)
    lines = [Text(area_header(study, options), "bold"), *slots, *best, *below]
    for line in lines:
        line.no_wrap = True
        line.truncate(max(1, width), overflow="ellipsis")
    return lines


def _best_lines(study: Study, width: int, height: int) -> list[Text]:
    """Return the best trial in at most `height` lines; the hyperparameters are cut only if these do not suffice."""
    if study.best is None:
        return [Text("best: none yet", "dim")]
    whole = best_line(study)
    first, *rest = wrap_cells(whole, width - len(BELOW))
    lines = [first, *(BELOW + line for line in rest)]
    return [Text(line, "green") for line in (lines if len(lines) <= height else [best_line(study, width)])]


def area_header(study: Study, options: Options) -> str:
    """Return the first line: the study, the target if there is one, and a pause."""
    header, target = header_line(study), current_options(study, options).target
    if target is not None:
        header += f" · target {format_value(target)}"
    if study.paused:
        header = f"paused, search continue {study.name} goes on · {header}"
    return header


def budget_line(study: Study, options: Options, pace: Pace, now: float) -> tuple[BudgetProgress | None, str]:
    """Return the budget that will end the search first, if there is one, and its progress and time in words."""
    budget, left = pace.soonest(budget_progress(study, options, now), now)
    left = None if study.end is not None else left  # a search that has ended takes no more time
    timed = budget is not None and budget.unit == "seconds"
    texts = [format_amount(study, budget), format_time(study, left, now, timed=timed)]
    return budget, " · ".join(filter(None, texts))


def _bar(study: Study, options: Options, pace: Pace, now: float, width: int) -> Text:
    budget, text = budget_line(study, options, pace, now)
    length = min(40, width - cell_len(text) - 2)
    if budget is None or length < SMALLEST_BAR:
        return Text(text)
    done = int(budget.fraction * length)
    return Text.assemble(("━" * done, "green"), ("─" * (length - done), "dim"), "  ", text)


BELOW = "       "
"""The indent of lines that continue the line above them."""

HEADINGS = ("slot", "trial", "rung", "epoch", "now", "best", "s/epoch", "hyperparameters")
TEXT_COLUMNS = ("slot", "rung", "hyperparameters")

SlotRow = tuple[list[str], Mapping[str, Value]]
"""The cells of a slot's line, and the hyperparameters, which replace the last cell if there are any."""


def _slot_lines(study: Study, slot_labels: Sequence[str | None], width: int, height: int) -> list[Text]:
    """Return a heading and a line for each slot, in at most `height` lines."""
    rows, left_out = slot_rows(study, slot_labels, height)
    lines = _align_rows(rows, width, height) if rows else []
    if left_out and height > 0:
        lines.append(Text(left_out, "dim"))
    return lines


def slot_rows(study: Study, slot_labels: Sequence[str | None], height: int) -> tuple[list[SlotRow], str]:
    """Return a row for each slot, and a line for those that are left out, "" if there are none.

    Args:
        height: the most lines, a heading included. Slots at work come first.
    """
    running = {trial.resources.slot: trial for trial in study.trials.values() if trial.state == "running"}
    slots = [slot for slot, label in enumerate(slot_labels) if label is not None or slot in running]
    left_out = 0
    if len(slots) + 1 > height:
        slots.sort(key=lambda slot: slot not in running)
        left_out = len(slots) - max(0, height - 2)
        slots = sorted(slots[: max(0, height - 2)])
    rows = [_slot_cells(study, running.get(slot), slot_labels[slot] or NONE) for slot in slots]
    line = f"… and {pluralize(left_out, 'more slot')}, {len(running)} running in all" if left_out else ""
    return rows, line


def used_columns(rows: Sequence[SlotRow]) -> list[int]:
    """Return the indices of the columns that are not empty in all `rows`, and of the last one."""
    return [i for i in range(len(HEADINGS)) if i == len(HEADINGS) - 1 or any(row[0][i] for row in rows)]


def _slot_cells(study: Study, trial: Trial | None, label: str) -> SlotRow:
    """Return the cells of a slot's line, and the hyperparameters, which replace the last cell if there are any."""
    label = truncate(printable(label), 14)
    if trial is None:
        return [label, NONE, "", "", "", "", "", "free"], {}
    rung = "" if trial.progress.bracket is None else f"b{trial.progress.bracket} r{trial.progress.rung}"
    number = trial.unfinished or 0
    curve = trial.executions[number].curve if number < len(trial.executions) else []
    current = curve[-1].logs.get(study.objective.name) if curve else None
    recent = curve[-3:]
    known = bool(recent) and not trial.black_box
    pace = _format_pace(sum(epoch.seconds for epoch in recent) / len(recent)) if known else NONE
    limit = epoch_limit(trial)
    epoch = NONE if trial.black_box else f"{curve[-1].epoch if curve else 0}{'' if limit is None else f'/{limit}'}"
    if trial.progress.planned > 1:
        rung = f"{rung} e{number}".strip()
    values = [format_objective(current), format_objective(trial.objective)]
    doing = "building" if trial.model is None else "" if curve or trial.black_box else "first epoch"
    cells = [label, str(trial.number), rung, epoch, *values, pace, doing]
    return cells, variable_params(trial)


def _format_pace(seconds: float) -> str:
    """Return the seconds per epoch with two or three digits."""
    return f"{seconds:.2g}" if seconds < 0.1 else f"{seconds:.{2 if seconds < 10 else 1 if seconds < 100 else 0}f}"


def _align_rows(rows: Sequence[SlotRow], width: int, height: int) -> list[Text]:
    """Return a heading and a line for each of `rows`, without the columns that are empty in all rows.

    If hyperparameters do not fit, they stand below their rows. If `height` does not suffice for that, they are cut.
    """
    columns = used_columns(rows)
    widths = {i: max(cell_len(HEADINGS[i]), *(cell_len(cells[i]) for cells, _ in rows)) for i in columns[:-1]}
    room = max(0, width - sum(wide + 2 for wide in widths.values()))
    below = [wrap_cells(format_params(params), width - len(BELOW)) for _, params in rows]
    stacked = any(cell_len(format_params(params)) > room for _, params in rows)
    stacked = stacked and 1 + len(rows) + sum(map(len, below)) <= height
    lines = [Text(_join_cells(HEADINGS, widths, "" if stacked else truncate(HEADINGS[-1], room)), "dim")]
    for (cells, params), more in zip(rows, below, strict=True):
        last = (not stacked and format_params(params, room)) or cells[-1]
        lines.append(Text(_join_cells(cells, widths, last), "dim" if last == "free" else ""))
        lines += [Text(BELOW + line, "dim") for line in (more if stacked else ())]
    return lines


def _join_cells(cells: Sequence[str], widths: Mapping[int, int], last: str) -> str:
    padded = []
    for i, wide in widths.items():
        space = " " * (wide - cell_len(cells[i]))
        padded.append(cells[i] + space if HEADINGS[i] in TEXT_COLUMNS else space + cells[i])
    return "  ".join([*padded, last]).rstrip()
