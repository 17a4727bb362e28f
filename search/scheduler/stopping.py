"""Stop rules: each says when a search ends, whatever the other rules say.

A new rule is a class here, and one line in `rules_of`. The limits of trials and epochs are no rules: they say what may
still begin, and a search ends when nothing is left (`search.scheduler.budget`, `Controller`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, cast

from search.errors import UNFINISHED
from search.scheduler.limits import Limits
from search.study.records import (
    EpochDone,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentStarted,
    TrialEnded,
)
from search.study.study import Study
from search.wording import format_time, pluralize

__all__ = [
    "CommonError",
    "ConsecutiveFailures",
    "CountingStopRule",
    "FailuresInARow",
    "JobEnd",
    "OnlyInfeasible",
    "StopRule",
    "Target",
    "Timeout",
    "rules_of",
    "with_limits",
]

COMMON_ERROR_TRIALS = 20
"""Trials that must have failed or succeeded before one common error aborts a search."""

COMMON_ERROR_SHARE = 0.9
"""The share of these trials that must have failed with that error."""

INFEASIBLE_IN_A_ROW = 100
"""Infeasible trials in a row after which a search ends. If one configuration in ten is feasible, such a row comes once
in 400,000 trials."""


class StopRule(Protocol):
    """A rule that ends a search.

    A rule is pure: it has no clock, no files and no random state, and it changes nothing of the study. Asked twice, it
    gives the same answer. Rules are independent: none knows of another, and the first one that speaks ends the search.
    Running segments then stop when their epoch ends. A resumed study has the same rules, so a rule that still speaks
    ends it at once.

    `search.testing.StopRuleContract` tests a rule. A rule of another package is a class whose constructor takes the
    arguments of `--stop-rule name:key=value,…` by name.

    Attributes:
        protocol: the version of this protocol that the class was written for; 1 today.

    Example:
        End a search at a time, in seconds since the epoch. A resume goes on::

            from search.plugins import SearchEnded, Study

            class Until:
                protocol = 1

                def __init__(self, time: float) -> None:
                    self._time = time

                def check(self, study: Study, now: float) -> SearchEnded | None:
                    if now < self._time:
                        return None
                    return SearchEnded("the time has come", complete=False, exit_code=75)
    """

    protocol: int

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Return the end of the search, None if it goes on.

        Called after every message of a worker and ten times a second: it must not look at all trials each time.

        Args:
            study: as it is; only to be read.
            now: seconds since the epoch, by the study's clock: time in which the search was stopped (Ctrl-Z, a sleep of
                the machine) has not passed.

        Returns:
            The reason, one line; whether the search is complete; and the exit code. With 0 the best trials are
            evaluated first, and the command exits with 1 if no trial has an objective. With 1 the search is given up.
            With 2 the user must correct something, which the reason says. With 75 it goes on later, with the same
            command.
        """


class CountingStopRule(StopRule, Protocol):
    """A stop rule that counts. Its state is the fold of the journal's records, so a resume rebuilds it.

    Attributes:
        protocol: as of `StopRule`.

    Example:
        End a search when the last 20 trials that ended brought no better one::

            from search.plugins import SearchEnded, records

            class Plateau:
                protocol = 1

                def __init__(self, trials=20):
                    self._trials, self._best, self._since = trials, None, 0

                def apply(self, record, study):
                    if isinstance(record, records.TrialEnded):
                        best = study.best.number if study.best is not None else None
                        self._since = self._since + 1 if best == self._best else 0
                        self._best = best

                def check(self, study, now):
                    if self._since < self._trials:
                        return None
                    return SearchEnded(f"the last {self._trials} trials were no better", complete=True, exit_code=0)
    """

    def apply(self, record: Record, study: Study) -> None:
        """Take in a `record` that `study` has taken in already. Called for every record of the journal."""


def rules_of(limits: Limits) -> list[StopRule]:
    """Return the rules that a search with these limits has."""
    rules: list[StopRule] = [OnlyInfeasible()]
    if limits.timeout is not None:
        rules.append(Timeout(limits.timeout))
    if limits.target is not None:
        rules.append(Target(limits.target))
    if limits.max_consecutive_failed_trials is not None:
        return [*rules, FailuresInARow(limits.max_consecutive_failed_trials)]
    return [*rules, ConsecutiveFailures(limits.max_consecutive_failures), CommonError()]


def with_limits(rules: Sequence[StopRule], limits: Limits) -> list[StopRule]:
    """Return `rules` with the time and the target of `limits` in place of their own. Rules that count stay as they are.

    Args:
        rules: those of a running search.
        limits: its new limits.
    """
    changed = [rule for rule in rules_of(limits) if isinstance(rule, (Timeout, Target))]
    return [*changed, *(rule for rule in rules if not isinstance(rule, (Timeout, Target)))]


class Timeout:
    """End a search that has run for `seconds`, over all its resumes."""

    protocol = 1

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when the time is up."""
        if study.seconds(now) < self._seconds:
            return None
        return SearchEnded("the time is up", complete=False, exit_code=0)


class Target:
    """End a search whose best objective is `value` or better."""

    protocol = 1

    def __init__(self, value: float) -> None:
        self._value = value

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when the best trial reaches the target."""
        best = study.best
        if best is None or study.objective.better(self._value, best.objective):
            return None
        return SearchEnded(f"the target of {self._value:g} is reached", complete=True, exit_code=0)


class JobEnd:
    """End a search `before` seconds before its job's end, so that its epochs end in order.

    Args:
        end: the job's end, in seconds since the epoch.
    """

    protocol = 1

    def __init__(self, end: float, before: float) -> None:
        self.stop = end - before
        self._before = before
        self._started = False

    def apply(self, record: Record, study: Study) -> None:
        """Note whether this process has started to train."""
        match record:
            case SearchStarted():
                self._started = False
            case SegmentStarted():
                self._started = True

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when the job's end is near. A job too short to start a training would be requeued for ever."""
        if now < self.stop:
            return None
        if self._started:
            return SearchEnded(f"the job ends in {format_time(self._before)}", complete=False, exit_code=UNFINISHED)
        reason = f"the job ends in {format_time(self._before)}, before any training has started: give it more time"
        return SearchEnded(reason, complete=False, exit_code=2)


class _FailureCounts:
    """The failed trials with their errors, and the trials that succeeded, folded from a journal."""

    protocol = 1

    def __init__(self) -> None:
        self._succeeded: set[int] = set()
        self._failed = 0
        self._errors: Counter[str] = Counter()
        self._commonest = ("", 0)

    def apply(self, record: Record, study: Study) -> None:
        """Count a trial that has a result, or that has ended."""
        match record:
            case ResultTold(outcome="reached" | "stopped" | "stopped_by_callback"):
                self._succeeded.add(record.trial)
            case TrialEnded(state="failed"):
                self._succeeded.discard(record.trial)
                self._failed += 1
                error = study.trials[record.trial].error or "unknown"
                self._errors[error] += 1
                self._commonest = max(self._commonest, (error, self._errors[error]), key=lambda item: item[1])

    @property
    def _tried(self) -> int:
        return self._failed + len(self._succeeded)

    def _give_up(self) -> SearchEnded:
        error, count = self._commonest
        reason = f"{self._failed} of {pluralize(self._tried, 'trial')} failed, {count} of them with: {error}"
        return SearchEnded(reason, complete=False, exit_code=1)


class ConsecutiveFailures(_FailureCounts):
    """Give up a search in which `limit` trials have failed before any succeeded."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when so many trials have failed, and none has succeeded."""
        return None if study.best or self._succeeded or self._failed < self._limit else self._give_up()


class CommonError(_FailureCounts):
    """Give up a search in which one error made nearly all trials fail."""

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when `COMMON_ERROR_SHARE` of `COMMON_ERROR_TRIALS` or more trials have failed with one error."""
        count, tried = self._commonest[1], self._tried
        return self._give_up() if tried >= COMMON_ERROR_TRIALS and count >= COMMON_ERROR_SHARE * tried else None


class FailuresInARow:
    """Give up a search in which the last `limit` trials with a result have failed, as KerasTuner does."""

    protocol = 1

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._last_error = ""

    def apply(self, record: Record, study: Study) -> None:
        """Count a failure, or begin anew after a success."""
        match record:
            case ResultTold(outcome="failed"):
                self._in_a_row += 1
                self._last_error = study.trials[record.trial].error or "unknown"
            case ResultTold(outcome="reached" | "stopped" | "stopped_by_callback"):
                self._in_a_row = 0
            case SearchEnded(exit_code=1):
                self._in_a_row = 0  # the next process tries again

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when so many trials have failed in a row."""
        if self._in_a_row < self._limit:
            return None
        reason = f"{pluralize(self._in_a_row, 'trial')} failed in a row, the last one with: {self._last_error}"
        return SearchEnded(reason, complete=False, exit_code=1)


def counting(rules: Sequence[StopRule]) -> list[CountingStopRule]:
    """Return those of `rules` that count."""
    return [cast(CountingStopRule, rule) for rule in rules if hasattr(rule, "apply")]


class OnlyInfeasible:
    """End a search whose last `limit` trials were all infeasible: their places would never be filled."""

    protocol = 1

    def __init__(self, limit: int = INFEASIBLE_IN_A_ROW) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._last_reason = ""

    def apply(self, record: Record, study: Study) -> None:
        """Count an infeasible trial, or begin anew after another."""
        match record:
            case TrialEnded(state="infeasible"):
                self._in_a_row += 1
                self._last_reason = study.trials[record.trial].error or "unknown"
            case EpochDone() | SearchStarted():
                self._in_a_row = 0

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when so many trials in a row were infeasible."""
        if self._in_a_row < self._limit:
            return None
        reason = f"the last {self._in_a_row} trials were infeasible, the last one as {self._last_reason}"
        return SearchEnded(reason, complete=False, exit_code=0)
