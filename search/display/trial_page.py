"""The output of `search show`: one trial with its values, curve and errors. All functions are pure.

`alive` says if a process runs the study; otherwise its running trials count as paused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from search.display.grid import Blocks, Column, Grid
from search.display.lines import epoch_limit, shown_state
from search.display.rows import finite
from search.display.tables import or_none
from search.display.text import coloured, format_objective, format_seconds, printable
from search.errors import nearest
from search.space.domain import Value
from search.study.records import EpochDone
from search.study.study import Study
from search.study.trials import Execution, Trial
from search.wording import format_memory, pluralize

CURVE_ROWS = 12
"""The epochs of a curve that are shown, unless all are asked for."""

SPARK_WIDTH = 60
SPARKS = "▁▂▃▄▅▆▇█"


def trial_details(
    study: Study, trial: Trial, traceback: str, log_tail: str, *, alive: bool, whole_curve: bool = False
) -> RenderableType:
    """Return the details of a trial: its values, curve, worker, error, traceback and the end of its log.

    Args:
        whole_curve: show all epochs of all executions, not `CURVE_ROWS` of the best one.
    """
    first, *facts = _trial_lines(study, trial, alive)
    parts: list[RenderableType] = [Text(first, "bold"), *map(Text, facts)]
    parts += [Text(line, "dim") for line in (study.start.internals_off if study.start is not None else ())]
    if trial.params:
        parts += [Text(), _values_grid(trial)]
    for part in _curve_parts(study, trial, whole=whole_curve):
        parts += [part] if isinstance(part, Blocks) else [Text(), part]
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
            parts += [Text(), Text(heading, "bold"), coloured(text.rstrip())]
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
        lines.append(f"bracket {trial.progress.bracket}, rung {or_none(trial.progress.rung)}")
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
    if trial.extra:
        lines.append(f"added by the user when back end {study.phases[trial.phase].backend} began no more trials")
    if trial.progress.stop_requested:
        lines.append("stopped by the user, who said that it had given its best")
    if trial.dropped and not trial.ended:
        lines.append("checkpoint: dropped; if the trial goes on, it is trained again from its seed")
    lines.append(f"seed {trial.seed}")
    if study.exported is not None and study.exported.trial == trial.number and study.exported.warning:
        lines.append(printable(study.exported.warning))
    drawn = trial.params.keys() - trial.values.initial.keys()
    for name, value in trial.unused_initial_values.items():
        source = "search add" if trial.values.initial in study.added else "--try-first"
        given = f"{source} gives {name} the value {_format_exactly(value)}"
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
    return Grid([names, values], [Column("domain", shown, left=True)])


def _format_exactly(value: Value) -> str:
    """Return `value` to the last digit, so that a user can type it in again."""
    return repr(value) if isinstance(value, float) else printable(str(value))


def _objective_curve(study: Study, execution: Execution) -> list[float]:
    return [epoch.logs.get(study.objective.name, math.nan) for epoch in execution.curve]


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


def _curve_parts(study: Study, trial: Trial, *, whole: bool) -> Iterator[RenderableType]:
    """Yield the curve of the best execution as a line and a table; if `whole`, the curves of all executions."""
    if not whole:
        best = trial.best_execution
        if best.curve:
            yield Text(f"{printable(study.objective.name)}  {sparkline(_objective_curve(study, best))}")
            yield _curve_table(study, trial, best, whole=False)
        if len(best.curve) > CURVE_ROWS or sum(bool(each.curve) for each in trial.executions) > 1:
            shown = min(len(best.curve), CURVE_ROWS)
            of = f"{shown} of {pluralize(trial.progress.trained, 'epoch')}"
            yield Text(f"{of}; `search show {study.name} {trial.number} --curve` has all", "dim")
        return
    for number, execution in enumerate(trial.executions):
        if not execution.curve:
            continue
        label = f", execution {number}" if len(trial.executions) > 1 else ""
        yield Text(f"{printable(study.objective.name)}{label}  {sparkline(_objective_curve(study, execution))}")
        yield _curve_table(study, trial, execution, whole=True)


def _curve_table(study: Study, trial: Trial, execution: Execution, *, whole: bool) -> Blocks:
    """Return the epochs with all their metrics; unless `whole`, few of them: the first, the best and the last too."""
    curve, best_epoch = execution.curve, execution.best_epoch
    best = next((i for i, epoch in enumerate(curve) if epoch.epoch == best_epoch), None)
    epochs = curve if whole else [curve[i] for i in _sample_rows(len(curve), best)]
    logged = {name: None for epoch in epochs for name in epoch.logs}
    names = sorted(logged, key=lambda name: name != study.objective.name)
    metrics = [Column(printable(name), [_format_logged(epoch, name) for epoch in epochs]) for name in names]
    marks = [f"{'*' if epoch.epoch == best_epoch else ''}{epoch.epoch}" for epoch in epochs]
    key = Column("asked for" if trial.black_box else "epoch", marks)
    time = Column("time", [format_seconds(epoch.seconds) for epoch in epochs])
    return Blocks([key], [time], metrics, ["green" if "*" in mark else "" for mark in marks])


def _format_logged(epoch: EpochDone, name: str) -> str:
    return format_objective(epoch.logs[name]) if name in epoch.logs else ""


def _sample_rows(count: int, best: int | None) -> list[int]:
    """Return the indices of the epochs to show, out of `count`, evenly spaced and with `best`."""
    if count <= CURVE_ROWS:
        return list(range(count))
    rows = CURVE_ROWS - 1
    chosen = {i * (count - 1) // (rows - 1) for i in range(rows)}
    return sorted(chosen | ({best} if best is not None else set()))


def trial_document(trial: Trial, fields: Mapping[str, Any], traceback: str) -> dict[str, Any]:
    """Return the document of `search show --json`.

    Args:
        fields: the trial's entry in `search trials --json`.
        traceback: the traceback of its last error, "" for none.

    Returns:
        The fields, `curve` with an entry for each epoch of each execution, and `traceback`. Numbers that are not finite
        are null.
    """
    curve = [
        {
            "epoch": epoch.epoch,
            "execution": number,
            "seconds": finite(round(epoch.seconds, 6)),
            "logs": {name: finite(value) for name, value in epoch.logs.items()},
        }
        for number, execution in enumerate(trial.executions)
        for epoch in execution.curve
    ]
    return {**fields, "curve": curve, "traceback": traceback or None}
