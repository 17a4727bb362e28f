"""The right to write a study's journal, which one process has at a time.

The operating system keeps it (`flock`), and drops it with the process, however that ends. Where a file system is shared
by several machines it may know of this one's processes only, so the lock's file says who has it, and a name that was
never taken out of it counts: of a process of this machine it can be seen that it is gone, of another's only the user
can say so.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from search.errors import JournalError

__all__ = ["Lock", "is_held"]

_PATIENCE = (0.05, 0.1, 0.15)
"""Seconds between attempts: `is_held` takes the lock for a moment; only who holds it for longer runs the study."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has, or had, the lock; `started` tells it from a later one with its number."""

    host: str
    pid: int
    started: float = 0.0

    @classmethod
    def this(cls) -> Holder:
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether a process of this machine is running."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 2
        except psutil.Error:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """The right to write a study's journal.

    Args:
        path: the lock's file, in the study's folder.
        take_over: take it from a process of another machine, which the user knows to be dead.

    Raises:
        JournalError: another process has it, or a process of another machine may have it.
    """

    def __init__(self, path: Path, *, take_over: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        try:
            self._take(path, take_over)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(0)
        self._file.truncate()
        json.dump(asdict(Holder.this()), self._file)
        self._file.flush()

    def _take(self, path: Path, take_over: bool) -> None:
        name, holder = path.parent.name, _read(path)
        if not _locked(self._file):
            if not (take_over and holder is not None and not holder.is_here):
                raise JournalError(
                    f"study {name!r} is being run by {holder or 'another process'}: stop that process first"
                )
            # The lock of a machine that is gone, kept by a file server: another file has another lock.
            path.unlink()
            self._file.close()
            self._file = path.open("a+")
            if not _locked(self._file):
                raise JournalError(f"study {name!r} is being run by {_read(path) or 'another process'}")
        elif holder is not None and not holder.is_here and not take_over:
            raise JournalError(
                f"study {name!r} is being run by {holder}, or that did not end in order: if it is dead, go on with "
                "--take-over"
            )

    def release(self) -> None:
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock at `path`, as far as this machine knows."""
    try:
        file = path.open()
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return _holds(_read(path)) if _is_unsupported(error) else True
    return False


def _locked(file: IO[str]) -> bool:
    """Whether the lock on `file` could be had."""
    for patience in (*_PATIENCE, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if _is_unsupported(error):
                return not _holds(_read(Path(file.name)))
            if patience is not None:
                time.sleep(patience)
        else:
            return True
    return False


def _is_unsupported(error: OSError) -> bool:
    """Whether the file system has no locks: then the file's word counts."""
    return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def _holds(holder: Holder | None) -> bool:
    return holder is not None and holder.is_here and holder.pid != os.getpid() and holder.is_alive


def _read(path: Path) -> Holder | None:
    """Who the file says has the lock."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
