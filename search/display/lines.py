"""The state of a study and of its trials, each in one line. The time is an argument, in seconds since the epoch."""

from __future__ import annotations

import math
from collections import Counter

from rich.cells import cell_len

from search.display.progress import BudgetProgress, Pace, budget_progress
from search.display.text import format_objective, format_params, format_seconds, printable
from search.options import OWN_FIT_MAX_EPOCHS, Options
from search.space.domain import Value
from search.study.study import Study
from search.study.trial import State
from search.study.trials import Trial
from search.wording import pluralize

STATES: tuple[State, ...] = ("running", "paused", "completed", "stopped", "failed", "infeasible")


def variable_params(trial: Trial) -> dict[str, Value]:
    """Return the hyperparameters of `trial` that could have had another value."""
    constant = {parameter.name for parameter in trial.parameters if parameter.domain.size == 1}
    return {name: value for name, value in trial.params.items() if name not in constant}


def header_line(study: Study) -> str:
    """Return the study's name, back end, objective and seed on one line."""
    backend = study.phases[-1].backend if study.phases else "imported" if study.is_imported else "no back end"
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


def trial_line(trial: Trial, *, params: bool = True) -> str:
    """Return a trial on one line: `trial 12: completed, 9 epochs, objective 0.9722 at epoch 9, lr=0.003 units=64`.

    Args:
        params: include the hyperparameters.
    """
    parts = [trial.state, "epochs unknown" if trial.known_epochs is None else pluralize(trial.known_epochs, "epoch")]
    if trial.objective is not None:
        at = "" if trial.best_epoch is None else f" at epoch {trial.best_epoch}"
        parts.append(f"objective {format_objective(trial.objective)}{at}")
    if params and trial.params:
        parts.append(format_params(trial.params))
    if trial.error is not None:
        parts.append(printable(trial.error))
    return f"trial {trial.number}: {', '.join(parts)}"


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
    parts = [format_amount(study, budget), counts_line(study)]
    if study.best is not None:
        parts.append(f"best {format_objective(study.best.objective)}")
    return " · ".join([*parts, format_time(study, left, now, timed=budget is not None and budget.unit == "seconds")])


def format_amount(study: Study, budget: BudgetProgress | None) -> str:
    return format_epochs(study) if budget is None else format_progress(study, budget)


def format_progress(study: Study, budget: BudgetProgress) -> str:
    """Return the progress towards a budget."""
    unknown = budget.unit == "epochs" and study.known_epochs is None
    return f"{budget} asked for" if unknown else str(budget)


def format_epochs(study: Study) -> str:
    """Return the number of epochs that the study has trained."""
    return "epochs unknown" if study.known_epochs is None else pluralize(study.known_epochs, "epoch")


def format_time(study: Study, left: float | None, now: float, *, timed: bool = False) -> str:
    """Return the elapsed time, unless the budget shows it, and the remaining time."""
    parts = [] if timed else [format_seconds(int(study.seconds(now)))]
    if left is not None and left >= 0.5:
        parts.append(f"{format_seconds(math.ceil(left)) if timed else 'about ' + _format_estimate(left)} left")
    return ", ".join(parts)


def _format_estimate(seconds: float) -> str:
    """Return an estimated time, rounded to the precision that it has."""
    unit = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return format_seconds(math.ceil(seconds / unit) * unit)
