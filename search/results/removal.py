"""The removal of a study: its files, its storage, and its runs in MLflow.

The journal goes last. So a removal that was killed leaves a study that the next removal finishes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.driver import storage_option
from search.errors import SearchError, StudyError, TrackingRefused, Unavailable
from search.storage.urls import drop_credentials
from search.study import journal
from search.study.lock import Lock
from search.study.paths import StudyPaths, find_study
from search.study.records import Header, SearchStarted, SegmentRequested
from search.tracking.mlflow.position import Position
from search.wording import format_bytes, pluralize

if TYPE_CHECKING:
    from search.tracking.mlflow.removal import StudyRuns


@dataclass(frozen=True, slots=True)
class Removal:
    """The removal of one study, whose lock is held until `close`.

    Attributes:
        paths: the study's files.
        lock: the lock on its journal.
        trials: the number of its trials, as far as the journal can be read.
        size: bytes in its folder.
        storage: the URL of its files elsewhere, or None.
        runs: its runs in MLflow; None to leave MLflow as it is.
    """

    paths: StudyPaths
    lock: Lock
    trials: int
    size: int
    storage: str | None
    runs: StudyRuns | None

    def describe(self) -> list[str]:
        """Return a line for each thing that will be removed."""
        name = self.paths.folder.name
        lines = [f"study {name}: {pluralize(self.trials, 'trial')}, {format_bytes(self.size)} in {self.paths.folder}"]
        if self.storage is not None:
            lines.append(f"its files in {drop_credentials(self.storage)}")
        if self.runs is not None and (self.runs.run_ids or self.runs.own):
            lines.append(f"{pluralize(len(self.runs.run_ids), 'run')} in MLflow at {self.runs.uri}")
        return lines

    def carry_out(self, say: Callable[[str], None]) -> None:
        """Remove everything: MLflow's runs, the storage, the files, and the journal last.

        Args:
            say: prints a line about something that stays.

        Raises:
            SearchError: MLflow or the storage fails. The study is still there, for another removal.
        """
        if self.runs is not None:
            _delete_from_mlflow(self.runs, say)
        if self.storage is not None:
            storage_option.delete_files(self.storage)
        last = (self.paths.journal, self.paths.lock)
        for path in self.paths.folder.iterdir():
            if path not in last:
                _delete(path)
        for path in last:
            path.unlink(missing_ok=True)
        _delete_folder(self.paths.folder)

    def close(self) -> None:
        """Drop the lock."""
        self.lock.release()


def plan_removal(
    name: str, runs: str, *, tracking_uri: str | None = None, keep_mlflow: bool = False, take_over: bool = False
) -> Removal:
    """Return the removal of the study `name`, and lock the study. Nothing is removed yet.

    Args:
        runs: the folder of the studies.
        tracking_uri: the MLflow server; by default the study's.
        keep_mlflow: leave MLflow as it is.
        take_over: remove it although a process on another machine has not ended in order.

    Raises:
        StudyError: there is no such study.
        JournalError: another process runs it.
        Unavailable: MLflow does not answer.
    """
    paths = find_study(name, runs)
    lock = Lock(paths.lock, take_over=take_over)
    try:
        facts = _read(paths)
        found = None if keep_mlflow else _find_in_mlflow(facts, paths, runs, tracking_uri)
        return Removal(paths, lock, facts.trials, _size(paths.folder), storage_option.written_url(paths), found)
    except BaseException:
        lock.release()
        raise


def finish_removal(name: str, runs: str) -> bool:
    """Remove what a removal left that was killed after the journal was gone. Return whether there was anything."""
    folder = StudyPaths.of(runs, name).folder
    if not folder.is_dir() or any(path.name != StudyPaths(folder).lock.name for path in folder.iterdir()):
        return False
    with suppress(FileNotFoundError):
        StudyPaths(folder).lock.unlink()
    _delete_folder(folder)
    return True


# The journal ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Facts:
    """The facts of a journal, as far as it can be read."""

    uid: str = ""
    tracking_uri: str | None = None
    trials: int = 0


def _read(paths: StudyPaths) -> _Facts:
    facts = _Facts(uid=Position.load(paths.tracking).uid)
    with suppress(SearchError, OSError):  # a damaged study must be removable, too
        for entry in journal.read(paths.journal):
            record = entry.record
            if isinstance(record, Header):
                facts.uid = record.uid
            elif isinstance(record, SearchStarted):
                facts.tracking_uri = record.options.get("tracking_uri")
            elif isinstance(record, SegmentRequested):
                facts.trials = max(facts.trials, record.trial + 1)
    return facts


# MLflow ---------------------------------------------------------------------------------------------------------------


def _find_in_mlflow(facts: _Facts, paths: StudyPaths, runs: str, given: str | None) -> StudyRuns | None:
    """Return the study's runs in MLflow; None if MLflow has no store yet."""
    from search.tracking.mlflow import store

    uri = store.resolve_uri(given or facts.tracking_uri or _server_of(paths), runs)
    file = store.local_database(uri)
    if file is not None and not file.exists():
        return None
    if not facts.uid:
        raise StudyError(
            f"the journal {paths.journal} cannot be read, so the study's runs in MLflow cannot be told from others: "
            "leave them there with --keep-mlflow"
        )
    from search.tracking.mlflow.removal import find_runs

    try:
        return find_runs(store.connect(uri, create=False), facts.uid)
    except (Unavailable, TrackingRefused) as error:
        raise type(error)(
            f"{error}. Nothing was removed: try again, or leave MLflow as it is with --keep-mlflow"
        ) from None


def _server_of(paths: StudyPaths) -> str | None:
    """Return the server that was told last, without credentials; None for a local store, which may have moved."""
    uri = Position.load(paths.tracking).uri
    return uri.replace("://***@", "://") if uri and not uri.startswith("sqlite:") else None


def _delete_from_mlflow(runs: StudyRuns, say: Callable[[str], None]) -> None:
    from search.tracking.mlflow.removal import delete_runs
    from search.tracking.mlflow.store import Rejected

    try:
        for line in delete_runs(runs):
            say(line)
    except (Unavailable, TrackingRefused, Rejected) as error:
        raise type(error)(
            f"{error}. Only some runs were removed from MLflow, and no file: give the same command again, or leave "
            "MLflow as it is with --keep-mlflow"
        ) from None


# Files ----------------------------------------------------------------------------------------------------------------


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _delete_folder(folder: Path) -> None:
    """Delete a study's folder, which is empty. A link to a folder elsewhere goes alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        folder.rmdir()
