"""What failed, and whether a search has any hope left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from search.study.records import Record, ResultTold, TrialEnded
from search.study.study import Study

__all__ = ["FailureLimit"]

HOPELESS_TRIALS = 20
HOPELESS_SHARE = 0.9


@dataclass(slots=True)
class FailureLimit:
    """The failures of a study, folded from its records."""

    _good: set[int] = field(default_factory=set)
    _failed: int = 0
    _errors: Counter[str] = field(default_factory=Counter)
    _commonest: tuple[str, int] = ("", 0)

    def apply(self, record: Record, study: Study) -> None:
        """Take in a record, which the study has taken in already."""
        if isinstance(record, ResultTold) and record.outcome != "failed":
            self._good.add(record.trial)
        elif isinstance(record, TrialEnded) and record.state == "failed":
            self._good.discard(record.trial)
            self._failed += 1
            error = study.trials[record.trial].error or "unknown"
            self._errors[error] += 1
            self._commonest = max(self._commonest, (error, self._errors[error]), key=lambda item: item[1])

    def abort_reason(self, study: Study, most: int) -> str | None:
        """Why the search is to be given up; None where it is not.

        That is where `most` trials have failed before any succeeded, or where one error keeps nearly all from it.
        """
        if not self._failed:
            return None
        error, count = self._commonest
        tried = self._failed + len(self._good)
        many = tried >= HOPELESS_TRIALS and count >= HOPELESS_SHARE * tried
        none = not study.best and not self._good and self._failed >= most
        if many or none:
            return f"{self._failed} of {tried} trials failed, {count} of them with: {error}"
        return None
