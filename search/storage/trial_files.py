"""The files of a trial, as its worker has them.

A worker reads and writes a local folder. There are three forms of `Segment.storage`:

- None: the folder is the study's own, and nothing is to be done.
- a URL: the folder is scratch. The trial's files come from behind the URL before it trains, and go there with each
  checkpoint, before the driver is told of it.
- `driver`: the same, and the files come from and go to the study's folder, in parts through the worker's channel.

Only files that have changed travel. Those of callbacks are among them, so that a trial finds them on any machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from search.errors import Unavailable
from search.messages import DRIVER, Evaluate, FileReply, FileRequest, Segment
from search.storage.objects import TrialObjects
from search.storage.parts import DriverFiles
from search.storage.scratch import local_folder, prune

__all__ = ["TrialFiles", "localize", "open_files"]

RETRY_SECONDS = 300.0
"""The time for which a worker tries again to store a checkpoint that ends its segment, if the storage is away."""

_STORED = ".stored.json"
"""The record of what a local folder has in common with the storage."""

_LOG = "log.txt"
_OF_EXECUTION = re.compile(r"(?:checkpoint|parent|best|reference)-(\d+)\.npz|execution-(\d+)/.*")
_OF_NO_TRAINING = re.compile(r"model\.keras|reference-\d+\.npz|traceback\.txt")

Work = TypeVar("Work", Segment, Evaluate)


class RemoteFiles(Protocol):
    """The files of a trial, where they lie when no worker has the trial."""

    def claim(self) -> Mapping[str, str]:
        """Become the trial's only writer. Return a version of each file, which changes with the file."""

    def get(self, name: str, to: Path) -> None:
        """Copy a file to a local path."""

    def put(self, files: Mapping[str, Path], gone: Collection[str] = ()) -> Mapping[str, str]:
        """Store local files durably, and delete those that are `gone`. Return the version of each file that is left."""


def localize(work: Work) -> Work:
    """Return `work` with the paths of this machine, unless its trial's folder is the study's own."""
    if work.storage is None:
        return work
    folder = local_folder(work.folder)
    if isinstance(work, Segment):
        return replace(work, folder=str(folder))
    weights, reference = (str(folder / Path(path).name) for path in (work.weights, work.reference))
    model = work.model and str(folder / Path(work.model).name)
    return replace(work, folder=str(folder), weights=weights, reference=reference, model=model)


class TrialFiles:
    """The files of a trial in the study's own folder: they are where they belong."""

    def fetch(self) -> None:
        """Make the local files those of the trial's last checkpoint. Unavailable if the storage does not answer."""

    def store(self, *, patient: bool = False) -> None:
        """Store the local files durably.

        Args:
            patient: try again for some minutes if the storage does not answer.

        Raises:
            Unavailable: the storage does not answer.
        """


def open_files(work: Segment | Evaluate, ask: Callable[[FileRequest], FileReply]) -> TrialFiles:
    """Return the files of the trial of `work`, which `localize` has returned.

    Args:
        ask: sends the driver a request, and waits for the reply.

    Raises:
        OptionError: a package for the storage is not installed on this machine.
    """
    if work.storage is None:
        return TrialFiles()
    remote = DriverFiles(ask) if work.storage == DRIVER else TrialObjects(work.storage)
    folder = Path(work.folder)
    if isinstance(work, Evaluate):
        prune(folder, ())
        return _CopiedFiles(folder, remote, {Path(work.weights).name, _LOG}.__contains__)
    prune(folder, work.cached_trials)
    own = str(work.execution)

    def wanted(name: str) -> bool:
        found = _OF_EXECUTION.fullmatch(name)
        return not _OF_NO_TRAINING.fullmatch(name) and (found is None or own in found.groups())

    return _CopiedFiles(folder, remote, wanted)


class _CopiedFiles(TrialFiles):
    """The files of a trial in a scratch folder.

    Args:
        folder: the trial's folder on this machine.
        wanted: returns whether the work needs a file.
    """

    def __init__(self, folder: Path, remote: RemoteFiles, wanted: Callable[[str], bool]) -> None:
        self._folder = folder
        self._remote = remote
        self._wanted = wanted
        self._versions: dict[str, str] = {}
        self._stamps: dict[str, list[int]] = {}

    def fetch(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        known = self._read_record()
        versions = self._remote.claim()
        self._versions, self._stamps = {}, {}
        for name, version in versions.items():
            path = self._folder / name
            current = known.get(name) == [version, *_stamp(path)]
            if not current and self._wanted(name):
                self._get(name, path)
            if current or self._wanted(name):
                self._versions[name], self._stamps[name] = version, _stamp(path)
        # Files of another state of the trial would be taken for its own, except this segment's log.
        for name in set(self._local_files()) - self._versions.keys() - {_LOG}:
            (self._folder / name).unlink(missing_ok=True)
        self._write_record()

    def store(self, *, patient: bool = False) -> None:
        stamps = {name: _stamp(self._folder / name) for name in self._local_files()}
        changed = {name for name, stamp in stamps.items() if self._stamps.get(name) != stamp}
        gone = self._stamps.keys() - stamps.keys()
        if not changed and not gone:
            return
        versions = self._put({name: self._folder / name for name in changed}, gone, patient)
        self._stamps = stamps
        self._versions = {name: versions[name] for name in stamps if name in versions}
        self._write_record()

    def _put(self, files: Mapping[str, Path], gone: Collection[str], patient: bool) -> Mapping[str, str]:
        pause, until = 1.0, time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return self._remote.put(files, gone)
            except Unavailable:
                if not patient or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _get(self, name: str, path: Path) -> None:
        """Copy a file to this machine, whole or not at all."""
        temporary = self._folder / f".{name.replace('/', '_')}.tmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._remote.get(name, temporary)
            if name == _LOG:
                # The process writes to it already, at its end.
                shutil.copyfile(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _local_files(self) -> Iterator[str]:
        """Yield the path of each file, relative to the folder. Files that are being written begin with a dot."""
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if not name.startswith("."):
                    yield str(Path(folder, name).relative_to(self._folder))

    # The record -----------------------------------------------------------------------------------------------------

    def _read_record(self) -> Mapping[str, list[object]]:
        """Return the version, the size and the time of each file that this machine has from an earlier segment."""
        with suppress(OSError, ValueError):
            found: dict[str, list[object]] = json.loads((self._folder / _STORED).read_text())
            return found
        return {}

    def _write_record(self) -> None:
        content = {name: [version, *self._stamps[name]] for name, version in self._versions.items()}
        (self._folder / _STORED).write_text(json.dumps(content))


def _stamp(path: Path) -> list[int]:
    """Return numbers that change when the file changes; zeros if there is none."""
    with suppress(OSError):
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    return [0, 0]
