"""The failed trials of a search, and the limit at which it aborts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from search.study.records import Record, ResultTold, TrialEnded
from search.study.study import Study

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

    def apply(self, record: Record, study: Study) -> None:
        """Take in a record that `study` has taken in already."""
        if isinstance(record, ResultTold) and record.outcome != "failed":
            self._succeeded.add(record.trial)
        elif isinstance(record, TrialEnded) and record.state == "failed":
            self._succeeded.discard(record.trial)
            self._failed += 1
            error = study.trials[record.trial].error or "unknown"
            self._errors[error] += 1
            self._commonest = max(self._commonest, (error, self._errors[error]), key=lambda item: item[1])

    def abort_reason(self, study: Study, max_consecutive_failures: int) -> str | None:
        """Return why the search aborts, None if it does not.

        It aborts if `max_consecutive_failures` trials have failed before any succeeded, or if one error made nearly all
        trials fail.
        """
        if not self._failed:
            return None
        error, count = self._commonest
        tried = self._failed + len(self._succeeded)
        common = tried >= COMMON_ERROR_TRIALS and count >= COMMON_ERROR_SHARE * tried
        none_succeeded = not study.best and not self._succeeded and self._failed >= max_consecutive_failures
        if common or none_succeeded:
            return f"{self._failed} of {tried} trials failed, {count} of them with: {error}"
        return None
