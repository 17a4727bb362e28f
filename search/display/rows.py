"""Trials as rows for programs: JSON, CSV and DataFrame have one schema.

All functions are pure. `alive` says if a process runs the study; otherwise its running trials count as paused.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from search.display.lines import shown_state
from search.display.text import printable
from search.study.study import Study
from search.study.trials import Trial

PARAMS_PREFIX = "params_"
"""Prefix of the columns of hyperparameters. No other column begins with it."""


def trial_row(trial: Trial, study: Study, run_id: str | None, *, alive: bool) -> dict[str, Any]:
    """Return a trial's row for programs. JSON, CSV and DataFrame have these fields, and no others.

    A hyperparameter may have any name, so the values stand apart from the fields: under `params`.
    """
    return {
        "trial": trial.number,
        "state": shown_state(trial, alive),
        "epochs": trial.known_epochs,
        "objective": trial.objective,
        "best_epoch": trial.best_epoch,
        "params": dict(trial.params),
        "error": None if trial.error is None else printable(trial.error),
        "seed": trial.seed,
        "mlflow_run_id": run_id,
        "trained": None if trial.black_box else trial.progress.trained,
        "executions": [execution.objective for execution in trial.executions],
        "objective_std": trial.spread,
        "test": None if trial.best.tested is None else dict(trial.best.tested.logs),
        "bracket": trial.progress.bracket,
        "rung": trial.progress.rung,
        "runner": trial.runner,
        "seconds": round(trial.seconds, 3),
        "seconds_per_epoch": None if (pace := trial.seconds_per_epoch) is None else round(pace, 6),
        "peak_device_memory": trial.peak_device_memory,
        "parameters": trial.weight_count,
        "unused_initial_values": trial.unused_initial_values or None,
        "parent": None if trial.parent is None else trial.parent.trial,
        "backend": study.phases[trial.phase].backend if 0 <= trial.phase < len(study.phases) else None,
    }


def trial_fields(trial: Trial, study: Study, run_id: str | None, *, alive: bool) -> dict[str, Any]:
    """Return a trial's entry in `search trials --json`: its row as standard JSON.

    Measured numbers that are not finite become null; hyperparameters keep such values as text: "nan" or "inf".
    """
    row = trial_row(trial, study, run_id, alive=alive)
    params = {name: value if finite(value) == value else str(value) for name, value in row["params"].items()}
    fields: dict[str, Any] = _standard({**row, "params": params})
    return fields


def finite(value: Any) -> Any:
    """Return `value`, or None for a number that is not finite: standard JSON has no such number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _standard(value: Any) -> Any:
    """Return `value` as standard JSON can hold it."""
    if isinstance(value, dict):
        return {name: _standard(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_standard(item) for item in value]
    return finite(value)


def flat_rows(
    study: Study, trials: Iterable[Trial], run_ids: Mapping[int, str], *, alive: bool
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the rows of CSV and DataFrame: the fields of `trial_row` with flat values.

    The value of the hyperparameter `lr` is in the column `params_lr`. The columns of values come last. A row lacks the
    hyperparameters that its trial did not use.
    """
    trials = list(trials)
    # An empty study has the same columns as any other.
    columns = [name for name in trial_row(Trial(0, 0, -1), study, None, alive=alive) if name != "params"]
    columns += [f"{PARAMS_PREFIX}{name}" for name in parameter_names(study, trials)]
    rows = [trial_row(trial, study, run_ids.get(trial.number), alive=alive) for trial in trials]
    for row in rows:
        row |= {f"{PARAMS_PREFIX}{name}": value for name, value in row.pop("params").items()}
    return columns, rows


def trials_csv(study: Study, trials: Iterable[Trial], run_ids: Mapping[int, str], *, alive: bool) -> str:
    """Return trials as CSV. An empty cell of a hyperparameter means that the trial did not use it."""
    columns, rows = flat_rows(study, trials, run_ids, alive=alive)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(name, value) for name, value in row.items()})
    return out.getvalue()


def _cell(name: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(_standard(value))
    return "None" if value is None and name.startswith(PARAMS_PREFIX) else value


def parameter_names(study: Study, trials: Iterable[Trial]) -> list[str]:
    """Return the hyperparameters that `trials` used: those of the space in its order, then others as they appeared."""
    used = {name: None for trial in trials for name in trial.params}
    known = {parameter.name: None for parameter in study.parameters if parameter.name in used}
    return list(known | used)
