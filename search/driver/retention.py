"""Retention: a study keeps the checkpoints of trials that may go on, and the weights of the best trials.

A trial's checkpoint is deleted when the trial has ended, and so is the one that its parent handed on to it. Its best
weights are deleted when enough ended trials are better. An ended trial does not change any more, so no later ranking
can bring it back.

A checkpoint that the search drops to make room is deleted, too. If its trial goes on, a worker writes it again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path

from search.driver.study_files import StudyFiles
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import CheckpointDropped, SegmentStarted, TrialEnded
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["Retention"]


class Retention:
    """A follower that deletes the files that nobody can need any more.

    Args:
        study: the study; not changed here.
        paths: the study's files.
        keep: the number of best trials whose weights stay.
        files: the trials' files, wherever they lie; by default in the study's folder.
    """

    protocol = 1

    def __init__(self, study: Study, paths: StudyPaths, keep: int, files: StudyFiles | None = None) -> None:
        self._study = study
        self._paths = paths
        self._keep = keep
        self._files = StudyFiles() if files is None else files
        self._best: list[tuple[float, int, int]] = []
        self._doomed: list[Path] = []
        self._dropped: dict[int, list[Path]] = {}
        for trial in study.trials.values():
            if trial.ended:
                self._note(trial)
            elif trial.dropped and not trial.open:
                self._note_dropped(trial)
        # Files that a killed worker was writing.
        self._doomed += paths.trials.glob("*/.*.tmp")

    def take(self, entries: Sequence[Entry]) -> None:
        """Note the files that are of no more use. The study has applied the entries already."""
        for entry in entries:
            match entry.record:
                case TrialEnded():
                    self._note(self._study.trials[entry.record.trial])
                case CheckpointDropped():
                    self._note_dropped(self._study.trials[entry.record.trial])
                case SegmentStarted():
                    # Now, and not later: the worker, which is not told yet, will write these files again.
                    self._files.delete(self._dropped.pop(entry.record.trial, ()), at_once=True)

    def flushed(self) -> None:
        """Delete the noted files. Before the disk has the records, a power failure would let the trials go on."""
        self._files.delete(self._doomed)
        self._doomed.clear()
        for paths in self._dropped.values():
            self._files.delete(paths)
        self._dropped.clear()

    def _note_dropped(self, trial: Trial) -> None:
        files = self._paths.trial(trial.number)
        self._dropped[trial.number] = [files.checkpoint(number) for number in range(len(trial.executions))]

    def _note(self, trial: Trial) -> None:
        files = self._paths.trial(trial.number)
        executions = range(len(trial.executions))
        self._doomed += [files.checkpoint(number) for number in executions]
        if trial.parent is not None:
            self._doomed += [files.inherited(number) for number in range(len(trial.parent.epochs))]
        if trial.state == "failed" or trial.objective is None:
            self._doomed += [files.best(number) for number in executions]
            return
        self._doomed += [files.best(number) for number in executions if number != trial.best.execution]
        # The order of `Study.ranked`, the worst first.
        heapq.heappush(self._best, (-self._study.objective.cost(trial.objective), -trial.number, trial.best.execution))
        if len(self._best) > self._keep:
            _, number, execution = heapq.heappop(self._best)
            self._doomed.append(self._paths.trial(-number).best(execution))
