"""The limits of a search, as the user sets them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends, and which failures it tolerates.

    Attributes:
        max_trials: configurations to try. Trials that have begun are promoted and trained to their end all the same.
        max_total_epochs: epochs to train, over all trials and resumes; the last segments are cut to fit.
        timeout: seconds that the search may run, over all its resumes.
        target: objective value at which the search ends.
        trial_timeout: seconds that one trial may run, over all its segments.
        retries: times that a trial is started again without progress after its process died.
        max_consecutive_failures: failed trials before any succeeds, after which the search aborts.
        max_retries_per_trial: times that a trial is started again after an exception of the user's code.
        max_consecutive_failed_trials: failed trials in a row, after which the search aborts. If given, this is the only
            such rule, as in KerasTuner.
        executions: trainings of each trial, with different seeds.
        evaluate_best: trials, the best ones, evaluated on the test data at the end; the best of them is written to a
            file. With 0 there is no final evaluation.
        test: whether there are test data.
        checkpoint_bytes: the most that the checkpoints of paused trials may take on the disk, if the back end ranks
            these trials. The search ends if the checkpoint of one trial takes more.
    """

    max_trials: int | None = None
    max_total_epochs: int | None = None
    timeout: float | None = None
    target: float | None = None
    trial_timeout: float | None = None
    retries: int = 1
    max_consecutive_failures: int = 5
    max_retries_per_trial: int = 0
    max_consecutive_failed_trials: int | None = None
    executions: int = 1
    evaluate_best: int = 0
    test: bool = False
    checkpoint_bytes: int | None = None
