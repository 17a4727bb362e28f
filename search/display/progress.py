"""The progress of a search towards its limits, and the time that it still needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.display.text import format_seconds
from search.options import Options
from search.study.study import Study
from search.study.trials import Trial


@dataclass(frozen=True, slots=True)
class BudgetProgress:
    """The progress towards one limit of a search: `done` of `total`.

    Attributes:
        unit: `epochs`, `trials` or `seconds`.
        paused: the seconds in which the search was paused, over all its processes.
    """

    unit: str
    done: float
    total: float
    paused: float

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total)

    def __str__(self) -> str:
        if self.unit == "seconds":
            return f"{format_seconds(int(self.done))} of {format_seconds(self.total)}"
        return f"{self.done:.0f}/{self.total:.0f} {self.unit}"


def current_options(study: Study, options: Options) -> Options:
    """Return the options of a process that began with `options`: the user may have changed limits since."""
    return replace(options, **study.changed_limits) if study.changed_limits else options


def budget_progress(study: Study, options: Options, now: float) -> tuple[BudgetProgress, ...]:
    """Return the progress towards each limit of a search; limits in epochs come first.

    Args:
        options: those that the process began with.
    """
    options, paused = current_options(study, options), study.paused_seconds(now)
    found: list[BudgetProgress] = []
    if study.is_imported:
        return ()  # it was searched with other limits
    trials = study.trials.values()
    if options.follows_plan:
        planned_trials = (trial for trial in trials if trial.phase == study.phase and not trial.extra)
        charged = sum(map(_charged_epochs, planned_trials))
        planned = options.plan.total_epochs * options.iterations * options.executions_per_trial
        found.append(BudgetProgress("epochs", charged, planned, paused))
    if options.total_epochs is not None:
        found.append(BudgetProgress("epochs", study.epochs, options.total_epochs, paused))
    if options.max_trials is not None and not options.lists_all:
        # In Hyperband's plan a trial that waits may still go on; elsewhere it may be paused to the end of the search.
        tried = sum(trial.ended if options.follows_plan else not trial.open for trial in trials)
        found.append(BudgetProgress("trials", tried, options.max_trials, paused))
    if options.timeout is not None:
        found.append(BudgetProgress("seconds", study.seconds(now), options.timeout, paused))
    return tuple(found)


def _charged_epochs(trial: Trial) -> int:
    """Return the epochs of Hyperband's plan that `trial` has used up; if it ended early, all that it was granted."""
    if trial.infeasible:
        return 0
    if trial.open and not trial.exhausted:
        return sum(min(execution.epochs, trial.progress.to_epoch) for execution in trial.executions)
    return trial.progress.to_epoch * trial.progress.planned


@dataclass(frozen=True, slots=True)
class Pace:
    """The budgets at the time `at`, when measuring began. The remaining time is estimated from the progress since."""

    at: float
    budgets: tuple[BudgetProgress, ...]

    def soonest(self, current: Sequence[BudgetProgress], now: float) -> tuple[BudgetProgress | None, float | None]:
        """Return the budget that will end the search first, and the seconds until then, None if unknown."""
        # The user may have changed the limits since: then some have no measurement.
        alike = [budget.unit for budget in current] == [budget.unit for budget in self.budgets]
        before = self.budgets if alike else current
        left = [self._left(budget, earlier, now) for budget, earlier in zip(current, before, strict=True)]
        known = [(seconds, i) for i, seconds in enumerate(left) if seconds is not None]
        # Before the first epoch, only a timeout is known, and that says little.
        if not known or (len(known) < len(left) and current[known[0][1]].unit == "seconds"):
            return (current[0] if current else None), None
        seconds, i = min(known)
        return current[i], seconds

    def _left(self, budget: BudgetProgress, before: BudgetProgress, now: float) -> float | None:
        left = max(0.0, budget.total - budget.done)
        if budget.unit == "seconds":
            return left
        gained = budget.done - before.done
        elapsed = now - self.at - (budget.paused - before.paused)
        return left * elapsed / gained if gained > 0 and elapsed > 0 else None
