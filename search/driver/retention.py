"""What a study keeps on disk: the checkpoints of trials that may go on, and the weights of the best.

A trial's checkpoint goes when the trial has ended, its best weights when enough trials that have ended are better: what
has ended does not change any more, so no ranking can ever bring it back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from search.study.paths import StudyPaths
from search.study.records import Record, TrialEnded
from search.study.study import Study, Trial

__all__ = ["Retention"]


class Retention:
    """Deletes what no one can want any more.

    Args:
        study: followed, not changed.
        paths: its files.
        keep: of how many of the best trials the weights stay.
    """

    def __init__(self, study: Study, paths: StudyPaths, keep: int) -> None:
        self._study = study
        self._paths = paths
        self._keep = keep
        self._best: list[tuple[float, int, int]] = []
        self._doomed: list[Path] = []
        for trial in study.trials.values():
            if trial.ended is not None:
                self._take(trial)
        # What a killed worker was writing.
        self._doomed += paths.trials.glob("*/.*.tmp")

    def take(self, records: Iterable[Record], time: float) -> None:
        """Take in new records, which the study has taken in already."""
        for record in records:
            if isinstance(record, TrialEnded):
                self._take(self._study.trials[record.trial])

    def flushed(self) -> None:
        """Delete. Not before the disk has the records taken in: without them, the trials would go on."""
        for path in self._doomed:
            with suppress(OSError):
                path.unlink()
        self._doomed.clear()

    def _take(self, trial: Trial) -> None:
        files = self._paths.trial(trial.number)
        executions = range(len(trial.executions))
        self._doomed += [files.checkpoint(number) for number in executions]
        if trial.ended == "failed" or trial.objective is None:
            self._doomed += [files.best(number) for number in executions]
            return
        self._doomed += [files.best(number) for number in executions if number != trial.best_execution]
        # As `Study.ranked` has it; the worst first.
        heapq.heappush(self._best, (-self._study.objective.cost(trial.objective), -trial.number, trial.best_execution))
        if len(self._best) > self._keep:
            _, number, execution = heapq.heappop(self._best)
            self._doomed.append(self._paths.trial(-number).best(execution))
