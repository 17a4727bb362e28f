"""A study to report on: all that its page shows, read once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from search.options import Options, last_options
from search.study import clock, lock
from search.study.paths import StudyPaths
from search.study.study import Study, read_study
from search.study.tail import last_lines
from search.study.trials import Trial

TRACEBACK_LINES = 30
"""Lines at the end of a traceback that a report shows."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A study to report on.

    Attributes:
        paths, study: its files, and the study.
        running: a process searches now.
        now: the time of the report, in seconds since the epoch.
        study_now: the same by the study's own clock; the time of the last record if no process searches.
    """

    paths: StudyPaths
    study: Study
    running: bool
    now: float
    study_now: float

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def options(self) -> Options:
        """The options of the study's last process."""
        return last_options(self.study)

    @property
    def seconds(self) -> float:
        """The seconds that the search ran, over all its processes."""
        return self.study.seconds(self.study_now)

    @property
    def trials(self) -> list[Trial]:
        """All trials: the best first, then those without an objective by number."""
        ranked = self.study.ranked()
        known = {trial.number for trial in ranked}
        return ranked + [trial for number, trial in sorted(self.study.trials.items()) if number not in known]

    def traceback(self, trial: Trial) -> str:
        """Return the last lines of the traceback of `trial`, "" if there is none."""
        return last_lines(self.paths.trial(trial.number).traceback, TRACEBACK_LINES)


def read_subject(paths: StudyPaths, now: float | None = None) -> Subject:
    """Read a study from its journal.

    Args:
        paths: the study's files.
        now: the time of the report, in seconds since the epoch; by default the present.

    Raises:
        JournalError: the journal cannot be read, or is empty.
    """
    study = read_study(paths.journal)
    running = study.end is None and lock.is_held(paths.lock)
    if now is not None:
        return Subject(paths, study, running, now, now if running else study.last_at)
    study_now = clock.present(paths.journal, study.last_at) if running else study.last_at
    return Subject(paths, study, running, time.time(), study_now)


def format_date(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as `2026-11-30 04:12 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
