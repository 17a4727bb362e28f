"""The outcome of a back end's suggestion, and the state in which a trial ends, told from the status of the trial."""

from __future__ import annotations

from search.scheduler.limits import Limits
from search.study.records import ResultOutcome
from search.study.trial import EndState
from search.study.trials import Trial

__all__ = ["end_state", "result_outcome"]


def result_outcome(trial: Trial, limits: Limits) -> ResultOutcome | None:
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
    if trial.status == "raised" and (done or trial.resources.raised > limits.max_retries_per_trial):
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
