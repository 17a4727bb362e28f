"""The follower that brings files of trials into the study's folder if workers store them behind a URL.

These are the weights of the best trials, for retrieval and for MLflow, and each trial's log and traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.driver.study_files import StudyFiles
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import SearchEnded, SegmentEnded
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["KeptFiles"]


class KeptFiles:
    """The follower.

    Args:
        study: the study; not changed here.
        keep: the number of best trials whose weights are brought.
        files: the trials' files.
    """

    protocol = 1

    def __init__(self, study: Study, paths: StudyPaths, keep: int, files: StudyFiles) -> None:
        self._study = study
        self._paths = paths
        self._keep = keep
        self._files = files
        self._kept: list[Trial] = []
        if study.header is not None:
            self._rank(study.ranked())

    def take(self, entries: Sequence[Entry]) -> None:
        """Bring the files that these entries are about."""
        for entry in entries:
            match entry.record:
                case SegmentEnded() as ended:
                    trial = self._study.trials[ended.trial]
                    paths = self._paths.trial(trial.number)
                    self._files.bring(paths, [paths.log.name, paths.traceback.name])
                    self._rank([*(other for other in self._kept if other.number != trial.number), trial])
                case SearchEnded():
                    self._rank(self._study.ranked())  # a trial that was kept may have failed

    def flushed(self) -> None:
        """Do nothing: the files are copies."""

    def _rank(self, trials: Sequence[Trial]) -> None:
        """Bring the weights of the best of `trials`. Delete those of trials that were among the best before."""
        usable = [trial for trial in trials if trial.state != "failed" and trial.objective is not None]
        usable.sort(key=lambda trial: (self._study.objective.cost(trial.objective), trial.number))
        before, self._kept = self._kept, usable[: self._keep]
        for trial in self._kept:
            self._files.bring(self._paths.trial(trial.number), [self._best(trial).name])
        numbers = {trial.number for trial in self._kept}
        for trial in before:
            if trial.number not in numbers:
                self._best(trial).unlink(missing_ok=True)

    def _best(self, trial: Trial) -> Path:
        return self._paths.trial(trial.number).best(trial.best.execution)
