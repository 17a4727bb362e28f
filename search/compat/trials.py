"""A study's trials as KerasTuner's `Trial` objects."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from search.compat.hyperparameters import to_keras_tuner
from search.compat.original import trial as original
from search.study.directions import direction_of_name
from search.study.study import Study
from search.study.trial import Objective
from search.study.trials import Trial

__all__ = ["convert_trial", "number_of", "trial_id", "trials_of"]

_STATUS = original.TrialStatus


def trial_id(number: int, max_trials: int | None) -> str:
    """Return KerasTuner's id of a trial: its number, padded to as many digits as `max_trials` has."""
    return f"{number:0{len(str(max_trials))}d}"


def number_of(trial_id: str) -> int:
    """Return the number of the trial with this id."""
    return int(trial_id)


def trials_of(study: Study, max_trials: int | None, *, hyperband: bool = False) -> dict[str, Any]:
    """Return the trials of a study by their ids, in order.

    Args:
        max_trials: the oracle's, for the ids.
        hyperband: whether the values have `tuner/epochs`, the epochs that the trial was trained for.
    """
    trials = [study.trials[number] for number in sorted(study.trials)]
    found = (convert_trial(trial, study.objective, max_trials, hyperband=hyperband) for trial in trials)
    return {trial.trial_id: trial for trial in found}


def convert_trial(trial: Trial, objective: Objective, max_trials: int | None, *, hyperband: bool = False) -> Any:
    """Return a trial of a study as KerasTuner's object; the arguments are as for `trials_of`."""
    hyperparameters = to_keras_tuner(trial.parameters, trial.params)
    if hyperband:
        hyperparameters.values |= {"tuner/epochs": trial.epochs, "tuner/initial_epoch": 0}
    converted = original.Trial(
        hyperparameters, trial_id=trial_id(trial.number, max_trials), status=_status(trial), message=trial.error
    )
    if trial.objective is None or trial.worthless:
        return converted
    epochs = [execution.best_epoch for execution in trial.executions if execution.best_epoch is not None]
    step = int(statistics.mean(epochs)) - 1 if epochs and not trial.black_box else 0
    logs = {**_mean_logs(trial), objective.name: trial.objective}
    for name, value in logs.items():
        direction = objective.direction if name == objective.name else direction_of_name(name)
        converted.metrics.register(name, direction)
        converted.metrics.update(name, value, step=step)
    converted.score, converted.best_step = trial.objective, step
    return converted


def _mean_logs(trial: Trial) -> Mapping[str, float]:
    """Return the means of the metrics over the executions, each at its best epoch."""
    columns: dict[str, list[float]] = {}
    for execution in trial.executions:
        record = None if execution.best_epoch is None else execution.find(execution.best_epoch)
        for name, value in ({} if record is None else record.logs).items():
            columns.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in columns.items()}


def _status(trial: Trial) -> str:
    if trial.worthless:
        return str(_STATUS.FAILED)
    if trial.objective is not None and (trial.ended or trial.state == "paused"):
        return str(_STATUS.COMPLETED)
    return str(_STATUS.RUNNING)
