"""The output of the commands that look at a study: tables and lines for people.

All functions are pure. `alive` says if a process runs the study; otherwise its running trials count as paused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from search.display.compilations import describe_compilations
from search.display.lines import (
    best_line,
    counts_line,
    epoch_limit,
    format_epochs,
    format_progress,
    header_line,
    shown_state,
    variable_params,
)
from search.display.progress import budget_progress
from search.display.rows import PARAMS_PREFIX, parameter_names
from search.display.text import NONE, format_objective, format_params, format_seconds, format_value, printable, truncate
from search.errors import nearest
from search.messages import Probed
from search.options import FIELDS, Options
from search.space.domain import Parameter, Value
from search.study.records import EpochDone
from search.study.study import Study
from search.study.trial import State
from search.study.trials import Trial
from search.wording import format_memory, pluralize

GAP = 2
CURVE_ROWS = 12
SPARK_WIDTH = 60
SPARKS = "▁▂▃▄▅▆▇█"

# Tables ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and one cell for each row; `left` aligns to the left, for text."""

    heading: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(self.heading), *map(cell_len, self.cells), 0)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of the `fixed` columns, then the `wide` ones if they fit, else those of `narrow(room)`.

    Attributes:
        narrow: returns the columns for `room` cells.
        styles: one of Rich's styles for each row, or none.
    """

    fixed: Sequence[Column]
    wide: Sequence[Column]
    narrow: Callable[[int], Sequence[Column]]
    styles: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - sum(column.width + GAP for column in self.fixed)
        fits = sum(column.width + GAP for column in self.wide) - GAP <= room
        columns = [*self.fixed, *(self.wide if fits else self.narrow(max(0, room)))]
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True, header_style="bold")
        for column in columns:
            heading = Text(column.heading, no_wrap=True, overflow="ellipsis")
            table.add_column(heading, justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis")
        for i in range(len(columns[0].cells)):
            table.add_row(*(Text(column.cells[i]) for column in columns), style=self.styles[i] if self.styles else None)
        yield table


def _params_grid(
    study: Study, trials: Sequence[Trial], fixed: Sequence[Column], styles: Sequence[str] = (), *, constants: bool
) -> Grid:
    """Return the `fixed` columns and one for each hyperparameter, or a single one for all if they do not fit.

    A hyperparameter that is called like a fixed column gets the heading that CSV gives it.
    """
    shown = [dict(trial.params) if constants else variable_params(trial) for trial in trials]
    names = [name for name in parameter_names(study, trials) if any(name in params for params in shown)]
    taken = {column.heading for column in fixed}
    wide = [
        Column(
            f"{PARAMS_PREFIX}{name}" if name in taken else printable(name),
            [format_value(params[name]) if name in params else "" for params in shown],
            left=True,
        )
        for name in names
    ]

    def narrow(room: int) -> list[Column]:
        heading = truncate("hyperparameters", room)
        return [Column(heading, [format_params(params, room) for params in shown], left=True)]

    return Grid(fixed, wide, narrow, styles)


STATE_STYLES: Mapping[State, str] = {"failed": "red", "infeasible": "dim"}


def trials_table(study: Study, trials: Sequence[Trial], alive: bool) -> RenderableType:
    """Return a table of `trials` in the given order: `search trials` sorts by number."""
    trials = list(trials)
    if not trials:
        return Text("no trials")
    fixed = [
        Column("trial", [str(trial.number) for trial in trials]),
        Column("state", [shown_state(trial, alive) for trial in trials], left=True),
        Column("epochs", [_or_none(trial.known_epochs) for trial in trials]),
        Column(printable(study.objective.name), [format_objective(trial.objective) for trial in trials]),
        Column("best epoch", [_or_none(trial.best_epoch) for trial in trials]),
        Column("pace", [format_seconds(trial.seconds_per_epoch) for trial in trials]),
        *_memory_column(trials),
    ]
    styles = [STATE_STYLES.get(trial.state, "") for trial in trials]
    grid = _params_grid(study, trials, fixed, styles, constants=True)
    failed = [trial for trial in trials if trial.state == "failed"]
    if not failed:
        return grid
    return Group(grid, Text(f"{len(failed)} failed: `search show {study.name} {failed[-1].number}` says why", "dim"))


def _memory_column(trials: Sequence[Trial]) -> list[Column]:
    """Return the column of peak device memory, or none if it is known of no trial."""
    peaks = [trial.peak_device_memory for trial in trials]
    if not any(peaks):
        return []
    return [Column("memory", [NONE if peak is None else format_memory(peak) for peak in peaks])]


def leaderboard(study: Study, count: int, *, constants: bool = False) -> RenderableType:
    """Return a table of the best `count` trials, best first.

    Args:
        constants: include hyperparameters that have a single value.
    """
    ranked = study.ranked()
    if not ranked:
        return Text("no trial has an objective")
    trials = ranked[:count]
    fixed = [
        Column("rank", [str(i + 1) for i in range(len(trials))]),
        Column("trial", [str(trial.number) for trial in trials]),
        Column(printable(study.objective.name), [format_objective(trial.objective) for trial in trials]),
        Column("best epoch", [_or_none(trial.best_epoch) for trial in trials]),
        Column("epochs", [_or_none(trial.known_epochs) for trial in trials]),
        Column("time", [format_seconds(trial.seconds) for trial in trials]),
    ]
    return _params_grid(study, trials, fixed, ["bold green", *("" for _ in trials[1:])], constants=constants)


def _or_none(value: int | None) -> str:
    return NONE if value is None else str(value)


# One study ------------------------------------------------------------------------------------------------------------


def status_fields(study: Study, *, alive: bool, now: float) -> dict[str, Any]:
    """Return a study's entry in `search status --json`."""
    best = study.best
    return {
        "study": study.name,
        "alive": alive,
        "complete": study.end is not None and study.end.complete and not alive,
        "reason": None if study.end is None or alive else printable(study.end.reason),
        "backend": study.phases[-1].backend if study.phases else None,
        "objective": study.objective.name,
        "direction": study.objective.direction,
        "seed": study.seed,
        "trials": Counter(shown_state(trial, alive) for trial in study.trials.values()),
        "epochs": study.known_epochs,
        "trained": None if study.known_epochs is None else study.trained,
        "seconds": round(study.seconds(now if alive else None), 3),
        "best": None if best is None else best.objective,
        "best_trial": None if best is None else best.number,
    }


def status_lines(study: Study, alive: bool, now: float) -> list[str]:
    """Return the lines of `search status` for a study."""
    budgets = budget_progress(study, _last_options(study), now)
    epochs = next((budget for budget in budgets if budget.unit == "epochs"), None)
    repeats = 0 if study.known_epochs is None else study.trained - study.epochs
    work = [format_progress(study, epochs) if epochs else format_epochs(study)]
    work += [f"{pluralize(repeats, 'epoch')} trained again"] if repeats else []
    work.append(format_seconds(int(study.seconds(now if alive else None))))
    lines = [
        f"{study.name}: {_describe_status(study, alive)}",
        header_line(study).removeprefix(f"{study.name} · "),
        counts_line(study, alive),
        ", ".join(work),
        best_line(study) or "best: none yet",
    ]
    failed = [trial for trial in study.trials.values() if trial.state == "failed"]
    if failed:
        lines.append(f"last failure: trial {failed[-1].number}: {printable(failed[-1].error or 'unknown')}")
    return lines


def _last_options(study: Study) -> Options:
    """Return the options of the last run, unchecked: a value of a later version must not hide the status."""
    journaled = study.start.options if study.start is not None else {}
    return Options(**{name: value for name, value in journaled.items() if name in FIELDS})


def _describe_status(study: Study, alive: bool) -> str:
    resume = f"`search resume {study.name}` goes on"
    if alive:
        return f"running, process {study.start.pid} on {study.start.host}" if study.start else "starting"
    if study.end is None:
        return f"its process is gone; {resume}"
    if study.end.complete:
        return f"done, {printable(study.end.reason)}"
    return f"ended, {printable(study.end.reason)}; {resume}"


# One trial ------------------------------------------------------------------------------------------------------------


def trial_details(study: Study, trial: Trial, traceback: str, log_tail: str, *, alive: bool) -> RenderableType:
    """Return the details of a trial: its values, curve, worker, error, traceback and the end of its log."""
    first, *facts = _trial_lines(study, trial, alive)
    parts: list[RenderableType] = [Text(first, "bold"), *map(Text, facts)]
    parts += [Text(line, "dim") for line in (study.start.internals_off if study.start is not None else ())]
    if trial.params:
        parts += [Text(), _values_grid(trial)]
    if trial.best_execution.curve:
        parts += [Text(), Text(f"{printable(study.objective.name)}  {sparkline(_objective_curve(study, trial))}")]
        parts.append(_curve_grid(study, trial))
    if trial.error is not None:
        parts += [
            Text(),
            Text(
                f"{'infeasible' if trial.infeasible else 'error'}: {printable(trial.error)}",
                "red" if trial.failed else "",
            ),
        ]
    for heading, text in (("traceback", traceback), ("end of the log", log_tail)):
        if text.strip():
            parts += [Text(), Text(heading, "bold"), Text.from_ansi(text.rstrip())]
    return Group(*parts)


def _trial_lines(study: Study, trial: Trial, alive: bool) -> list[str]:
    state = shown_state(trial, alive)
    lines = [f"trial {trial.number} of {study.name}: {state}, {_epochs_text(trial)}"]
    if trial.parent is not None:
        lines.append(f"continues trial {trial.parent.trial} after epoch {trial.parent.epoch(0)}")
    if trial.objective is not None:
        at = "" if trial.best_epoch is None else f" at epoch {trial.best_epoch}"
        lines.append(f"{printable(study.objective.name)} {format_objective(trial.objective)}{at}")
    if trial.progress.planned > 1:
        lines.append(_executions_line(trial))
    if trial.best.tested is not None:
        logs = trial.best.tested.logs
        lines.append(f"test data: {', '.join(f'{printable(k)} {format_objective(v)}' for k, v in logs.items())}")
    if trial.progress.bracket is not None:
        lines.append(f"bracket {trial.progress.bracket}, rung {_or_none(trial.progress.rung)}")
    if trial.model is not None:
        lines.append(f"model: {pluralize(trial.model.weight_count, 'weight', ',')}, runner {trial.runner}")
    if trial.black_box:
        lines.append("fit: a black box; the result is what it returned, the model is as it ended")
    where = f"running in slot {trial.resources.slot}" if state == "running" else "not running"
    own_epochs = sum(execution.own_epochs for execution in trial.executions)
    repeats = 0 if trial.black_box else trial.progress.trained - own_epochs
    lines.append(
        f"worker: {where}, {pluralize(trial.progress.segments, 'segment')}, {format_seconds(trial.seconds)} of training"
        + ("" if trial.seconds_per_epoch is None else f", {format_seconds(trial.seconds_per_epoch)} an epoch")
        + (f", {pluralize(repeats, 'epoch')} trained again" if repeats else "")
    )
    if trial.peak_device_memory is not None:
        bound = ", or less: JAX counts all trials of a process" if study.versions.get("keras_backend") == "jax" else ""
        lines.append(f"device memory: {format_memory(trial.peak_device_memory)} at its peak{bound}")
    if trial.dropped and not trial.ended:
        lines.append("checkpoint: dropped; if the trial goes on, it is trained again from its seed")
    lines.append(f"seed {trial.seed}")
    if study.exported is not None and study.exported.trial == trial.number and study.exported.warning:
        lines.append(printable(study.exported.warning))
    drawn = trial.params.keys() - trial.values.initial.keys()
    for name, value in trial.unused_initial_values.items():
        given = f"--try-first gives {name} the value {_format_exactly(value)}"
        lines.append(printable(f"{given}, and the trial did not ask for it.{nearest(name, drawn)}"))
    return lines


def _epochs_text(trial: Trial) -> str:
    if trial.black_box:
        return "epochs unknown"
    limit = epoch_limit(trial)
    if trial.exhausted or limit is None:
        return pluralize(trial.epochs, "epoch")  # its callbacks or its `fit` want no more
    return f"{trial.epochs} of {pluralize(limit, 'epoch')}"


def _executions_line(trial: Trial) -> str:
    values = ", ".join(format_objective(value) for value in trial.scores) or "none has an objective yet"
    spread = "" if trial.spread is None else f"; standard deviation {format_objective(trial.spread)}"
    best = f"; the model, the curve and the epoch are of execution {trial.best.execution}" if trial.scores else ""
    return f"executions {len(trial.executions)} of {trial.progress.planned}: {values}{spread}{best}"


def _values_grid(trial: Trial) -> Grid:
    domains = {parameter.name: str(parameter.domain) for parameter in trial.parameters}
    names = Column("hyperparameter", [printable(name) for name in trial.params], left=True)
    values = Column("value", [_format_exactly(value) for value in trial.params.values()], left=True)
    shown = [printable(domains.get(name, "")) for name in trial.params]

    def narrow(room: int) -> list[Column]:
        return [Column(truncate("domain", room), [truncate(text, room) for text in shown], left=True)]

    return Grid([names, values], [Column("domain", shown, left=True)], narrow)


def _format_exactly(value: Value) -> str:
    """Return `value` to the last digit, so that a user can type it in again."""
    return repr(value) if isinstance(value, float) else printable(str(value))


def _objective_curve(study: Study, trial: Trial) -> list[float]:
    return [epoch.logs.get(study.objective.name, math.nan) for epoch in trial.best_execution.curve]


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return `values` as a line of blocks, the lowest for the smallest; a space for one that is not finite."""
    if len(values) > width:
        values = [values[i * (len(values) - 1) // max(1, width - 1)] for i in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    # Halved: the distance of two huge numbers overflows.
    span = high / 2 - low / 2

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return SPARKS[round((value / 2 - low / 2) / span * (len(SPARKS) - 1)) if span else len(SPARKS) // 2]

    return "".join(map(block, values))


def _curve_grid(study: Study, trial: Trial) -> Grid:
    """Return at most `CURVE_ROWS` epochs of the curve, always with the first, the best and the last."""
    curve = trial.best_execution.curve
    best_epoch = trial.best_execution.best_epoch
    best = next((i for i, epoch in enumerate(curve) if epoch.epoch == best_epoch), None)
    epochs = [curve[i] for i in _sample_rows(len(curve), best)]
    logged = {name: None for epoch in epochs for name in epoch.logs}
    names = sorted(logged, key=lambda name: name != study.objective.name)
    metrics = [Column(printable(name), [_format_logged(epoch, name) for epoch in epochs]) for name in names]
    marks = [f"{'*' if epoch.epoch == best_epoch else ''}{epoch.epoch}" for epoch in epochs]
    fixed = [
        Column("asked for" if trial.black_box else "epoch", marks),
        Column("time", [format_seconds(epoch.seconds) for epoch in epochs]),
    ]

    def narrow(room: int) -> list[Column]:
        kept: list[Column] = []
        for column in metrics:
            room -= column.width + GAP
            if room < -GAP:
                break
            kept.append(column)
        return kept

    return Grid(fixed, metrics, narrow, ["green" if "*" in mark else "" for mark in marks])


def _format_logged(epoch: EpochDone, name: str) -> str:
    return format_objective(epoch.logs[name]) if name in epoch.logs else ""


def _sample_rows(count: int, best: int | None) -> list[int]:
    """Return the indices of the epochs to show, out of `count`, evenly spaced and with `best`."""
    if count <= CURVE_ROWS:
        return list(range(count))
    rows = CURVE_ROWS - 1
    chosen = {i * (count - 1) // (rows - 1) for i in range(rows)}
    return sorted(chosen | ({best} if best is not None else set()))


# A space --------------------------------------------------------------------------------------------------------------


def space_details(probed: Probed) -> RenderableType:
    """Return the findings of `search check`: the hyperparameters of a build with default values, and its model."""
    parts: list[RenderableType] = []
    if probed.parameters:
        parts.append(parameters_table(probed.parameters))
    else:
        parts.append(Text("no hyperparameters"))
    training, validation = (
        _samples(number, batched) for number, batched in zip(probed.samples, probed.batched, strict=True)
    )
    size = "" if probed.batched[0] else f"; batch size {probed.batch_size}"
    parts += [
        Text(),
        *_summary_lines(probed.summary),
        Text(f"model: {pluralize(probed.weight_count, 'weight', ',')}, runner {probed.runner}"),
        Text(f"samples: {training} for training, {validation} for validation{size}"),
        Text(f"metrics: {', '.join(map(printable, probed.metrics))}"),
        *(Text(printable(line)) for line in describe_compilations(probed.shape_parameters)),
    ]
    return Group(*parts)


def _samples(number: int | None, batched: bool) -> str:
    if number is None:
        return "an unknown number of batches" if batched else "unknown"
    return pluralize(number, "batch", ",") if batched else f"{number:,}"


def _summary_lines(summary: str) -> list[RenderableType]:
    return [Text.from_ansi(summary.rstrip()), Text()] if summary.strip() else []


def parameters_table(parameters: Sequence[Parameter]) -> Grid:
    """Return a table of hyperparameters: their defaults, their domains, and the conditions that activate them."""
    fixed = [
        Column("hyperparameter", [printable(parameter.name) for parameter in parameters], left=True),
        Column("default", [format_value(parameter.default) for parameter in parameters], left=True),
    ]
    domains = [printable(str(parameter.domain)) for parameter in parameters]
    conditions = [printable(" and ".join(map(str, parameter.conditions))) for parameter in parameters]
    wide = [Column("domain", domains, left=True)]
    if any(conditions):
        wide.append(Column("where", conditions, left=True))

    def narrow(room: int) -> list[Column]:
        cells = [
            truncate(f"{domain} where {condition}" if condition else domain, room)
            for domain, condition in zip(domains, conditions, strict=True)
        ]
        return [Column(truncate("domain", room), cells, left=True)]

    return Grid(fixed, wide, narrow)
