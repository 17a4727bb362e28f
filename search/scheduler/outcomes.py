"""The outcome of a back end's suggestion, and the state in which a trial ends, told from the status of the trial."""

from __future__ import annotations

from dataclasses import replace

from search.messages import Lost
from search.scheduler.events import StartSegment
from search.scheduler.limits import Limits
from search.study.records import Outcome, ResultOutcome, ResultTold, SearchEnded, SegmentEnded
from search.study.study import Study
from search.study.trial import EndState
from search.study.trials import Trial

__all__ = ["BY_RESULT", "end_of_lost", "end_of_search", "end_state", "end_without_objective", "result_of"]

BY_RESULT = -1
"""In the place of an exit code: 0 if the search has a best trial at its end, else 1."""


def end_of_lost(start: StartSegment, lost: Lost, study: Study) -> SegmentEnded:
    """Return the record of a segment whose process was lost: without the trial's fault, it counts as interrupted."""
    epochs = study.trials[start.trial].execution(start.execution).epochs
    outcome: Outcome = "lost" if lost.fault else "interrupted"
    return SegmentEnded(start.trial, start.execution, outcome, epochs, lost.reason)


def result_of(trial: Trial, limits: Limits) -> ResultTold | None:
    """Return the result of the last suggestion for `trial`; None if there is more to train for it."""
    outcome = _outcome(trial, limits)
    if outcome is None:
        return None
    score = None if outcome in ("failed", "infeasible") else trial.score
    if score is None and outcome != "infeasible":
        outcome = "failed"
    return ResultTold(trial.number, trial.epochs, score, outcome)


def _outcome(trial: Trial, limits: Limits) -> ResultOutcome | None:
    """Return how the last suggestion for `trial` ended; None if there is more to train for it."""
    match trial.status:
        case "failing":
            return "failed"
        case "refused":
            return "infeasible"
        case "halted":
            return "stopped"
    done = trial.exhausted or trial.unfinished is None
    # An exception after the last epoch leaves nothing to train again.
    ended = done and not trial.stops
    if trial.status == "raised" and (ended or trial.resources.raised > limits.max_retries_per_trial):
        return "failed"
    if done:
        return "stopped_by_callback" if trial.exhausted else "reached"
    if trial.status == "expired":
        # A trial that had to be killed hangs. Any other keeps its best value, as if a callback had ended it.
        return "failed" if trial.resources.lost else "stopped_by_callback"
    return "failed" if trial.resources.lost > limits.retries else None


def end_state(trial: Trial, max_epochs: int) -> EndState:
    """Return the state in which `trial` ends, of which nobody wants more; `max_epochs` is the most a trial gets."""
    if trial.failed:
        return "failed"
    if trial.infeasible:
        return "infeasible"
    stopped = trial.status == "halted" or trial.progress.result == "stopped"
    return "completed" if not stopped and (trial.exhausted or trial.epochs >= max_epochs) else "stopped"


def end_of_search(end: SearchEnded, study: Study, *, dropped: bool) -> SearchEnded:
    """Return the end of a search whose work is over, with its exit code.

    Args:
        dropped: the user has stopped the search before all final evaluations had begun.
    """
    if dropped:
        return SearchEnded("stopped by the user", complete=False, exit_code=130)
    if end.exit_code != BY_RESULT:
        return end
    # Not before now: the best trial may have diverged in the epoch that it was finishing.
    return replace(end, exit_code=0 if study.best is not None else 1)


def end_without_objective(ended: SegmentEnded, study: Study) -> SegmentEnded:
    """Return the record of a segment: as failed if no epoch of its execution has logged the objective.

    An epoch may lack it: a metric may be computed every second epoch, or by the trial's end alone.
    """
    execution, name = study.trials[ended.trial].execution(ended.execution), study.objective.name
    if ended.outcome not in ("reached", "stopped_by_callback") or not execution.curve:
        return ended
    if any(name in epoch.logs for epoch in execution.curve):
        return ended
    logged = ", ".join(sorted({each for epoch in execution.curve for each in epoch.logs}))
    error = f"none of its epochs has logged the objective {name!r}, only {logged}"
    return replace(ended, outcome="failed", error=error)
