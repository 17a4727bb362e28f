"""The `local` executor: one long-lived worker process a slot, forked from a zygote that has imported the framework.

A worker that dies, or whose memory has grown, is replaced by another fork, in milliseconds. A zygote that dies is
replaced too; its workers live on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import psutil

from search.devices.slots import Slot
from search.errors import SearchError
from search.executors.base import Handle
from search.messages import (
    Answer,
    Command,
    Evaluate,
    Evaluated,
    Heartbeat,
    Interrupt,
    Lost,
    Message,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    Shutdown,
    Verdict,
)
from search.study.records import SegmentEnded
from search.worker import zygote

GROWTH_BYTES = 1 << 30
"""A worker that has grown by more than this since its first segment is replaced: each trial leaves 7 to 14 MB."""

HEARTBEAT_SECONDS = 300.0
"""A worker of which nothing is heard for so long hangs. Python code that keeps all threads from running is heard of
when it is done: to unpickle gigabytes takes minutes."""

STALL_SECONDS = 1.0
"""Time between two polls that counts at most: a driver that was itself stopped has heard of nobody."""

PROBES = 3
"""How often to probe where somebody else kills the worker, such as a machine without memory left."""

START_SECONDS = 120.0
LEAVE_SECONDS = 3.0


class Zygote:
    """The driver's end of the zygote. The framework is being imported when the constructor returns.

    The rest as for `LocalExecutor`.
    """

    def __init__(self, log: Path, keras_backend: str | None, compiled: Path | None = None) -> None:
        self._log = log
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        if keras_backend is not None:
            environment["KERAS_BACKEND"] = keras_backend
        # It finds modules where this process does: a notebook's factory may name some that are only there.
        path = [str(Path(entry).absolute()) for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from search.worker import zygote; "
        code += f"zygote.main({theirs.fileno()}, {str(log)!r}, {compiled and str(compiled)!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket = ours
        self._socket.settimeout(START_SECONDS)
        self._ready = False
        self._died: dict[int, int] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it has ever been ready to fork."""
        return self._ready

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, slot: Slot, log: Path) -> tuple[int, Connection]:
        """A new worker: its process id and our end of its pipe. SearchError where the zygote cannot."""
        ours, theirs = Pipe()
        try:
            self._receive_until(zygote.Ready)
            zygote.send(self._socket, zygote.Fork(slot, str(log)), (theirs.fileno(),))
            forked = self._receive_until(zygote.Forked)
        except (OSError, EOFError) as error:
            raise SearchError(f"workers cannot be started: {self._why(error)}; see {self._log}") from None
        finally:
            theirs.close()
        assert isinstance(forked, zygote.Forked)
        return forked.pid, ours

    def _why(self, error: Exception) -> str:
        """Why it does not answer: where it ended the last line of its log, as a traceback says there what is wrong."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return str(error) or type(error).__name__
        with suppress(OSError):
            if lines := self._log.read_text(errors="replace").splitlines():
                return f"{lines[-1].strip()} (exit code {code})"
        return f"exit code {code}"

    def _receive_until(self, kind: type[object]) -> object:
        if kind is zygote.Ready and self._ready:
            return None
        while True:
            value, _ = zygote.receive(self._socket)
            if isinstance(value, zygote.Died):
                self._died[value.pid] = value.status
            if isinstance(value, zygote.Ready):
                self._ready = True
            if isinstance(value, kind):
                return value

    def status_of(self, pid: int, timeout: float = 2.0) -> int | None:
        """How the worker `pid` ended, as `os.waitpid` has it; None where the zygote does not say in time."""
        self._socket.settimeout(timeout)
        try:
            while pid not in self._died:
                value, _ = zygote.receive(self._socket)
                if isinstance(value, zygote.Died):
                    self._died[value.pid] = value.status
        except (OSError, EOFError):
            return None
        finally:
            self._socket.settimeout(START_SECONDS)
        return self._died.pop(pid)

    def close(self) -> None:
        self._socket.close()
        try:
            # One that is still importing has no workers to see to.
            self._process.wait(LEAVE_SECONDS if self._ready else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()


@dataclass(slots=True)
class _Worker:
    """A worker process.

    Attributes:
        used: it has had a segment.
        baseline: its memory after the first, in bytes: that loads the data and starts the framework's runtime, on a GPU
            some gigabytes, which is no growth.
        heard: when it was last heard of, by the executor's own clock.
        killed: why it was ended by the driver.
        spent: it ran out of memory: what it holds of it may be of no use to the next segment.
    """

    pid: int
    connection: Connection
    zygote: Zygote
    process: psutil.Process | None
    busy: bool = False
    used: bool = False
    baseline: int | None = None
    heard: float = 0.0
    killed: str | None = None
    spent: bool = False

    def kill(self) -> None:
        """End it, and the processes that it has made."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def memory(self) -> int:
        """Resident bytes; 0 where the process is gone."""
        if self.process is None:
            return 0
        with suppress(psutil.Error):
            return int(self.process.memory_info().rss)
        return 0


class LocalExecutor:
    """Worker processes on this machine.

    Args:
        slots: as `search.devices.slots.make_slots` cuts them.
        log: where the zygote and idle workers write what they print.
        keras_backend: `tensorflow`, `jax` or `torch`; None for Keras's own choice.
        compiled: where JAX keeps what it compiles; by default in a folder that goes with the zygote.
        growth: bytes by which a worker may grow before it is replaced, between segments.
        heartbeat: seconds after which a worker of which nothing is heard is taken for hung, and ended.
        zygote: one to share; it is left alive at the end. By default the executor has its own.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        log: Path,
        keras_backend: str | None = None,
        compiled: Path | None = None,
        growth: int = GROWTH_BYTES,
        heartbeat: float = HEARTBEAT_SECONDS,
        zygote: Zygote | None = None,
    ) -> None:
        self._slots = tuple(slots)
        self._log = log
        self._keras_backend = keras_backend
        self._compiled = compiled
        self._growth = growth
        self._heartbeat = heartbeat
        self._clock = 0.0
        self._polled = time.monotonic()
        self._shared = zygote
        self._zygote = zygote or Zygote(log, keras_backend, compiled)
        self._workers: dict[int, _Worker] = {}

    @property
    def slots(self) -> int:
        return len(self._slots)

    def set_slots(self, slots: Sequence[Slot]) -> None:
        """Cut the machine anew, while nothing runs. A worker whose slot is as before stays, with all that it has."""
        for slot in list(self._workers):
            if slot >= len(slots) or slots[slot] != self._slots[slot]:
                self._retire(slot)
        self._slots = tuple(slots)

    def pids(self) -> dict[int, int]:
        """The process ids of the workers, by slot."""
        return {slot: worker.pid for slot, worker in self._workers.items()}

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        for _ in range(PROBES):
            worker = self._worker(0)
            try:
                worker.connection.send(probe)
                while isinstance(answer := worker.connection.recv(), Heartbeat):
                    pass
            except (OSError, EOFError):
                reason = self._discard(0)
                if "SIGKILL" not in reason:
                    break
            else:
                assert isinstance(answer, (Probed, ProbeFailed))
                return answer
        return ProbeFailed(f"the space file ended its process ({reason}): see {self._log}", "")

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        worker = self._worker(slot)
        if worker.used and worker.baseline is None:
            worker.baseline = worker.memory()
        grown = worker.baseline is not None and worker.memory() - worker.baseline > self._growth
        if grown or worker.spent:
            self._retire(slot)
            worker = self._worker(slot)
        worker.busy = worker.used = True
        worker.heard = self._clock
        self._tell(worker, work)

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        if slot in self._workers:
            self._tell(self._workers[slot], command)

    def kill(self, slot: int, reason: str) -> None:
        worker = self._workers.get(slot)
        if worker is not None and worker.busy:
            worker.killed = reason
            worker.kill()

    def poll(self, handle: Handle, timeout: float) -> None:
        by_connection = {worker.connection: slot for slot, worker in self._workers.items()}
        if not by_connection:
            time.sleep(timeout)
            return
        for ready in wait(list(by_connection), timeout):
            assert isinstance(ready, Connection)
            self._read(by_connection[ready], ready, handle)
        now = time.monotonic()
        self._clock += min(now - self._polled, timeout + STALL_SECONDS)
        self._polled = now
        for slot, worker in self._workers.items():
            if worker.busy and worker.killed is None and self._clock - worker.heard > self._heartbeat:
                self.kill(slot, f"nothing was heard of its process for {self._heartbeat:g} s: it hung?")

    def close(self, *, now: bool = False) -> None:
        for worker in self._workers.values():
            if now or worker.busy:
                worker.kill()
            else:
                self._tell(worker, Shutdown())
            worker.connection.close()
        self._workers.clear()
        if self._zygote is not self._shared:
            self._zygote.close()

    def _worker(self, slot: int) -> _Worker:
        """The slot's worker, forked if there is none."""
        if slot not in self._workers:
            try:
                pid, connection = self._zygote.fork(self._slots[slot], self._log)
            except SearchError:
                if self._zygote.alive or not self._zygote.ready:
                    raise
                # It has worked before, and died: make another one, once.
                self._zygote = Zygote(self._log, self._keras_backend, self._compiled)
                pid, connection = self._zygote.fork(self._slots[slot], self._log)
            process = None
            with suppress(psutil.Error):
                process = psutil.Process(pid)
            self._workers[slot] = _Worker(pid, connection, self._zygote, process)
        return self._workers[slot]

    def _tell(self, worker: _Worker, command: Command) -> None:
        # A worker that has died is noticed where it is read.
        with suppress(OSError):
            worker.connection.send(command)

    def _read(self, slot: int, connection: Connection, handle: Handle) -> None:
        """Hand over what one worker has said so far."""
        try:
            while connection.poll():
                message: Message = connection.recv()
                self._workers[slot].heard = self._clock
                if isinstance(message, Heartbeat):
                    continue
                if isinstance(message, (SegmentEnded, Evaluated)):
                    self._workers[slot].busy = False
                    self._workers[slot].spent = isinstance(message, SegmentEnded) and message.outcome == "no_memory"
                handle(slot, message)
                worker = self._workers.get(slot)
                if worker is None or worker.connection is not connection:
                    return
        except (OSError, EOFError):
            busy = self._workers[slot].busy
            reason = self._discard(slot)
            if busy:
                handle(slot, Lost(reason))

    def _discard(self, slot: int) -> str:
        """Forget a worker that has died. Returns how it died, in words."""
        worker = self._workers.pop(slot)
        worker.connection.close()
        status = worker.zygote.status_of(worker.pid)
        if worker.killed is not None:
            return worker.killed
        if status is None:
            return "its process died"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            hint = ", out of memory?" if number == signal.SIGKILL else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit code {os.WEXITSTATUS(status)}"

    def _retire(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        self._tell(worker, Shutdown())
        worker.connection.close()
