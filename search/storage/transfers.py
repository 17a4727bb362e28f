"""The driver's end of the transfer of files in parts; `search.storage.parts` is the worker's."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from search.messages import DeleteFile, Evaluate, FileReply, FileRequest, ListFiles, ReadPart, Segment, WritePart

__all__ = ["Transfers"]

SYNC_BYTES = 4 << 20
"""Bytes after which a file that arrives is brought to the disk. At once, a large one would keep the driver's loop."""


@dataclass(slots=True)
class _Incoming:
    """A file that arrives.

    Attributes:
        temporary: the file that the parts are written to.
        unsynced: bytes that the disk may not have yet.
    """

    name: str
    temporary: Path
    file: IO[bytes]
    unsynced: int = 0


class Transfers:
    """The files in a study's folder, for workers that do not see it. Errors go to the worker.

    A file gets its name when its last part is on the disk. The driver of a study has one object of this class.
    """

    def __init__(self) -> None:
        self._works: dict[int, Segment | Evaluate] = {}
        self._incoming: dict[int, _Incoming] = {}
        """By the id of the work, the file that arrives from its worker."""

    def begin(self, work: Segment | Evaluate) -> None:
        """Answer the worker of `work` from now on: it may ask for the files in the work's folder."""
        self._works[work.id] = work

    def end(self, work: int) -> None:
        """Delete the half of a file that has arrived from a worker whose work has ended."""
        self._works.pop(work, None)
        self._drop(work)

    def answer(self, work: int, request: FileRequest) -> FileReply:
        """Do what the worker has asked for whose work has the id `work`."""
        try:
            return self._answer(self._works[work], request)
        except OSError as error:
            self._drop(work)
            return FileReply(error=(error.errno or errno.EIO, f"{error.strerror or error} (in the study's folder)"))

    def _answer(self, work: Segment | Evaluate, request: FileRequest) -> FileReply:
        match request:
            case ListFiles():
                return FileReply(versions=_versions(Path(work.folder)))
            case ReadPart():
                with _path(work, request.name).open("rb") as file:
                    file.seek(request.offset)
                    return FileReply(data=file.read(request.size))
            case WritePart():
                self._write(work, request)
            case DeleteFile():
                _path(work, request.name).unlink(missing_ok=True)
        return FileReply()

    def _drop(self, work: int) -> None:
        if (incoming := self._incoming.pop(work, None)) is not None:
            with suppress(OSError):
                incoming.file.close()
            incoming.temporary.unlink(missing_ok=True)

    def _write(self, work: Segment | Evaluate, part: WritePart) -> None:
        target = _path(work, part.name)
        if part.offset == 0:
            self._drop(work.id)
            folder = Path(work.folder)
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{part.name.replace('/', '_')}.{work.id}.tmp"
            self._incoming[work.id] = _Incoming(part.name, temporary, temporary.open("wb"))
        incoming = self._incoming.get(work.id)
        if incoming is None or incoming.name != part.name or incoming.file.tell() != part.offset:
            raise OSError(errno.EPROTO, f"a part of {part.name} is missing")
        incoming.file.write(part.data)
        incoming.unsynced += len(part.data)
        if part.last or incoming.unsynced >= SYNC_BYTES:
            incoming.file.flush()
            os.fsync(incoming.file.fileno())
            incoming.unsynced = 0
        if part.last:
            del self._incoming[work.id]
            incoming.file.close()
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.temporary.replace(target)


def _path(work: Segment | Evaluate, name: str) -> Path:
    """Return the place of a file: in the trial's folder, but for the winner's model."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise OSError(errno.EINVAL, f"{name} is no file of the trial")
    if isinstance(work, Evaluate) and work.model is not None and name == Path(work.model).name:
        return Path(work.model)
    return Path(work.folder) / path


def _versions(folder: Path) -> dict[str, str]:
    """Return a text for each file of a trial, which changes with the file."""
    versions = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith("."):
                path = Path(parent, name)
                found = path.stat()
                versions[str(path.relative_to(folder))] = f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"
    return versions
