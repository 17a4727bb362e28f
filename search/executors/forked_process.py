"""A fork of this process, which may be running a script of the user's, with the methods of `subprocess.Popen`.

The fork is as near to a new process as it can be: it has no file of the script's, no handler of its signals, no part of
its output. It shares the memory only.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

__all__ = ["ForkOptions", "ForkedProcess"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that must not end the fork before it has handlers of its own."""

_replaced: list[object] = []
"""The script's streams in a fork: it keeps them, as their end would write what they hold once more."""


@dataclass(frozen=True, slots=True)
class ForkOptions:
    """The way in which this process is forked.

    Attributes:
        files: let the files that the script has opened stay open, for objects of its memory that read them. Its sockets
            and pipes are closed in any case.
    """

    files: bool = False


class ForkedProcess:
    """A fork of this process that runs `function` and ends.

    Args:
        function: runs in the fork, which ends when it returns or raises.
        keep: the file descriptor that stays open in the fork.
        files: as in `ForkOptions`.
        private: a folder whose files are never kept.

    Attributes:
        pid: the process id.
    """

    def __init__(self, function: Callable[[], None], keep: int, *, files: bool, private: Path) -> None:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with suppress(Exception):  # it may be closed, or of a class of the script's
                if stream is not None:
                    stream.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any other thread. The caller knows that those here do no harm.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                _run(function, keep, files, private, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs; that of a process that someone else waited for is 0."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = 0
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        """Kill the process, and wait for its end, which leaves no zombie."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.wait(1.0)


def _run(function: Callable[[], None], keep: int, files: bool, private: Path, mask: Iterable[int]) -> NoReturn:
    """Be the fork: nothing of the script runs from here on, neither its frames nor its exit functions."""
    try:
        sys.settrace(None)
        sys.setprofile(None)
        faulthandler.disable()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)) or number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN if number in _SIGNALS else signal.SIG_DFL)
        _close_files(keep, files, private)
        _replaced.extend((sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__))
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        function()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _close_files(keep: int, files: bool, private: Path) -> None:
    """Let the script's file descriptors lead nowhere. They stay taken: an object of the script's may close its own."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    for number in _open_files():
        if number > 2 and number not in (keep, nowhere) and not (files and _is_file(number, private)):
            os.dup2(nowhere, number, inheritable=False)


def _stream(number: int, mode: str) -> IO[str]:
    return os.fdopen(number, mode, buffering=1, closefd=False, errors="backslashreplace")


def _open_files() -> list[int]:
    numbers = [int(link.name) for link in Path("/proc/self/fd").iterdir()]
    return [number for number in numbers if _exists(number)]  # the one that lists them is closed again


def _exists(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_file(number: int, private: Path) -> bool:
    """Return whether a descriptor is one of a file, and not of our own, whose locks a fork would hold on to."""
    if not stat.S_ISREG(os.fstat(number).st_mode):
        return False
    return private.absolute() not in Path(f"/proc/self/fd/{number}").readlink().parents
