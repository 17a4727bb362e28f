"""The outcome of a back end's suggestion, told from the state of its trial."""

from __future__ import annotations

from search.scheduler.limits import Limits
from search.study.records import ResultOutcome
from search.study.study import Trial

__all__ = ["result_outcome"]


def result_outcome(trial: Trial, limits: Limits) -> ResultOutcome | None:
    """Return how the last suggestion for `trial` ended; None if there is more to train for it."""
    done = trial.stop_decided or trial.exhausted or trial.unfinished is None
    # An exception after the last epoch leaves nothing to train again.
    if trial.failed or (trial.raising and (done or trial.raised > limits.max_retries_per_trial)):
        return "failed"
    if trial.stop_decided:
        return "stopped"
    if trial.exhausted:
        return "stopped_by_callback"
    if done:
        return "reached"
    if trial.timed_out:
        # A trial that had to be killed hangs. Any other keeps its best value, as if a callback had ended it.
        return "failed" if trial.lost or trial.raising else "stopped_by_callback"
    return "failed" if trial.lost > limits.retries else None
