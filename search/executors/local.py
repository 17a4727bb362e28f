"""The `local` executor: one long-lived worker process per slot, forked from a zygote that has imported the framework.

A worker that dies, or whose memory has grown, is replaced by a new fork within milliseconds. A zygote that dies is
replaced too, and its workers live on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import psutil

from search.devices.slots import Slot
from search.errors import SearchError
from search.executors.base import ExecutorSetup, Handle, tell_user
from search.executors.waiting import show_stage, waiting_for
from search.messages import (
    Command,
    Evaluate,
    Evaluated,
    Heartbeat,
    Lost,
    Message,
    Notice,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    Shutdown,
    Stage,
    WorkCommand,
)
from search.study.records import SegmentEnded
from search.study.versions import framework_name
from search.wording import format_time
from search.worker import zygote

GROWTH_BYTES = 1 << 30
"""Growth in bytes since its first segment after which a worker is replaced: each trial leaves 7 to 14 MB behind."""

HEARTBEAT_TIMEOUT = 300.0
"""Seconds without any message after which a worker counts as hung.

Python code may block all threads of a worker, and so its signs of life: to unpickle gigabytes takes minutes.
"""

STALL_SECONDS = 1.0
"""Seconds between two polls that count as silence, beyond the poll's timeout, at most.

A driver that was itself suspended has received no messages.
"""

PROBES = 3
"""Attempts to probe, at most, if the worker is killed from outside, as by a machine that runs out of memory."""

IMPORT_SECONDS = 600.0
"""Seconds for the zygote to import the framework: a machine that is busy with other work may need minutes."""

ANSWER_SECONDS = 120.0
"""Seconds for the zygote to answer when it has imported the framework."""

LEAVE_SECONDS = 3.0
"""Seconds for the zygote to end by itself."""


class Zygote:
    """The driver's end of the zygote, which still imports the framework when the constructor returns.

    The arguments are as for `LocalExecutor`.
    """

    def __init__(self, log: Path, keras_backend: str | None, compiled: Path | None = None) -> None:
        self._log = log
        self._framework = framework_name(keras_backend)
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        if keras_backend is not None:
            environment["KERAS_BACKEND"] = keras_backend
        # Python orders sets of strings anew in each process, and so a vocabulary or a split made from one.
        environment.setdefault("PYTHONHASHSEED", "0")
        # The zygote has this process's module path: a notebook's factory may import modules from it.
        path = [str(Path(entry).absolute()) for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from search.worker import zygote; "
        code += f"zygote.run_zygote({theirs.fileno()}, {str(log)!r}, {compiled and str(compiled)!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket = ours
        self._socket.settimeout(IMPORT_SECONDS)
        self._ready = False
        self._died: dict[int, int] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ready(self) -> bool:
        """True if the zygote has reported that it can fork."""
        return self._ready

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, slot: Slot, log: Path) -> tuple[int, Connection]:
        """Fork a worker, and return its process id and our end of its pipe. SearchError if the zygote cannot."""
        ours, theirs = Pipe()
        try:
            if not self._ready:
                with waiting_for(f"importing {self._framework}", soon=True):
                    self._receive_until(zygote.ZygoteReady)
                self._socket.settimeout(ANSWER_SECONDS)
            zygote.send(self._socket, zygote.Fork(slot, str(log)), (theirs.fileno(),))
            forked = self._receive_until(zygote.Forked)
        except (OSError, EOFError) as error:
            raise SearchError(f"workers cannot be started: {self._reason(error)}; see {self._log}") from None
        finally:
            theirs.close()
        assert isinstance(forked, zygote.Forked)
        return forked.pid, ours

    def _reason(self, error: Exception) -> str:
        """Return why the zygote does not answer: if it ended, the last line of its log, where a traceback ends."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            if isinstance(error, TimeoutError):
                seconds = ANSWER_SECONDS if self._ready else IMPORT_SECONDS
                return f"no answer in {format_time(seconds)}: if the machine is busy, run the command again later"
            return str(error) or type(error).__name__
        with suppress(OSError):
            if lines := self._log.read_text(errors="replace").splitlines():
                return f"{lines[-1].strip()} (exit code {code})"
        return f"exit code {code}"

    def _receive_until(self, kind: type[object]) -> object:
        if kind is zygote.ZygoteReady and self._ready:
            return None
        while True:
            value, _ = zygote.receive(self._socket)
            if isinstance(value, zygote.Died):
                self._died[value.pid] = value.status
            if isinstance(value, zygote.ZygoteReady):
                self._ready = True
            if isinstance(value, kind):
                return value

    def status_of(self, pid: int, timeout: float = 2.0) -> int | None:
        """Return the `os.waitpid` status of the worker `pid`; None if the zygote does not report it in time."""
        self._socket.settimeout(timeout)
        try:
            while pid not in self._died:
                value, _ = zygote.receive(self._socket)
                if isinstance(value, zygote.Died):
                    self._died[value.pid] = value.status
        except (OSError, EOFError):
            return None
        finally:
            self._socket.settimeout(ANSWER_SECONDS)
        return self._died.pop(pid)

    def close(self) -> None:
        self._socket.close()
        try:
            # A zygote that still imports has no workers to end.
            self._process.wait(LEAVE_SECONDS if self._ready else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()


@dataclass(slots=True)
class _Worker:
    """A worker process.

    Attributes:
        zygote: the zygote that forked it.
        work: the id of the work that it runs, or of its last one.
        busy: whether it runs something.
        used: whether it has run a segment.
        baseline: its memory in bytes after the first segment, which loads the data and starts the framework's runtime.
            On a GPU these take some gigabytes, which are no growth.
        last_message: the time of its last message, by the executor's own clock.
        killed: the reason for which the driver killed it, or None.
        out_of_memory: whether its last segment ran out of memory. The memory it holds may be of no use to the next.
    """

    pid: int
    connection: Connection
    zygote: Zygote
    process: psutil.Process | None
    work: int = 0
    busy: bool = False
    used: bool = False
    baseline: int | None = None
    last_message: float = 0.0
    killed: str | None = None
    out_of_memory: bool = False

    def kill(self) -> None:
        """Kill the process and the processes that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def memory(self) -> int:
        """Return the resident memory in bytes; 0 if the process is gone."""
        if self.process is None:
            return 0
        with suppress(psutil.Error):
            return int(self.process.memory_info().rss)
        return 0


class LocalExecutor:
    """An executor with worker processes on this machine.

    Args:
        slots: the slots, as `search.devices.slots.make_slots` returns them.
        log: the file for the output of the zygote and of idle workers.
        keras_backend: `tensorflow`, `jax` or `torch`; None for Keras's own choice.
        compiled: the folder in which JAX keeps compiled programs; by default one that is deleted with the zygote.
        growth: bytes by which a worker may grow before it is replaced, between segments.
        heartbeat: seconds without a message after which a worker counts as hung and is killed.
        zygote: a zygote to share, which stays alive at the end. By default the executor has its own.
    """

    protocol = 2

    @classmethod
    def from_setup(cls, setup: ExecutorSetup) -> LocalExecutor:
        """Return the executor of a search."""
        return cls(
            setup.slots,
            setup.log,
            setup.keras_backend,
            compiled=setup.compiled,
            heartbeat=setup.heartbeat,
            zygote=setup.zygote,
        )

    def __init__(
        self,
        slots: Sequence[Slot],
        log: Path,
        keras_backend: str | None = None,
        compiled: Path | None = None,
        growth: int = GROWTH_BYTES,
        heartbeat: float = HEARTBEAT_TIMEOUT,
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
        self._shared_zygote = zygote
        self._zygote = zygote or Zygote(log, keras_backend, compiled)
        self._workers: dict[int, _Worker] = {}

    @property
    def slots(self) -> int:
        return len(self._slots)

    def set_slots(self, slots: Sequence[Slot]) -> None:
        """Replace the slots while nothing runs. A worker whose slot is unchanged stays."""
        for slot in list(self._workers):
            if slot >= len(slots) or slots[slot] != self._slots[slot]:
                self._retire(slot)
        self._slots = tuple(slots)

    def pids(self) -> dict[int, int]:
        """Return the process ids of the workers, by slot."""
        return {slot: worker.pid for slot, worker in self._workers.items()}

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid

    def probe(self, probe: Probe, slot: int = 0, tell: Callable[[str], None] = tell_user) -> Probed | ProbeFailed:
        for _ in range(PROBES):
            worker = self._worker(slot)
            try:
                answer = self._probe(worker, probe, tell)
            except (OSError, EOFError):
                reason = self._discard(slot)
                if "SIGKILL" not in reason:
                    break
            else:
                return answer
        return ProbeFailed(f"the space file ended its process ({reason}): see {self._log}", "")

    def _probe(self, worker: _Worker, probe: Probe, tell: Callable[[str], None]) -> Probed | ProbeFailed:
        """Have a worker probe. OSError or EOFError if its process ends."""
        worker.work = 0
        worker.connection.send((0, probe))
        while True:
            _, answer = worker.connection.recv()
            if isinstance(answer, Notice):
                tell(answer.text)
            elif isinstance(answer, Stage):
                show_stage(answer.text)
            elif not isinstance(answer, Heartbeat):
                assert isinstance(answer, (Probed, ProbeFailed))
                return answer

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        worker = self._worker(slot)
        if worker.used and worker.baseline is None:
            worker.baseline = worker.memory()
        grown = worker.baseline is not None and worker.memory() - worker.baseline > self._growth
        if grown or worker.out_of_memory:
            self._retire(slot)
            worker = self._worker(slot)
        worker.work, worker.busy, worker.used = work.id, True, True
        worker.last_message = self._clock
        self._send(worker, work)

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        worker = self._workers.get(slot)
        if worker is not None and worker.work == work:
            self._send(worker, command)

    def kill(self, slot: int, work: int, reason: str) -> None:
        worker = self._workers.get(slot)
        if worker is not None and worker.busy and worker.work == work:
            worker.killed = reason
            worker.kill()

    def poll(self, handle: Handle, timeout: float, wake: Sequence[Connection] = ()) -> None:
        """Do as any executor does. A connection in `wake` that can be read ends the wait, too."""
        by_connection = {worker.connection: slot for slot, worker in self._workers.items()}
        if not by_connection and not wake:
            time.sleep(timeout)
            return
        for ready in wait([*by_connection, *wake], timeout):
            assert isinstance(ready, Connection)
            if ready in by_connection:
                self._read(by_connection[ready], ready, handle)
        now = time.monotonic()
        self._clock += min(now - self._polled, timeout + STALL_SECONDS)
        self._polled = now
        for slot, worker in self._workers.items():
            if worker.busy and worker.killed is None and self._clock - worker.last_message > self._heartbeat:
                self.kill(
                    slot,
                    worker.work,
                    f"its process sent no sign of life for {format_time(self._heartbeat)}: did it hang?",
                )

    def close(self, *, now: bool = False) -> None:
        for worker in self._workers.values():
            if now or worker.busy:
                worker.kill()
            else:
                self._send(worker, Shutdown())
            worker.connection.close()
        self._workers.clear()
        if self._zygote is not self._shared_zygote:
            self._zygote.close()

    def _worker(self, slot: int) -> _Worker:
        """Return the slot's worker, which is forked if there is none."""
        if slot not in self._workers:
            try:
                pid, connection = self._zygote.fork(self._slots[slot], self._log)
            except SearchError:
                if self._zygote.alive or not self._zygote.ready:
                    raise
                # The zygote has worked before and died: replace it, once.
                self._zygote = Zygote(self._log, self._keras_backend, self._compiled)
                pid, connection = self._zygote.fork(self._slots[slot], self._log)
            process = None
            with suppress(psutil.Error):
                process = psutil.Process(pid)
            self._workers[slot] = _Worker(pid, connection, self._zygote, process)
        return self._workers[slot]

    def _send(self, worker: _Worker, command: Command) -> None:
        # If the worker has died, `_read` notices.
        with suppress(OSError):
            worker.connection.send((worker.work, command))

    def _read(self, slot: int, connection: Connection, handle: Handle) -> None:
        """Pass one worker's messages so far to `handle`."""
        try:
            while connection.poll():
                work, message = connection.recv()
                self._take(slot, work, message, handle)
                worker = self._workers.get(slot)
                if worker is None or worker.connection is not connection:
                    return
        except (OSError, EOFError):
            worker = self._workers[slot]
            reason = self._discard(slot)
            if worker.busy:
                handle(slot, worker.work, Lost(reason))

    def _take(self, slot: int, work: int, message: Message, handle: Handle) -> None:
        """Take in a message of the worker in a slot, and pass it on if it belongs to the present work."""
        worker = self._workers[slot]
        worker.last_message = self._clock
        if isinstance(message, Heartbeat) or work != worker.work:
            return
        if isinstance(message, (SegmentEnded, Evaluated)):
            worker.busy = False
            worker.out_of_memory = isinstance(message, SegmentEnded) and message.outcome == "no_memory"
        handle(slot, work, message)

    def _discard(self, slot: int) -> str:
        """Remove a worker that has died, and return how it died as text."""
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

    def retire(self, slot: int) -> None:
        """End the worker of a slot where nothing runs, if there is one."""
        if slot in self._workers:
            self._retire(slot)

    def _retire(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        self._send(worker, Shutdown())
        worker.connection.close()
