"""The repair of a damaged journal: the lines before the damage become the journal, and the old file stays beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.errors import StudyError
from search.study import journal
from search.study.journal import DamagedLine
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import EpochDone, Record, SegmentRequested
from search.study.study import Study
from search.study.transitions import UnfitRecord

__all__ = ["Extent", "Repair", "repair_journal"]


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a journal: the number of its lines, of the trials that begin in it, and of their epochs."""

    lines: int
    trials: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair that was made.

    Attributes:
        kept, lost: the parts of the journal. Of the lost one, only lines that can be read tell trials and epochs.
        old: the file with the old journal.
    """

    kept: Extent
    lost: Extent
    old: Path


def repair_journal(paths: StudyPaths, *, take_over: bool = False) -> Repair | None:
    """Repair the journal of a study. Return None, and change nothing, if no line is damaged.

    A torn last line is no damage: the next search drops it.

    Args:
        take_over: repair it although a process on another machine has not ended in order.

    Raises:
        JournalError: a search runs, or a newer version wrote the journal.
        StudyError: no search had started before the damaged line, or the files cannot be written.
    """
    lock = Lock(paths.lock, take_over=take_over)
    try:
        study, end, damage = _read_whole_part(paths.journal)
        if damage is None:
            return None
        if study.start is None:
            raise StudyError(
                f"nothing can be kept: line {damage.number} of {paths.journal} is damaged, and no search has started "
                "before it. Put a copy from a backup in its place, or begin the study again with --overwrite"
            )
        kept = Extent(damage.number - 1, len(study.trials), study.epochs)
        lost = _lost_part(paths.journal, end, study)
        try:
            return Repair(kept, lost, _replace(paths.journal, end))
        except OSError as error:
            raise StudyError(
                f"{paths.journal} cannot be repaired ({error.strerror}): make that possible, and try again"
            ) from None
    finally:
        lock.release()


def _read_whole_part(path: Path) -> tuple[Study, int, DamagedLine | None]:
    """Return the study of the lines before the first damaged one, the place of that line, and the damage if any."""
    study, end = Study(), 0
    try:
        with journal.uncollected():
            for entry in journal.read(path):
                study.apply(entry.record, entry.time)
                end = entry.end
    except DamagedLine as damage:
        return study, end, damage
    except UnfitRecord as error:
        # The record is half applied: the study is told anew of those before it.
        return _first_part(path, end), end, DamagedLine(path, end, str(error))
    return study, end, None


def _first_part(path: Path, end: int) -> Study:
    study = Study()
    for entry in journal.read(path):
        if entry.end > end:
            break
        study.apply(entry.record, entry.time)
    return study


def _lost_part(path: Path, offset: int, kept: Study) -> Extent:
    """Return the extent of the lines from byte `offset` on, as far as they can be read."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = sum(1 for _ in file)
    records = list(journal.read_undamaged(path, offset))
    trials = {record.trial for record in records if isinstance(record, SegmentRequested)} - kept.trials.keys()
    return Extent(lines, len(trials), len(_epochs(records) - _known_epochs(kept)))


def _epochs(records: Iterable[Record]) -> Set[tuple[int, int, int]]:
    return {(r.trial, r.execution, r.epoch) for r in records if isinstance(r, EpochDone)}


def _known_epochs(study: Study) -> Set[tuple[int, int, int]]:
    executions = (execution for trial in study.trials.values() for execution in trial.executions)
    return _epochs(record for execution in executions for record in execution.curve)


# Files ----------------------------------------------------------------------------------------------------------------


def _replace(path: Path, end: int) -> Path:
    """Let the first `end` bytes of the file take its place, by one rename. Return the file that has all of them."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with path.open("rb") as source, new.open("wb") as target:
            left = end
            while part := source.read(min(left, 1 << 20)):
                target.write(part)
                left -= len(part)
            target.flush()
            os.fsync(target.fileno())
        old = _keep(path)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system knows folders that can be flushed
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return old


def _keep(path: Path) -> Path:
    """Give the file at `path` a second name, and return it. A copy gets it if the file system has no links."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        if kept.samefile(path):
            return kept  # a repair was killed here
        number += 1
    try:
        os.link(path, kept)
    except OSError:
        work = kept.with_name(f".{kept.name}.{os.getpid()}")
        try:
            shutil.copyfile(path, work)
            work.replace(kept)
        finally:
            work.unlink(missing_ok=True)
    return kept
