"""The driver's end of a zygote, and of the workers that it forks. Nothing here waits for a zygote or for a worker."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from search.devices.slots import Slot
from search.executors.early_fork import EarlyFork
from search.executors.forked_process import ForkedProcess, ForkOptions
from search.executors.pipes import WorkerPipe, close_in_forks
from search.study.versions import framework_name
from search.wording import format_time
from search.worker import zygote

__all__ = ["Child", "Zygote"]

IMPORT_SECONDS = 600.0
"""Seconds for the zygote to import the framework: a machine that is busy with other work may need minutes."""

ANSWER_SECONDS = 120.0
"""Seconds for the zygote to answer when it has imported the framework."""

LEAVE_SECONDS = 3.0
"""Seconds for the zygote to end by itself."""


@dataclass(slots=True, eq=False)
class Child:
    """A process that a zygote forks, or has forked.

    Attributes:
        number: the number of the request to the zygote.
        lifeline: our end of a socket that carries nothing. When all its holders are gone, the kernel kills the process
            and its group, whatever they do.
        theirs: the ends of the process, until the zygote has them.
        asked: the time of the request, on the monotonic clock.
        pid: the process id, None until the zygote has answered.
        pidfd: a file descriptor that can be read when the process has ended; None if the kernel has none.
        status: the `os.waitpid` status, None until the zygote has reported it.
    """

    zygote: Zygote
    number: int
    pipe: WorkerPipe
    lifeline: socket.socket
    theirs: tuple[socket.socket, ...]
    asked: float = field(default_factory=time.monotonic)
    pid: int | None = None
    pidfd: int | None = None
    status: int | None = None

    @property
    def is_over(self) -> bool:
        """True if the process has ended. Its pipe does not tell: another process may have a copy of it."""
        if self.status is not None:
            return True
        if self.pidfd is None and not self.zygote.alive:
            return self.pipe.ended  # nothing else tells
        return self.pidfd is not None and bool(_readable(self.pidfd))

    def is_among(self, ready: Collection[int]) -> bool:
        """Return whether the pipe or the process is among file descriptors where something has happened."""
        return self.pipe.fileno() in ready or self.pidfd in ready

    def kill(self) -> None:
        """Kill the process and the processes that it started."""
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def release(self) -> None:
        """Close all that leads to the process, and kill it if it lives."""
        if not (self.is_over and self.zygote.alive):
            self.kill()  # without a zygote, nobody else ends the processes that it started
        self.pipe.close()
        self.lifeline.close()
        for sock in self.theirs:
            sock.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        self.zygote.forget(self)


class Zygote:
    """The driver's end of the zygote, which still imports the framework when the constructor returns.

    It is a new Python, or a fork of this process, which has imported the framework already: a fork of this moment or an
    early one.

    Args:
        log, keras_backend, compiled: as for `LocalExecutor`.
        fork: how to fork this process, or its early fork; None for a new Python. The caller knows that a fork is safe.

    Attributes:
        ready: the zygote has reported that it can fork.
    """

    def __init__(
        self,
        log: Path,
        keras_backend: str | None,
        compiled: Path | None = None,
        fork: ForkOptions | EarlyFork | None = None,
    ) -> None:
        self._log = log
        self.framework = framework_name(keras_backend)
        self._process: subprocess.Popen[bytes] | ForkedProcess
        self._early = fork if isinstance(fork, EarlyFork) else None
        if isinstance(fork, EarlyFork):
            fork.begin(log, compiled)
            self._process, ours = fork.process, fork.socket
        else:
            self._process, ours = _start_process(log, keras_backend, compiled, fork)
        ours.setblocking(False)
        close_in_forks(ours)
        self._socket = ours
        self._reading = threading.Lock()  # searches in two threads may share a zygote
        self._came = bytearray()
        self._pidfds: list[int] = []
        self._began = time.monotonic()
        self._gone = False
        self._count = 0
        self._requests: dict[int, zygote.Fork] = {}
        self._asked: dict[int, Child] = {}
        self._children: dict[int, Child] = {}
        self.ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._gone and self._process.poll() is None

    def fileno(self) -> int:
        return self._socket.fileno()

    def fork(self, slot: Slot, log: Path) -> Child:
        """Ask for a worker, which the zygote forks when it is ready. `read` takes in the answer."""
        ours, theirs = socket.socketpair()
        lifeline, end = socket.socketpair()
        close_in_forks(lifeline)
        with self._reading:
            self._count += 1
            child = Child(self, self._count, WorkerPipe(ours), lifeline, (theirs, end))
            self._asked[child.number] = child
            surroundings = None if self._early is None else self._early.surroundings()
            self._requests[child.number] = zygote.Fork(child.number, slot, str(log), surroundings)
            self._ask()
        return child

    def _ask(self) -> None:
        """Send the zygote the requests that it has not got, if it is ready."""
        try:
            while self.ready and self._requests:
                number, request = next(iter(self._requests.items()))
                child = self._asked[number]
                files = (*(sock.fileno() for sock in child.theirs), child.lifeline.fileno())
                zygote.send(self._socket, request, files)
                del self._requests[number]
                for sock in child.theirs:
                    sock.close()
                child.asked = time.monotonic()
                self.wake()
        except BlockingIOError:
            return
        except OSError:
            self._gone = True

    def wake(self) -> None:
        """Let the zygote go on if somebody has stopped it."""
        if self._process.poll() is None:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGCONT)

    def read(self, timeout: float = 0.0) -> None:
        """Take in the zygote's reports.

        Args:
            timeout: seconds to wait for one.
        """
        if timeout and not self._gone:
            _readable(self.fileno(), timeout)
        with self._reading:
            while not self._gone:
                try:
                    data, files, _, _ = socket.recv_fds(self._socket, 1 << 16, 16)
                except BlockingIOError:
                    break
                except OSError:
                    data, files = b"", []
                for file in files:
                    os.set_inheritable(file, False)
                self._pidfds += files
                self._gone = not data
                self._came += data
                for value in zygote.take_values(self._came):
                    self._take(value)
            self._ask()

    def _take(self, value: object) -> None:
        match value:
            case zygote.ZygoteReady():
                self.ready = True
            case zygote.Forked(number, pid, has_pidfd):
                pidfd = self._pidfds.pop(0) if has_pidfd else None
                child = self._asked.pop(number, None)
                if child is not None:
                    child.pid, child.pidfd = pid, pidfd
                    self._children[pid] = child
                elif pidfd is not None:
                    os.close(pidfd)  # given up in the meantime: its pipe is closed, which ends it
            case zygote.Died(pid, status):
                if (ended := self._children.pop(pid, None)) is not None:
                    ended.status = status

    def forget(self, child: Child) -> None:
        """Drop a worker that is no longer asked for, or has ended."""
        with self._reading:
            self._requests.pop(child.number, None)
            self._asked.pop(child.number, None)
            if child.pid is not None and self._children.get(child.pid) is child:
                del self._children[child.pid]

    def failure(self, now: float) -> str | None:
        """Return why the zygote gives no workers, None if it may.

        Args:
            now: the time on the monotonic clock.
        """
        if not self.alive:
            return self._describe_end()
        since, limit = self._began, IMPORT_SECONDS
        if self.ready:
            since, limit = min((child.asked for child in self._asked.values()), default=now), ANSWER_SECONDS
        if now - since <= limit:
            return None
        return f"no answer in {format_time(limit)}: if the machine is busy, run the command again later"

    def _describe_end(self) -> str:
        """Return how the zygote ended: the last line of its log, where a traceback ends, and its exit code."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it answers no more"
        with suppress(OSError):
            if lines := self._log.read_text(errors="replace").splitlines():
                return f"{lines[-1].strip()} (exit code {code})"
        return f"exit code {code}"

    def kill(self) -> None:
        """End the zygote at once. Its workers live on."""
        self._gone = True
        self._process.kill()
        self._socket.close()

    def close(self) -> None:
        """End the zygote, which ends its workers."""
        self.wake()
        self._socket.close()
        self._gone = True
        try:
            # A zygote that still imports has no workers to end.
            self._process.wait(LEAVE_SECONDS if self.ready else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _start_process(
    log: Path, keras_backend: str | None, compiled: Path | None, fork: ForkOptions | None
) -> tuple[subprocess.Popen[bytes] | ForkedProcess, socket.socket]:
    """Start a zygote in a new Python or as a fork of this process. Return it with our end of the socket to it."""
    ours, theirs = socket.socketpair()
    # Python orders sets of strings anew in each process, and so a vocabulary or a split made from one.
    environment = {"PYTHONHASHSEED": "0", **os.environ}
    if keras_backend is not None:
        environment["KERAS_BACKEND"] = keras_backend
    arguments = theirs.fileno(), str(log), None if compiled is None else str(compiled)
    process = _new_python(arguments, environment) if fork is None else _fork_here(arguments, environment, fork)
    theirs.close()
    return process, ours


_Arguments = tuple[int, str, str | None]
"""The arguments of `search.worker.zygote.run_zygote`."""


def _new_python(arguments: _Arguments, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a zygote in a new Python."""
    # It has this process's module path: a notebook's factory may import modules from it.
    path = [str(Path(entry).absolute()) for entry in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; from search.worker import zygote; zygote.run_zygote(*{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code], pass_fds=[arguments[0]], env=environment, stdin=subprocess.DEVNULL
    )


def _fork_here(arguments: _Arguments, environment: Mapping[str, str], options: ForkOptions) -> ForkedProcess:
    """Start a zygote as a fork of this process."""

    def run() -> None:
        os.environ.update(environment)
        zygote.run_zygote(*arguments)

    return ForkedProcess(run, arguments[0], files=options.files, private=Path(arguments[1]).parent)


def _readable(file: int, timeout: float = 0.0) -> bool:
    """Return whether a file descriptor can be read, or has come to its end, within `timeout` seconds."""
    poller = select.poll()
    poller.register(file, select.POLLIN)
    return bool(poller.poll(timeout * 1000))
