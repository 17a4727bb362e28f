"""The failed trials of a search, and the limit at which it aborts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from search.scheduler.limits import Limits
from search.study.records import Record, ResultTold, SearchEnded, TrialEnded
from search.study.study import Study
from search.wording import pluralize

__all__ = ["FailureLimit"]

COMMON_ERROR_TRIALS = 20
"""Trials that must have failed or succeeded before one common error aborts a search."""

COMMON_ERROR_SHARE = 0.9
"""The share of these trials that must have failed with that error."""


@dataclass(slots=True)
class FailureLimit:
    """The failures of a study, folded from its records."""

    _succeeded: set[int] = field(default_factory=set)
    _failed: int = 0
    _errors: Counter[str] = field(default_factory=Counter)
    _commonest: tuple[str, int] = ("", 0)
    _in_a_row: int = 0
    _last_error: str = ""

    def apply(self, record: Record, study: Study) -> None:
        """Take in a record that `study` has taken in already."""
        match record:
            case ResultTold(outcome="failed"):
                self._in_a_row += 1
                self._last_error = study.trials[record.trial].error or "unknown"
            case ResultTold() if record.score is not None:
                self._in_a_row = 0
                self._succeeded.add(record.trial)
            case TrialEnded(state="failed"):
                self._trial_failed(record.trial, study.trials[record.trial].error or "unknown")
            case SearchEnded(exit_code=1):
                self._in_a_row = 0  # the next process tries again

    def _trial_failed(self, trial: int, error: str) -> None:
        self._succeeded.discard(trial)
        self._failed += 1
        self._errors[error] += 1
        self._commonest = max(self._commonest, (error, self._errors[error]), key=lambda item: item[1])

    def abort_reason(self, study: Study, limits: Limits) -> str | None:
        """Return why the search aborts, None if it does not.

        It aborts if `limits.max_consecutive_failures` trials have failed before any succeeded, or if one error made
        nearly all trials fail. With `limits.max_consecutive_failed_trials`, only so many failures in a row abort it.
        """
        if limits.max_consecutive_failed_trials is not None:
            if self._in_a_row < limits.max_consecutive_failed_trials:
                return None
            return f"{pluralize(self._in_a_row, 'trial')} failed in a row, the last one with: {self._last_error}"
        if not self._failed:
            return None
        error, count = self._commonest
        tried = self._failed + len(self._succeeded)
        common = tried >= COMMON_ERROR_TRIALS and count >= COMMON_ERROR_SHARE * tried
        none_succeeded = not study.best and not self._succeeded and self._failed >= limits.max_consecutive_failures
        if common or none_succeeded:
            return f"{self._failed} of {pluralize(tried, 'trial')} failed, {count} of them with: {error}"
        return None
