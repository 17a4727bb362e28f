"""The trials that figures show, and the text about each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.display.lines import variable_params
from search.display.text import format_objective, format_seconds
from search.errors import NoResult
from search.plots.text import full, label, params_lines
from search.study.study import Study
from search.study.trials import Trial

__all__ = [
    "DETAILED",
    "describe",
    "is_scored",
    "nothing",
    "objective_bounds",
    "objective_label",
    "objective_range",
    "scored_trials",
    "study_title",
    "thin",
]


DETAILED = 1000
"""The most trials of a figure whose hover texts give hyperparameters."""


def is_scored(trial: Trial) -> bool:
    """Return whether `trial` has a finite objective and neither failed nor is infeasible."""
    return trial.objective is not None and math.isfinite(trial.objective) and not trial.worthless


def scored_trials(study: Study) -> list[Trial]:
    """Return the trials with an objective that did not fail, by number. NoResult if there are none."""
    found = [trial for trial in study.trials.values() if is_scored(trial)]
    if not found:
        raise nothing(study, "no trial has an objective yet")
    return sorted(found, key=lambda trial: trial.number)


def nothing(study: Study, why: str) -> NoResult:
    """Return the exception for a study without the data of a figure."""
    return NoResult(f"study {study.name!r} cannot be plotted: {why}")


def objective_label(study: Study) -> str:
    """Return the objective's name, for an axis."""
    return label(study.objective.name, 40)


def study_title(study: Study, text: str) -> str:
    """Return a figure's title: the study's name, and `text`, which is escaped already."""
    return f"{label(study.name, 40)}: {text}"


def describe(study: Study, trial: Trial, attributes: Mapping[str, str] | None = None, *, values: bool = True) -> str:
    """Return the hover text about a trial, with the back end's part in it.

    Args:
        attributes: what the back end noted about the trial, by name.
        values: with its hyperparameters. A figure of very many trials would be too large with them.
    """
    progress = trial.progress
    lines = [f"<b>trial {trial.number}</b>, {trial.state}"]
    if trial.objective is not None:
        epoch = "" if trial.best_epoch is None else f" at epoch {trial.best_epoch}"
        spread = "" if trial.spread is None else f" ± {trial.spread:.2g} ({len(trial.scores)} executions)"
        lines.append(f"{objective_label(study)} {format_objective(trial.objective)}{spread}{epoch}")
    epochs = "epochs unknown" if trial.known_epochs is None else f"{trial.epochs} of {progress.to_epoch} epochs"
    lines.append(f"{epochs}, {format_seconds(trial.seconds)}")
    plan = [f"bracket {progress.bracket}"] if progress.bracket is not None else []
    plan += [f"rung {progress.rung}"] if progress.rung is not None else []
    plan += [f"continues trial {trial.parent.trial}"] if trial.parent is not None else []
    plan += ["initial configuration"] if trial.values.initial else []
    if 0 <= trial.phase < len(study.phases):
        plan.insert(0, label(study.phases[trial.phase].backend))
    if plan:
        lines.append(", ".join(plan))
    lines += [f"{label(name, 40)}: {full(value)}" for name, value in (attributes or {}).items()]
    if trial.error is not None:
        lines.append(full(trial.error))
    if values and (params := variable_params(trial)):
        lines.append(params_lines(params))
    return "<br>".join(lines)


def thin(study: Study, trials: Sequence[Trial], most: int) -> list[Trial]:
    """Return at most `most` of `trials`, by number: the best half of them, and others at equal distances."""
    if len(trials) <= most:
        return sorted(trials, key=lambda trial: trial.number)
    ranked = sorted(trials, key=lambda trial: (study.objective.cost(trial.objective), trial.number))
    best = ranked[: most // 2]
    rest = sorted(ranked[most // 2 :], key=lambda trial: trial.number)
    count = most - len(best)
    others = [rest[place * len(rest) // count] for place in range(count)]
    return sorted([*best, *others], key=lambda trial: trial.number)


def objective_bounds(study: Study, trials: Sequence[Trial]) -> tuple[float, float]:
    """Return the range of the objectives of scored `trials`, without the worst tenth if that would squeeze the rest."""
    ordered = sorted((trial.objective for trial in trials if trial.objective is not None), key=study.objective.cost)
    best, kept, worst = ordered[0], ordered[len(ordered) * 9 // 10], ordered[-1]
    if len(ordered) >= 10 and abs(worst - best) > 5 * abs(kept - best) > 0:
        worst = kept
    return min(best, worst), max(best, worst)


def objective_range(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return Plotly's range of an axis of objectives; {}, for all of them, if none squeezes the others."""
    values = [trial.objective for trial in trials if trial.objective is not None]
    if not values or objective_bounds(study, trials) == (min(values), max(values)):
        return {}
    low, high = objective_bounds(study, trials)
    room = (high - low) * 0.08
    return {"range": [low - room, high + room]}
