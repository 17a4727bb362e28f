"""The content of the files in MLflow, and the choice of trials whose weights are there. Pure, like `layout`.

parent run    space/…              the space file and the local modules that it imports
              study.json           a description of the study, for retrieval
trial's run   model/weights.npz    the weights of the best epoch, for the best trials only
              model/trial.json     the trial's values, and the epoch of the weights
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.study.study import Study


def describe_study(study: Study, space: str) -> dict[str, Any]:
    """Return the content of `study.json`.

    Args:
        space: the space file's name under `space/`.
    """
    header = study.header
    assert header is not None
    options: Mapping[str, Any] = study.start.options if study.start else {}
    return {
        "format": header.format,
        "study": study.name,
        "uid": study.uid,
        "seed": study.seed,
        "objective": study.objective.name,
        "direction": study.objective.direction,
        "digest": study.digest,
        "space": space,
        "keras_backend": options.get("keras_backend") or header.versions.get("keras_backend"),
        "versions": dict(header.versions),
    }


@dataclass(frozen=True, slots=True)
class TrialWeights:
    """A trial's weights that belong into MLflow: those after `epoch`, trained in `execution`."""

    trial: int
    epoch: int
    execution: int


def choose_weights(study: Study, keep: int) -> list[TrialWeights]:
    """Return the weights of the best `keep` trials that have any on disk, best first."""
    if keep < 1:
        return []
    found = []
    for trial in study.ranked():
        epoch = trial.best_execution.saved_epoch
        if epoch is not None and epoch <= trial.best_execution.epochs:
            found.append(TrialWeights(trial.number, epoch, trial.best.execution))
        if len(found) == keep:
            break
    return found


def describe_trial(study: Study, weights: TrialWeights) -> dict[str, Any]:
    """Return the content of `trial.json`: the trial's values, and the logs of the epoch of `weights`."""
    trial = study.trials[weights.trial]
    record = trial.executions[weights.execution].find(weights.epoch)
    logs = record.logs if record is not None else {}
    return {
        "study": study.name,
        "uid": study.uid,
        "digest": study.digest,
        "trial": trial.number,
        "params": dict(trial.params),
        "objective": logs.get(study.objective.name),
        "best_epoch": None if trial.black_box else weights.epoch,
        "epochs": trial.known_epochs,
        "execution": weights.execution,
        "seed": study.training_seed(trial.number, weights.execution),
        "logs": dict(logs),
    }
