"""The lock on a study's journal, which one process holds at a time.

The operating system keeps the lock (`flock`) and drops it when the process ends, however that happens. On a shared file
system `flock` may know only the processes of one machine. So the lock's file names its holder, and a holder takes its
name out when it ends in order. A name that is still there counts: a process of this machine can be looked up, and only
the user can say that a process of another machine is dead. A Slurm job that was requeued needs no such word: its
earlier run is over.

A holder that works on a study in the background yields: the next process that wants the lock ends it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from search.errors import JournalError
from search.study.slurm import SlurmJob

__all__ = ["Lock", "holder_elsewhere", "is_held"]

_WAITS = (0.05, 0.1, 0.15)
"""Seconds between attempts. `is_held` takes the lock for a moment; a process that holds it longer runs the study."""

_YIELD_SECONDS = 5.0
"""Seconds for a holder that yields to end, after it was told to."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds, or held, the lock.

    Attributes:
        started: its start in seconds since the epoch, which tells it from a later process with the same `pid`.
        job: its Slurm job; "" if it has none.
        restarts: how often that job had started again.
        yields: the process may be ended at any time.
    """

    host: str
    pid: int
    started: float = 0.0
    job: str = ""
    restarts: int = 0
    yields: bool = False

    @classmethod
    def this(cls, *, yields: bool = False) -> Holder:
        """Return this process."""
        job = SlurmJob.this()
        name = f"{job.cluster}/{job.id}" if job.id else ""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), name, job.restarts, yields)

    @property
    def is_here(self) -> bool:
        """True if it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """True if it is a process of this machine and running."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 2
        except psutil.Error:
            return False

    @property
    def is_over(self) -> bool:
        """True if it ran before this process's Slurm job was requeued: it has ended, on whatever machine it was."""
        this = Holder.this()
        return self.job != "" and self.job == this.job and self.restarts < this.restarts

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """The lock on a study's journal, held from construction to `release`.

    Args:
        path: the lock's file, in the study's folder.
        take_over: take the lock from a process of another machine, which the user knows to be dead.
        yields: let another process end this one, and take the lock.

    Raises:
        JournalError: another process holds the lock, or a process of another machine may hold it.
    """

    def __init__(self, path: Path, *, take_over: bool = False, yields: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._yields = yields
        self._file = path.open("a+")
        try:
            self._take(take_over)
        except BaseException:
            self._file.close()
            raise
        self._sign()

    def _sign(self) -> None:
        """Write this process's name into the file."""
        self._file.seek(0)
        self._file.truncate()
        holder = asdict(Holder.this(yields=self._yields))
        if not self._yields:
            del holder["yields"]  # earlier versions of the package do not know it
        json.dump(holder, self._file)
        self._file.flush()

    def _take(self, take_over: bool) -> None:
        name, taken = self._path.parent.name, self._is_taken() or self._is_yielded()
        holder = _read(self._path)
        take_over = take_over or (holder is not None and holder.is_over)
        if not taken:
            if not (take_over and holder is not None and not holder.is_here):
                raise JournalError(
                    f"study {name!r} is being run by {holder or 'another process'}: start this command once, or stop "
                    "that process first"
                )
            if not self._is_taken_anew():
                raise JournalError(f"study {name!r} is being run by {_read(self._path) or 'another process'}")
        elif holder is not None and not holder.is_here and not (take_over or holder.yields):
            raise JournalError(
                f"study {name!r} is being run by {holder}, or that did not end in order: if it is dead, go on with "
                "--take-over"
            )

    def _is_taken(self) -> bool:
        """Lock the file at the path. Return whether that succeeded."""
        while _locked(self._file):
            if _is_at(self._file, self._path):
                return True
            # Another process has put a new file in its place since it was opened. This one locks nothing.
            self._open()
        return False

    def _is_yielded(self) -> bool:
        """End the holder if it yields. Return whether the lock is taken then."""
        holder = _read(self._path)
        if self._yields or holder is None or not (holder.yields and holder.is_here and holder.is_alive):
            return False
        with suppress(OSError):  # it has just ended, or is another user's
            os.kill(holder.pid, signal.SIGTERM)
        deadline = time.monotonic() + _YIELD_SECONDS
        while not (taken := self._is_taken()) and time.monotonic() < deadline:
            pass  # each attempt waits
        return taken

    def _is_taken_anew(self) -> bool:
        """Put a new file at the path, and lock it. Return whether that succeeded.

        A file server may keep the lock of a machine that is gone. A new file has a new lock.
        """
        with self._path.with_name(f"{self._path.name}.take-over").open("a") as guard:
            # One process at a time: the second one finds the file of the first one, and leaves it.
            with suppress(OSError):
                fcntl.flock(guard, fcntl.LOCK_EX)
            if _is_at(self._file, self._path):
                self._path.unlink()
            self._open()
            return self._is_taken()

    def _open(self) -> None:
        self._file.close()
        self._file = self._path.open("a+")

    def keep(self) -> None:
        """Take the lock again if its file was deleted.

        Raises:
            JournalError: another process holds the lock by now.
        """
        if _is_at(self._file, self._path):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        if not self._is_taken():
            raise JournalError(
                f"the lock {self._path} was deleted while the search ran, and {_read(self._path) or 'another process'} "
                "has taken it: this search ends"
            )
        self._sign()

    def release(self) -> None:
        """Drop the lock, and take this process's name out of the file."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()


def is_held(path: Path) -> bool:
    """Return whether a living process runs the study of the lock at `path`, as far as this machine knows.

    A holder that yields does not run it.
    """
    try:
        file = path.open()
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(path)
            if holder is not None and holder.yields:
                return False
            return _holds(holder) if _is_unsupported(error) else True
    return False


def holder_elsewhere(path: Path) -> str | None:
    """Return the process of another machine that the lock's file names, in words; None if it names none.

    That process may be dead: only its own machine could tell.
    """
    holder = _read(path)
    return None if holder is None or holder.is_here or holder.yields else str(holder)


def _locked(file: IO[str]) -> bool:
    """Try to lock `file`. Return whether that succeeded."""
    for wait in (*_WAITS, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if _is_unsupported(error):
                return not _holds(_read(Path(file.name)))
            if wait is not None:
                time.sleep(wait)
        else:
            return True
    return False


def _is_at(file: IO[str], path: Path) -> bool:
    """Return whether `file` is the one that lies at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_unsupported(error: OSError) -> bool:
    """Return whether the file system has no locks: then the name in the file counts."""
    return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def _holds(holder: Holder | None) -> bool:
    return holder is not None and holder.is_here and holder.pid != os.getpid() and holder.is_alive


def _read(path: Path) -> Holder | None:
    """Return the holder that the file names."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
