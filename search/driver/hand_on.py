"""The checkpoints that trials hand on to their children.

A child's folder gets files of its own as soon as the journal has the child. So its parent may go on, or end and lose
its checkpoints, before the child starts.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from search.errors import StudyError
from search.scheduler.events import HandOn
from search.study.paths import StudyPaths, TrialPaths
from search.study.study import Study

__all__ = ["Checkpoints", "Files", "hand_on"]


class Checkpoints(Protocol):
    """The place of the checkpoints of trials."""

    def hand_on(self, parent: TrialPaths, child: TrialPaths, execution: int, *, again: bool) -> None:
        """Give `child` the checkpoint of an execution of `parent`, as it is now.

        If there is none, nothing happens: the child's worker reports it.

        Args:
            again: leave a checkpoint that the child has from its parent already.
        """


class Files:
    """The checkpoints of trials as files, in the trials' folders."""

    def hand_on(self, parent: TrialPaths, child: TrialPaths, execution: int, *, again: bool) -> None:
        """Link a file, see `Checkpoints`. StudyError if the child's file cannot be written."""
        source, target = parent.checkpoint(execution), child.inherited(execution)
        if again and target.exists():
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            temporary.unlink(missing_ok=True)
            _link(source, temporary)
            temporary.replace(target)
        except FileNotFoundError:
            target.unlink(missing_ok=True)  # of another study's trial
        except OSError as error:
            raise StudyError(f"{target} cannot be written ({error}): make that possible, and resume") from error


def _link(source: Path, target: Path) -> None:
    """Link a file, whose writers only ever replace it by another one. Copy it if the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def hand_on(checkpoints: Checkpoints, instruction: HandOn, study: Study, paths: StudyPaths) -> None:
    """Give a trial the checkpoints of all executions of its parent."""
    trial = study.trials[instruction.trial]
    assert trial.parent is not None
    parent = study.trials[trial.parent.trial]
    for number, epoch in enumerate(trial.parent.epochs):
        # A parent has gone on only after it had handed on.
        if parent.executions[number].epochs == epoch:
            own = paths.trial(trial.number)
            checkpoints.hand_on(paths.trial(parent.number), own, number, again=instruction.again)
