"""What a search shows of itself while it runs: a live view in a terminal, plain lines elsewhere.

A view only reads a `Study`; whatever it shows is derived when it is drawn. All but `make` and the two views is pure,
and gets the time as an argument (seconds since the epoch).
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.options import Options
from search.space.domain import Value
from search.study.study import Study, Trial
from search.study.trial import State

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
NONE = "–"  # noqa: RUF001  # what stands where there is no value
SMALLEST_BAR = 10

STATES: tuple[State, ...] = ("running", "paused", "completed", "stopped", "failed")

# Values as text -------------------------------------------------------------------------------------------------------


def format_seconds(seconds: float | None) -> str:
    """A time in its two largest units: 0.42s, 12s, 3m 05s, 2h 04m, 1d 03h."""
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
    """A value on one line: numbers with 4 significant digits, integers as they are."""
    if isinstance(value, float):
        return f"{value:.0f}" if 9999.5 <= abs(value) < 1e7 else f"{value:.4g}"
    return plain(str(value))


def format_objective(value: float | None) -> str:
    """An objective, with zeros at its end so that a column of them is easy to compare: 0.9500."""
    if value is None:
        return NONE
    text = format_value(float(value))
    return f"{value:#.4g}" if math.isfinite(value) and 1e-4 <= abs(value) < 999.95 else text


def format_params(params: Mapping[str, Value], width: int | None = None) -> str:
    """Hyperparameters as `lr=0.003 units=64`; those that do not fit in `width` cells give way to an ellipsis."""
    items = [f"{plain(name)}={format_value(value)}" for name, value in params.items()]
    text = " ".join(items)
    if width is None or cell_len(text) <= width:
        return text
    # A value that is cut short would read as another value, so whole items go; only the first is cut, at its end.
    for kept in range(len(items) - 1, 0, -1):
        text = " ".join([*items[:kept], "…"])
        if cell_len(text) <= width:
            return text
    return cut(items[0], width)


def plain(text: str) -> str:
    """`text` on one line, without what a terminal would take for a command."""
    return "".join(char if char.isprintable() else " " for char in text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells, with an ellipsis where something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 0 else ""


def counted(number: float, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"


def telling(trial: Trial) -> dict[str, Value]:
    """The hyperparameters of `trial` that could have had another value."""
    constant = {parameter.name for parameter in trial.parameters if parameter.domain.size == 1}
    return {name: value for name, value in trial.params.items() if name not in constant}


# The budget -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """One of the limits that end a search: `done` of `total`, in epochs, trials or seconds."""

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


def budgets(study: Study, options: Options, now: float) -> tuple[Budget, ...]:
    """All limits of a search, the one that its back end or its user set in epochs first."""
    found: list[Budget] = []
    trials = study.trials.values()
    if options.backend == "hyperband":
        granted = sum(_granted(trial) for trial in trials if trial.phase == study.phase)
        planned = options.plan.total_epochs * options.iterations * options.executions_per_trial
        found.append(Budget("epochs", granted, planned))
    if options.total_epochs is not None:
        found.append(Budget("epochs", study.epochs, options.total_epochs))
    if options.max_trials is not None:
        found.append(Budget("trials", sum(trial.ended is not None for trial in trials), options.max_trials))
    if options.timeout is not None:
        found.append(Budget("seconds", study.seconds(now), options.timeout))
    return tuple(found)


def _granted(trial: Trial) -> int:
    """The epochs of Hyperband's plan that `trial` has used up: one that ended early takes all that it was given."""
    if trial.open and not trial.exhausted:
        return sum(min(execution.epochs, trial.to_epoch) for execution in trial.executions)
    return trial.to_epoch * trial.planned


@dataclass(frozen=True, slots=True)
class Pace:
    """Where the budgets stood at the time `at`, when measuring began; what the time left is estimated from."""

    at: float
    budgets: tuple[Budget, ...]

    def soonest(self, current: Sequence[Budget], now: float) -> tuple[Budget | None, float | None]:
        """The budget that will end the search first, and the seconds until then, where they can be told."""
        left = [self._left(budget, before, now) for budget, before in zip(current, self.budgets, strict=True)]
        known = [(seconds, i) for i, seconds in enumerate(left) if seconds is not None]
        # Before the first epochs, only a timeout can be told, which says little.
        if not known or (len(known) < len(left) and current[known[0][1]].unit == "seconds"):
            return (current[0] if current else None), None
        seconds, i = min(known)
        return current[i], seconds

    def _left(self, budget: Budget, before: Budget, now: float) -> float | None:
        left = max(0.0, budget.total - budget.done)
        if budget.unit == "seconds":
            return left
        gained = budget.done - before.done
        return left * (now - self.at) / gained if gained > 0 and now > self.at else None


def describe_plan(options: Options) -> str:
    """What will be done, in one line."""
    limits = []
    if options.max_trials is not None:
        limits.append(counted(options.max_trials, "trial"))
    if options.timeout is not None:
        limits.append(format_seconds(options.timeout).removesuffix(" 00s").removesuffix(" 00m"))
    target = None if options.target is None else f"when the objective is {format_value(options.target)}"
    if options.backend == "hyperband":
        return _describe_hyperband(options, limits, target)
    return _describe_free(options, limits, target)


def _describe_hyperband(options: Options, limits: list[str], target: str | None) -> str:
    plan, times = options.plan, options.iterations
    what = f"{counted(plan.trials * times, 'trial')}, {counted(plan.total_epochs * times, 'epoch')}"
    brackets = counted(len(plan.brackets), "bracket")
    if options.max_total_epochs is not None:
        limits.insert(0, counted(options.max_total_epochs, "epoch"))
    ends = [f"after {' or '.join(limits)}"] if limits else []
    ends += [target] if target else []
    sampler = f", {options.sampler} sampler" if options.sampler else ""
    return (
        f"hyperband{sampler}, max_epochs {options.max_epochs}, factor {options.factor}: {what} in "
        f"{f'{times} × ' if times > 1 else ''}{brackets}"  # noqa: RUF001
        f"{'; ends earlier ' + ' or '.join(ends) if ends else ''}"
    )


def _describe_free(options: Options, limits: list[str], target: str | None) -> str:
    """Of a back end that has no end of its own."""
    name = options.backend
    if name == "optuna":
        pruner = "no pruner" if options.pruner == "none" else f"{options.pruner} pruner"
        name += f", {options.backend_options()['sampler']} sampler, {pruner}"
    if options.total_epochs is not None:
        limits.insert(0, counted(options.total_epochs, "epoch"))
    what = [f"up to {' or '.join(limits)}"] if limits else []
    epochs_only = options.total_epochs is not None and len(limits) == 1
    what.append(f"{options.max_epochs if epochs_only else counted(options.max_epochs, 'epoch')} a trial")
    return f"{name}: {', '.join(what)}{f'; ends {target}' if target else ''}"


# Lines ----------------------------------------------------------------------------------------------------------------


def header_line(study: Study) -> str:
    backend = study.phases[-1].backend if study.phases else "no back end"
    objective = study.objective
    return f"{study.name} · {backend} · {objective.direction} {plain(objective.name)} · seed {study.seed}"


def best_line(study: Study, width: int | None = None) -> str:
    """The best so far: `best val_accuracy 0.9722 · trial 12 · epoch 9 · lr=0.003 units=64`; "" where there is none."""
    trial = study.best
    if trial is None:
        return ""
    line = (
        f"best {plain(study.objective.name)} {format_objective(trial.objective)} · trial {trial.number} · "
        f"epoch {trial.best_epoch}"
    )
    params = format_params(telling(trial), None if width is None else max(0, width - cell_len(line) - 3))
    return f"{line} · {params}" if params else line


def shown_state(trial: Trial, alive: bool) -> State:
    """The state of `trial`; what ran when its study's process died is paused."""
    return "paused" if trial.state == "running" and not alive else trial.state


def counts_line(study: Study, alive: bool = True) -> str:
    """How many trials there are, by state: `14 trials: 2 running, 12 stopped`."""
    counts = Counter(shown_state(trial, alive) for trial in study.trials.values())
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    total = counted(len(study.trials), "trial")
    return f"{total}: {states}" if states else total


def progress_line(study: Study, options: Options, pace: Pace, now: float) -> str:
    """One line that says how far the search is."""
    budget, left = pace.soonest(budgets(study, options, now), now)
    parts = [_amount(study, budget), counts_line(study)]
    if study.best is not None:
        parts.append(f"best {format_objective(study.best.objective)}")
    return " · ".join([*parts, _time(study, left, now, timed=budget is not None and budget.unit == "seconds")])


def _amount(study: Study, budget: Budget | None) -> str:
    return counted(study.epochs, "epoch") if budget is None else str(budget)


def _time(study: Study, left: float | None, now: float, *, timed: bool = False) -> str:
    """The time that has passed, unless the budget says it, and what is left."""
    parts = [] if timed else [format_seconds(int(study.seconds(now)))]
    if left is not None:
        parts.append(f"{format_seconds(math.ceil(left)) if timed else 'about ' + _roughly(left)} left")
    return ", ".join(parts)


def _roughly(seconds: float) -> str:
    """An estimate, no more exact than it is."""
    unit = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return format_seconds(math.ceil(seconds / unit) * unit).removesuffix(" 00s")


# The live area --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """Of the terminal, in cells."""

    width: int
    height: int


def frame(study: Study, options: Options, slot_labels: Sequence[str], pace: Pace, now: float, size: Size) -> list[Text]:
    """The live area's lines, none wider than the terminal, fewer than it has rows."""
    width = size.width - 1  # a full line makes some terminals begin a new one
    header = header_line(study)
    if options.target is not None:
        header += f" · target {format_value(options.target)}"
    below = [Text(best_line(study, width) or "best: none yet", "green" if study.best else "dim")]
    below.append(Text(counts_line(study)))
    below.append(_bar(study, options, pace, now, width))
    slots = _slots(study, slot_labels, width, size.height - len(below) - 2)
    lines = [Text(header, "bold"), *slots, *below]
    for line in lines:
        line.no_wrap = True
        line.truncate(max(1, width), overflow="ellipsis")
    return lines


def _bar(study: Study, options: Options, pace: Pace, now: float, width: int) -> Text:
    budget, left = pace.soonest(budgets(study, options, now), now)
    timed = budget is not None and budget.unit == "seconds"
    words = [_amount(study, budget), _time(study, left, now, timed=timed)]
    text = " · ".join(word for word in words if word)
    length = min(40, width - cell_len(text) - 2)
    if budget is None or length < SMALLEST_BAR:
        return Text(text)
    done = int(budget.fraction * length)
    return Text.assemble(("━" * done, "green"), ("─" * (length - done), "dim"), "  ", text)


HEADINGS = ("slot", "trial", "rung", "epoch", "now", "best", "s/epoch", "hyperparameters")
TEXT_COLUMNS = ("slot", "rung", "hyperparameters")


def _slots(study: Study, slot_labels: Sequence[str], width: int, height: int) -> list[Text]:
    """A line for each slot, under a heading, in at most `height` lines."""
    running = {trial.slot: trial for trial in study.trials.values() if trial.state == "running"}
    slots = list(range(len(slot_labels)))
    left_out = 0
    if len(slots) + 1 > height:
        slots.sort(key=lambda slot: slot not in running)
        left_out = len(slots) - max(0, height - 2)
        slots = sorted(slots[: max(0, height - 2)])
    rows = [_cells(study, running.get(slot), slot_labels[slot]) for slot in slots]
    lines = _aligned(rows, width) if rows else []
    if left_out and height > 0:
        lines.append(Text(f"… and {counted(left_out, 'more slot')}, {len(running)} running in all", "dim"))
    return lines


def _cells(study: Study, trial: Trial | None, label: str) -> tuple[list[str], Mapping[str, Value]]:
    """The cells of a slot's line, the last one without its hyperparameters, and these."""
    label = cut(plain(label), 14)
    if trial is None:
        return [label, NONE, "", "", "", "", "", "free"], {}
    rung = "" if trial.bracket is None else f"b{trial.bracket} r{trial.rung}"
    number = trial.unfinished or 0
    curve = trial.executions[number].curve if number < len(trial.executions) else []
    current = curve[-1].logs.get(study.objective.name) if curve else None
    recent = curve[-3:]
    pace = _digits(sum(epoch.seconds for epoch in recent) / len(recent)) if recent else NONE
    epoch = f"{curve[-1].epoch if curve else 0}/{trial.to_epoch}"
    if trial.planned > 1:
        rung = f"{rung} e{number}".strip()
    values = [format_objective(current), format_objective(trial.objective)]
    return [label, str(trial.number), rung, epoch, *values, pace, "" if trial.built else "building"], telling(trial)


def _digits(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 0.1 else f"{seconds:.{2 if seconds < 10 else 1 if seconds < 100 else 0}f}"


def _aligned(rows: Sequence[tuple[list[str], Mapping[str, Value]]], width: int) -> list[Text]:
    """`rows` under their headings; a column that is empty in all of them is left out."""
    columns = [i for i in range(len(HEADINGS)) if i == len(HEADINGS) - 1 or any(row[0][i] for row in rows)]
    widths = {i: max(cell_len(HEADINGS[i]), *(cell_len(cells[i]) for cells, _ in rows)) for i in columns[:-1]}
    room = max(0, width - sum(wide + 2 for wide in widths.values()))
    lines = [Text(_joined(HEADINGS, widths, cut(HEADINGS[-1], room)), "dim")]
    for cells, params in rows:
        last = format_params(params, room) or cells[-1]
        lines.append(Text(_joined(cells, widths, last), "dim" if last == "free" else ""))
    return lines


def _joined(cells: Sequence[str], widths: Mapping[int, int], last: str) -> str:
    padded = []
    for i, wide in widths.items():
        space = " " * (wide - cell_len(cells[i]))
        padded.append(cells[i] + space if HEADINGS[i] in TEXT_COLUMNS else space + cells[i])
    return "  ".join([*padded, last]).rstrip()


# Views ----------------------------------------------------------------------------------------------------------------


class View(Protocol):
    """What the driver drives."""

    def update(self, now: float) -> None:
        """Show how things stand at `now`, if it is due. Cheap where it is not."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Show no more. May be called twice; `say` still works."""


def make(study: Study, options: Options, slot_labels: Sequence[str], *, live: bool, console: Console) -> View:
    """The view of a search: live if it is wanted and `console` is a terminal that can do it."""
    if live and console.is_terminal and not console.is_dumb_terminal:
        return LiveView(study, options, slot_labels, console)
    return PlainView(study, options, console)


class PlainView:
    """A line for every new best, and one now and then that says how far the search is."""

    def __init__(self, study: Study, options: Options, console: Console) -> None:
        self._study = study
        self._options = options
        self._console = console
        self._best = _best_value(study)
        self._pace: Pace | None = None
        self._said_at = -math.inf
        self._said = ""

    def update(self, now: float) -> None:
        if self._pace is None:
            self._pace = Pace(now, budgets(self._study, self._options, now))
            self._said_at = now
        best = _best_value(self._study)
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
        _print(self._console, line)

    def close(self) -> None:
        pass


class LiveView:
    """The live area at the foot of a terminal, redrawn by `update` alone: no thread reads a study as it changes."""

    def __init__(self, study: Study, options: Options, slot_labels: Sequence[str], console: Console) -> None:
        self._study = study
        self._options = options
        self._labels = tuple(slot_labels)
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
            self._pace = Pace(now, budgets(self._study, self._options, now))
        if self._live is None:
            # What goes to a file or a pipe must not end up on the terminal.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self._live.start()
        self._draw(self._labels)

    def _draw(self, labels: Sequence[str]) -> None:
        assert self._live is not None
        assert self._pace is not None
        size = Size(self._console.width, self._console.height)
        lines = frame(self._study, self._options, labels, self._pace, self._now, size)
        self._live.update(Group(*lines), refresh=True)

    def say(self, line: str) -> None:
        _print(self._console, line)

    def close(self) -> None:
        if self._live is not None and not self._closed:
            self._closed = True
            try:
                self._draw(())  # nothing runs any more
            finally:
                self._live.stop()
        self._closed = True


def _best_value(study: Study) -> float | None:
    return None if study.best is None else study.best.objective


def _print(console: Console, line: str) -> None:
    # Lines are not wrapped, so that they can be copied, and searched for in a log.
    console.print(Text(line), soft_wrap=True)
