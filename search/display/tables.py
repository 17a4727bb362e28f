"""The tables of trials, and the lines about a study: the output of the commands that look at one.

All functions are pure. `alive` says if a process runs the study; otherwise its running trials count as paused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from search.display.grid import Column, Grid
from search.display.lines import (
    best_line,
    counts_line,
    format_epochs,
    format_progress,
    header_line,
    shown_state,
    variable_params,
)
from search.display.progress import budget_progress
from search.display.rows import PARAMS_PREFIX, parameter_names
from search.display.text import NONE, format_objective, format_seconds, format_value, printable
from search.errors import OptionError
from search.options import FIELDS, Options, check_option
from search.scheduler.initial import untried_added
from search.study.study import Study
from search.study.trial import State
from search.study.trials import Trial
from search.wording import format_memory, pluralize

# Trials ---------------------------------------------------------------------------------------------------------------


def _params_grid(
    study: Study, trials: Sequence[Trial], fixed: Sequence[Column], styles: Sequence[str] = (), *, constants: bool
) -> Grid:
    """Return the `fixed` columns and one for each hyperparameter, or lines below each row if they do not fit.

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

    below = [[f"{printable(name)}={format_value(value)}" for name, value in params.items()] for params in shown]
    return Grid(fixed, wide, styles, below)


STATE_STYLES: Mapping[State, str] = {"failed": "red", "infeasible": "dim"}


def trials_table(study: Study, trials: Sequence[Trial], alive: bool) -> RenderableType:
    """Return a table of `trials` in the given order: `search trials` sorts by number."""
    trials = list(trials)
    if not trials:
        return Text("no trials")
    fixed = [
        Column("trial", [str(trial.number) for trial in trials]),
        Column("state", [shown_state(trial, alive) for trial in trials], left=True),
        Column("epochs", [or_none(trial.known_epochs) for trial in trials]),
        Column(printable(study.objective.name), [format_objective(trial.objective) for trial in trials]),
        Column("best epoch", [or_none(trial.best_epoch) for trial in trials]),
        Column("pace", [format_seconds(trial.seconds_per_epoch) for trial in trials]),
        *_memory_column(trials),
        *_test_column(study, trials),
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


def _test_column(study: Study, trials: Sequence[Trial]) -> list[Column]:
    """Return the column of the objective on the test data, or none if no trial was tested.

    If the test data have no such metric, the column has the loss.
    """
    tested = {trial.number: trial.best.tested.logs for trial in trials if trial.best.tested is not None}
    if not tested:
        return []
    name = study.objective.name.removeprefix("val_")
    name = name if any(name in logs for logs in tested.values()) else "loss"
    values = [tested.get(trial.number, {}).get(name) for trial in trials]
    return [Column(f"test {printable(name)}", [format_objective(value) for value in values])]


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
        Column("best epoch", [or_none(trial.best_epoch) for trial in trials]),
        Column("epochs", [or_none(trial.known_epochs) for trial in trials]),
        Column("time", [format_seconds(trial.seconds) for trial in trials]),
        *_test_column(study, trials),
    ]
    return _params_grid(study, trials, fixed, ["bold green", *("" for _ in trials[1:])], constants=constants)


def or_none(value: int | None) -> str:
    """Return a number as text, or a dash."""
    return NONE if value is None else str(value)


# One study ------------------------------------------------------------------------------------------------------------


def status_fields(study: Study, *, alive: bool, now: float) -> dict[str, Any]:
    """Return a study's entry in `search status --json`."""
    best = study.best
    return {
        "study": study.name,
        "alive": alive,
        "paused": study.paused,
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
    if untried := untried_added(study):
        lines.append(f"{pluralize(len(untried), 'added configuration')} not tried yet")
    return lines


def _last_options(study: Study) -> Options:
    """Return the options of the last run, without unknown values: those of a later version must not hide the status."""
    known: dict[str, Any] = {}
    for name, value in study.options.items():
        if name in FIELDS and value is not None:
            with suppress(OptionError):
                known[name] = check_option(name, value)
    return Options(**known)


def _describe_status(study: Study, alive: bool) -> str:
    resume = f"`search resume {study.name}` goes on"
    if study.paused:
        resume = f"paused: `search resume {study.name}` begins a process, `search continue {study.name}` lets it go on"
    if alive and study.paused and study.start is not None:
        where = f"process {study.start.pid} on {study.start.host}"
        return f"paused, {where}; `search continue {study.name}` goes on"
    if alive:
        return f"running, process {study.start.pid} on {study.start.host}" if study.start else "starting"
    if study.end is None:
        return f"its process is gone; {resume}"
    if study.end.complete:
        return f"done, {printable(study.end.reason)}"
    return f"ended, {printable(study.end.reason)}; {resume}"
