"""The colours of trials' runs in MLflow: the best trial's, else by the granted epochs, to tell rungs apart. Pure."""

from __future__ import annotations

import math

from search.study.study import Study
from search.study.trials import Trial

COLOUR_TAG = "mlflow.runColor"
"""Tag of a run that MLflow's UI draws the run in."""

_COLOURS = (("red", "#d1495b"), ("amber", "#d9940a"), ("green", "#2a9d6f"), ("blue", "#3a7bd5"), ("grey", "#8d99ae"))
"""Name and value of each level's colour: the whole budget first, then thirds of it. Legible on white and on black."""

_BEST = ("purple", "#b14aed")

_FACTOR = 3


def colour_of(study: Study, trial: Trial) -> str | None:
    """Return the colour of a trial by the epochs that it was granted last; None if all trials are granted all.

    The best trial has a colour of its own.

    A back end that has no rungs, and grants a trial the whole budget at once, leaves the colours to MLflow.
    """
    if study.best is trial:
        return _BEST[1]
    level = _level(study, trial)
    return None if level is None else _COLOURS[level][1]


def describe_colours(study: Study) -> str:
    """Return a legend of the colours by epochs, such as `red 9 epochs, amber 3, green 1`; "" for one or none."""
    epochs: dict[int, set[int]] = {}
    for trial in study.trials.values():
        level = _level(study, trial)
        if level is not None:
            epochs.setdefault(level, set()).add(trial.progress.to_epoch)
    if len(epochs) < 2:
        return ""
    parts = [f"{_COLOURS[level][0]} {_range(epochs[level])}" for level in sorted(epochs)]
    return ", ".join([f"{parts[0]} epochs", *parts[1:], f"{_BEST[0]} the best trial"])


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _level(study: Study, trial: Trial) -> int | None:
    """Return how often the trial's granted epochs can be tripled within the budget; None without a colour."""
    budget = _budget(study)
    granted = trial.progress.to_epoch
    if budget is None or granted < 1 or (trial.progress.rung is None and granted >= budget and trial.progress.judged):
        return None
    level = round(math.log(max(1.0, budget / granted), _FACTOR))
    return min(level, len(_COLOURS) - 1)


def _budget(study: Study) -> int | None:
    """Return the most epochs of a trial; None if they are unknown."""
    value = study.start.options.get("max_epochs") if study.start is not None else None
    return value if isinstance(value, int) and value > 1 else None
