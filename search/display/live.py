"""The display of a running search: a live view in a terminal, plain lines elsewhere.

A view only reads a `Study`, and derives everything from it when it draws. All functions but `make_view` are pure and
get the time as an argument, in seconds since the epoch.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.options import OWN_FIT_MAX_EPOCHS, Options
from search.space.domain import Value
from search.study.study import Study
from search.study.trial import State
from search.study.trials import Trial
from search.wording import pluralize

if TYPE_CHECKING:
    from search.driver.loop import View

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
NONE = "–"  # noqa: RUF001  # the placeholder for a missing value
SMALLEST_BAR = 10

STATES: tuple[State, ...] = ("running", "paused", "completed", "stopped", "failed", "infeasible")

# Values as text -------------------------------------------------------------------------------------------------------


def format_seconds(seconds: float | None) -> str:
    """Return a time in its two largest units: 0.42s, 12s, 3m 05s, 2h 04m, 1d 03h."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 9.95:
        return f"{round(max(0.0, seconds), 3):.2g}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


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


def truncate(text: str, width: int) -> str:
    """Return `text` in at most `width` cells; an ellipsis replaces the rest."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 0 else ""


def variable_params(trial: Trial) -> dict[str, Value]:
    """Return the hyperparameters of `trial` that could have had another value."""
    constant = {parameter.name for parameter in trial.parameters if parameter.domain.size == 1}
    return {name: value for name, value in trial.params.items() if name not in constant}


# The budget -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BudgetProgress:
    """The progress towards one limit of a search: `done` of `total`.

    Attributes:
        unit: `epochs`, `trials` or `seconds`.
    """

    unit: str
    done: float
    total: float

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total)

    def __str__(self) -> str:
        if self.unit == "seconds":
            return f"{format_seconds(int(self.done))} of {format_seconds(self.total)}"
        return f"{self.done:.0f}/{self.total:.0f} {self.unit}"


def budget_progress(study: Study, options: Options, now: float) -> tuple[BudgetProgress, ...]:
    """Return the progress towards each limit of a search; limits in epochs come first."""
    found: list[BudgetProgress] = []
    trials = study.trials.values()
    if options.follows_plan:
        charged = sum(_charged_epochs(trial) for trial in trials if trial.phase == study.phase)
        planned = options.plan.total_epochs * options.iterations * options.executions_per_trial
        found.append(BudgetProgress("epochs", charged, planned))
    if options.total_epochs is not None:
        found.append(BudgetProgress("epochs", study.epochs, options.total_epochs))
    if options.max_trials is not None and not options.lists_all:
        # In Hyperband's plan a trial that waits may still go on; elsewhere it may be paused to the end of the search.
        tried = sum(trial.ended if options.follows_plan else not trial.open for trial in trials)
        found.append(BudgetProgress("trials", tried, options.max_trials))
    if options.timeout is not None:
        found.append(BudgetProgress("seconds", study.seconds(now), options.timeout))
    return tuple(found)


def _charged_epochs(trial: Trial) -> int:
    """Return the epochs of Hyperband's plan that `trial` has used up; if it ended early, all that it was granted."""
    if trial.infeasible:
        return 0
    if trial.open and not trial.exhausted:
        return sum(min(execution.epochs, trial.progress.to_epoch) for execution in trial.executions)
    return trial.progress.to_epoch * trial.progress.planned


@dataclass(frozen=True, slots=True)
class Pace:
    """The budgets at the time `at`, when measuring began. The remaining time is estimated from the progress since."""

    at: float
    budgets: tuple[BudgetProgress, ...]

    def soonest(self, current: Sequence[BudgetProgress], now: float) -> tuple[BudgetProgress | None, float | None]:
        """Return the budget that will end the search first, and the seconds until then, None if unknown."""
        left = [self._left(budget, before, now) for budget, before in zip(current, self.budgets, strict=True)]
        known = [(seconds, i) for i, seconds in enumerate(left) if seconds is not None]
        # Before the first epoch, only a timeout is known, and that says little.
        if not known or (len(known) < len(left) and current[known[0][1]].unit == "seconds"):
            return (current[0] if current else None), None
        seconds, i = min(known)
        return current[i], seconds

    def _left(self, budget: BudgetProgress, before: BudgetProgress, now: float) -> float | None:
        left = max(0.0, budget.total - budget.done)
        if budget.unit == "seconds":
            return left
        gained = budget.done - before.done
        return left * (now - self.at) / gained if gained > 0 and now > self.at else None


def describe_plan(options: Options, *, own_fit: bool = False, earlier: int = 0) -> str:
    """Describe in one line what the search will do.

    Args:
        own_fit: whether the space has a `fit` of its own.
        earlier: the number of the study's trials that a plan with other options has begun.
    """
    limits = []
    if options.max_trials is not None and not options.lists_all:
        limits.append(pluralize(options.max_trials, "trial"))
    if options.timeout is not None:
        limits.append(format_seconds(options.timeout).removesuffix(" 00s").removesuffix(" 00m"))
    target = None if options.target is None else f"when the objective is {format_value(options.target)}"
    if options.follows_plan:
        return _describe_hyperband(options, limits, target, earlier)
    return _describe_other(options, limits, target, own_fit=own_fit)


def _describe_hyperband(options: Options, limits: list[str], target: str | None, earlier: int) -> str:
    plan, times = options.plan, options.iterations
    beside = f", beside {pluralize(earlier, 'trial')} of other options" if earlier else ""
    amount = f"{pluralize(plan.trial_count * times, 'trial')}, {pluralize(plan.total_epochs * times, 'epoch')}"
    brackets = pluralize(len(plan.brackets), "bracket")
    if options.max_total_epochs is not None:
        limits.insert(0, pluralize(options.max_total_epochs, "epoch"))
    ends = [f"after {' or '.join(limits)}"] if limits else []
    ends += [target] if target else []
    sampler = f", {options.sampler} sampler" if options.sampler else ""
    return (
        f"{options.backend_name}{sampler}, max_epochs {options.max_epochs}, factor {options.factor}: {amount} in "
        f"{f'{times} × ' if times > 1 else ''}{brackets}{beside}"  # noqa: RUF001
        f"{'; ends earlier ' + ' or '.join(ends) if ends else ''}"
    )


def _describe_other(options: Options, limits: list[str], target: str | None, *, own_fit: bool) -> str:
    """Describe a search whose back end follows no plan that is known before."""
    name, values = options.backend_name, options.backend_options()
    if values.get("sampler"):
        name += f", {values['sampler']} sampler"
    if values.get("pruner"):
        name += ", no pruner" if values["pruner"] == "none" else f", {values['pruner']} pruner"
    if options.total_epochs is not None:
        limits.insert(0, pluralize(options.total_epochs, "epoch"))
    parts = ["every combination"] if options.lists_all else []
    parts += [f"up to {' or '.join(limits)}"] if limits else []
    epochs_only = options.total_epochs is not None and len(limits) == 1
    if own_fit and options.max_epochs == OWN_FIT_MAX_EPOCHS:
        parts.append("as many epochs a trial as fit trains")
    else:
        # A callback, or a `fit` of the user's, may end a trial before.
        epochs = options.max_epochs if epochs_only else pluralize(options.max_epochs, "epoch")
        parts.append(f"at most {epochs} a trial")
    return f"{name}: {', '.join(parts)}{f'; ends {target}' if target else ''}"


# Lines ----------------------------------------------------------------------------------------------------------------


def header_line(study: Study) -> str:
    """Return the study's name, back end, objective and seed on one line."""
    backend = study.phases[-1].backend if study.phases else "no back end"
    objective = study.objective
    return f"{study.name} · {backend} · {objective.direction} {printable(objective.name)} · seed {study.seed}"


def best_line(study: Study, width: int | None = None) -> str:
    """Return the best trial, "" if there is none: `best val_accuracy 0.9722 · trial 12 · epoch 9 · lr=0.003`."""
    trial = study.best
    if trial is None:
        return ""
    line = (
        f"best {printable(study.objective.name)} {format_objective(trial.objective)} · trial {trial.number}"
        f"{'' if trial.best_epoch is None else f' · epoch {trial.best_epoch}'}"
    )
    params = format_params(variable_params(trial), None if width is None else max(0, width - cell_len(line) - 3))
    return f"{line} · {params}" if params else line


def epoch_limit(trial: Trial) -> int | None:
    """Return the epoch that `trial` is to reach; None if that is for a `fit` of the user's to decide."""
    return None if trial.own_fit and trial.progress.to_epoch == OWN_FIT_MAX_EPOCHS else trial.progress.to_epoch


def shown_state(trial: Trial, alive: bool) -> State:
    """Return the state of `trial`; a running trial is paused if its study's process has died."""
    return "paused" if trial.state == "running" and not alive else trial.state


def counts_line(study: Study, alive: bool = True) -> str:
    """Return the number of trials by state: `14 trials: 2 running, 12 stopped`."""
    counts = Counter(shown_state(trial, alive) for trial in study.trials.values())
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    total = pluralize(len(study.trials), "trial")
    return f"{total}: {states}" if states else total


def progress_line(study: Study, options: Options, pace: Pace, now: float) -> str:
    """Return the progress of the search in one line."""
    budget, left = pace.soonest(budget_progress(study, options, now), now)
    parts = [_format_amount(study, budget), counts_line(study)]
    if study.best is not None:
        parts.append(f"best {format_objective(study.best.objective)}")
    return " · ".join([*parts, _format_time(study, left, now, timed=budget is not None and budget.unit == "seconds")])


def _format_amount(study: Study, budget: BudgetProgress | None) -> str:
    return format_epochs(study) if budget is None else format_progress(study, budget)


def format_progress(study: Study, budget: BudgetProgress) -> str:
    """Return the progress towards a budget."""
    unknown = budget.unit == "epochs" and study.known_epochs is None
    return f"{budget} asked for" if unknown else str(budget)


def format_epochs(study: Study) -> str:
    """Return the number of epochs that the study has trained."""
    return "epochs unknown" if study.known_epochs is None else pluralize(study.known_epochs, "epoch")


def _format_time(study: Study, left: float | None, now: float, *, timed: bool = False) -> str:
    """Return the elapsed time, unless the budget shows it, and the remaining time."""
    parts = [] if timed else [format_seconds(int(study.seconds(now)))]
    if left is not None:
        parts.append(f"{format_seconds(math.ceil(left)) if timed else 'about ' + _format_estimate(left)} left")
    return ", ".join(parts)


def _format_estimate(seconds: float) -> str:
    """Return an estimated time, rounded to the precision that it has."""
    unit = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return format_seconds(math.ceil(seconds / unit) * unit).removesuffix(" 00s")


# The live area --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """The size of a terminal, in cells."""

    width: int
    height: int


def render_live_area(
    study: Study, options: Options, slot_labels: Sequence[str | None], pace: Pace, now: float, size: TerminalSize
) -> list[Text]:
    """Return the lines of the live area: narrower than the terminal, and fewer than its rows."""
    width = size.width - 1  # a full line makes some terminals begin another one
    header = header_line(study)
    if options.target is not None:
        header += f" · target {format_value(options.target)}"
    below = [Text(best_line(study, width) or "best: none yet", "green" if study.best else "dim")]
    below.append(Text(counts_line(study)))
    below.append(_bar(study, options, pace, now, width))
    slots = _slot_lines(study, slot_labels, width, size.height - len(below) - 2)
    lines = [Text(header, "bold"), *slots, *below]
    for line in lines:
        line.no_wrap = True
        line.truncate(max(1, width), overflow="ellipsis")
    return lines


def _bar(study: Study, options: Options, pace: Pace, now: float, width: int) -> Text:
    budget, left = pace.soonest(budget_progress(study, options, now), now)
    timed = budget is not None and budget.unit == "seconds"
    texts = [_format_amount(study, budget), _format_time(study, left, now, timed=timed)]
    text = " · ".join(filter(None, texts))
    length = min(40, width - cell_len(text) - 2)
    if budget is None or length < SMALLEST_BAR:
        return Text(text)
    done = int(budget.fraction * length)
    return Text.assemble(("━" * done, "green"), ("─" * (length - done), "dim"), "  ", text)


HEADINGS = ("slot", "trial", "rung", "epoch", "now", "best", "s/epoch", "hyperparameters")
TEXT_COLUMNS = ("slot", "rung", "hyperparameters")


def _slot_lines(study: Study, slot_labels: Sequence[str | None], width: int, height: int) -> list[Text]:
    """Return a heading and a line for each slot, in at most `height` lines."""
    running = {trial.resources.slot: trial for trial in study.trials.values() if trial.state == "running"}
    slots = [slot for slot, label in enumerate(slot_labels) if label is not None or slot in running]
    left_out = 0
    if len(slots) + 1 > height:
        slots.sort(key=lambda slot: slot not in running)
        left_out = len(slots) - max(0, height - 2)
        slots = sorted(slots[: max(0, height - 2)])
    rows = [_slot_cells(study, running.get(slot), slot_labels[slot] or NONE) for slot in slots]
    lines = _align_rows(rows, width) if rows else []
    if left_out and height > 0:
        lines.append(Text(f"… and {pluralize(left_out, 'more slot')}, {len(running)} running in all", "dim"))
    return lines


def _slot_cells(study: Study, trial: Trial | None, label: str) -> tuple[list[str], Mapping[str, Value]]:
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
    cells = [label, str(trial.number), rung, epoch, *values, pace, "" if trial.model else "building"]
    return cells, variable_params(trial)


def _format_pace(seconds: float) -> str:
    """Return the seconds per epoch with two or three digits."""
    return f"{seconds:.2g}" if seconds < 0.1 else f"{seconds:.{2 if seconds < 10 else 1 if seconds < 100 else 0}f}"


def _align_rows(rows: Sequence[tuple[list[str], Mapping[str, Value]]], width: int) -> list[Text]:
    """Return a heading and a line for each of `rows`, without the columns that are empty in all rows."""
    columns = [i for i in range(len(HEADINGS)) if i == len(HEADINGS) - 1 or any(row[0][i] for row in rows)]
    widths = {i: max(cell_len(HEADINGS[i]), *(cell_len(cells[i]) for cells, _ in rows)) for i in columns[:-1]}
    room = max(0, width - sum(wide + 2 for wide in widths.values()))
    lines = [Text(_join_cells(HEADINGS, widths, truncate(HEADINGS[-1], room)), "dim")]
    for cells, params in rows:
        last = format_params(params, room) or cells[-1]
        lines.append(Text(_join_cells(cells, widths, last), "dim" if last == "free" else ""))
    return lines


def _join_cells(cells: Sequence[str], widths: Mapping[int, int], last: str) -> str:
    padded = []
    for i, wide in widths.items():
        space = " " * (wide - cell_len(cells[i]))
        padded.append(cells[i] + space if HEADINGS[i] in TEXT_COLUMNS else space + cells[i])
    return "  ".join([*padded, last]).rstrip()


# Views ----------------------------------------------------------------------------------------------------------------


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
            # Output to a file or a pipe must not end up on the terminal.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self._live.start()
        self._draw(self._labels)

    def _draw(self, labels: Sequence[str | None]) -> None:
        assert self._live is not None
        assert self._pace is not None
        size = TerminalSize(self._console.width, self._console.height)
        lines = render_live_area(self._study, self._options, labels, self._pace, self._now, size)
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
        self._closed = True


def _best_objective(study: Study) -> float | None:
    return None if study.best is None else study.best.objective


def _print_line(console: Console, line: str) -> None:
    # Lines are not wrapped: a user can copy them, and search for them in a log.
    console.print(Text(line), soft_wrap=True)
