"""The `local` executor: one long-lived worker process per slot, forked from a zygote that has imported the framework.

A worker that dies, or whose memory has grown, is replaced by a new fork within milliseconds. A zygote that dies is
replaced too, and its workers live on.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import psutil

from search.devices.slots import Slot
from search.errors import SearchError
from search.executors.base import ExecutorSetup, Handle, tell_user
from search.executors.forked_process import ForkOptions
from search.executors.waiting import show_stage, waiting_for
from search.executors.zygotes import Child, Zygote
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
from search.storage.scratch import delete_abandoned
from search.study.records import SegmentEnded
from search.wording import format_time

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

CHECK_SECONDS = 0.1
"""Seconds between two looks at all workers, beside those at the workers that send something."""

PROBES = 3
"""Attempts to probe, at most, if the worker is killed from outside, as by a machine that runs out of memory."""

FORK_SECONDS = 1.0
"""Seconds that the start of work waits for a fork, which takes milliseconds. After that, the others go on meanwhile."""

LONG_FORK_SECONDS = 10.0
"""The same if there are no others."""

STATUS_SECONDS = 2.0
"""Seconds to wait for the zygote's report of how a worker ended."""

KILL_SECONDS = 10.0
"""Seconds after which a worker that was killed and has not ended is given up: a driver of the system may hold it.

A worker that was told to end, and has not, is killed after the same time.
"""

LEAVE_SECONDS = 1.0
"""Seconds for idle workers to end by themselves, once the zygote has; and for those that are killed then."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process.

    Attributes:
        child: the process.
        work: the id of the work that it runs, or of its last one.
        busy: whether it runs something.
        used: whether it has run a segment.
        baseline: its memory in bytes after the first segment, which loads the data and starts the framework's runtime.
            On a GPU these take some gigabytes, which are no growth.
        last_message: the time of its last message, by the executor's own clock.
        killed: the reason for which the driver killed it, or None.
        killed_at, over_at: the times when it was killed, and when its end was seen; by the executor's own clock.
        out_of_memory: whether its last segment ran out of memory. The memory it holds may be of no use to the next.
        early: the commands for a process that the zygote has not made yet.
    """

    child: Child
    work: int = 0
    busy: bool = False
    used: bool = False
    baseline: int | None = None
    last_message: float = 0.0
    killed: str | None = None
    killed_at: float | None = None
    over_at: float | None = None
    out_of_memory: bool = False
    early: list[tuple[int, Command]] = field(default_factory=list)
    process: psutil.Process | None = None

    def send(self, command: Command) -> None:
        """Send a command for the present work. If the process is gone, nothing happens."""
        if self.child.pid is None or self.early:
            self.early.append((self.work, command))
        else:
            self.child.pipe.send((self.work, command))

    @property
    def awaits_anything(self) -> bool:
        """True if the process is yet to be made, or is yet to end."""
        return bool(self.child.pid is None or self.early or self.killed_at is not None or self.over_at is not None)

    def memory(self) -> int:
        """Return the resident memory in bytes; 0 if the process is gone."""
        with suppress(psutil.Error):
            if self.process is None and self.child.pid is not None:
                self.process = psutil.Process(self.child.pid)
            if self.process is not None:
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
        fork: fork the zygote from this process in this way; None for a new Python.
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
            fork=setup.fork,
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
        fork: ForkOptions | None = None,
    ) -> None:
        self._slots = tuple(slots)
        self._log = log
        self._keras_backend = keras_backend
        self._compiled = compiled
        self._growth = growth
        self._heartbeat = heartbeat
        self._clock = 0.0
        self._checked = 0.0
        self._polled = time.monotonic()
        self._shared_zygote = zygote
        self._zygote = zygote or Zygote(log, keras_backend, compiled, fork)
        # Later there are threads in this process, and no fork is safe. Without the script's files no fork is needed.
        self._spare = Zygote(log, keras_backend, compiled, fork) if fork is not None and fork.files else None
        self._workers: dict[int, _Worker] = {}
        self._leaving: dict[Child, float] = {}
        """The workers that were told to end, with the times of that."""

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
        return {slot: worker.child.pid for slot, worker in self._workers.items() if worker.child.pid is not None}

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid

    def probe(self, probe: Probe, slot: int = 0, tell: Callable[[str], None] = tell_user) -> Probed | ProbeFailed:
        answer = self._probe(slot, probe, tell)
        for _ in range(PROBES - 1):
            if isinstance(answer, Lost) and "SIGKILL" in answer.reason:
                answer = self._probe(slot, probe, tell)
        if not isinstance(answer, Lost):
            return answer
        if "did it hang?" in answer.reason:
            return ProbeFailed(f"the probe came to no end ({answer.reason}): see {self._log}", "")
        return ProbeFailed(f"the space file ended its process ({answer.reason}): see {self._log}", "")

    def _probe(self, slot: int, probe: Probe, tell: Callable[[str], None]) -> Probed | ProbeFailed | Lost:
        """Have the worker of a slot probe. The messages of the other slots wait."""
        answers: list[Probed | ProbeFailed | Lost] = []

        def take(slot: int, work: int, message: Message) -> None:
            if isinstance(message, Notice):
                tell(message.text)
            elif isinstance(message, Stage):
                show_stage(message.text)
            elif isinstance(message, (Probed, ProbeFailed, Lost)):
                answers.append(message)

        self._begin(slot, 0, probe)
        began = self._clock
        while not answers:
            self._step(take, 0.1, only=slot)
            if probe.limit is not None and self._clock - began > probe.limit:
                self.kill(slot, 0, f"the probe took longer than {format_time(probe.limit)}: did it hang?")
        return answers[0]

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        worker = self._worker(slot)
        if worker.used and worker.baseline is None:
            worker.baseline = worker.memory()
        grown = worker.baseline is not None and worker.memory() - worker.baseline > self._growth
        if grown or worker.out_of_memory:
            self._retire(slot)
        self._begin(slot, work.id, work)
        self._workers[slot].used = True

    def _begin(self, slot: int, number: int, work: Segment | Evaluate | Probe) -> None:
        worker = self._worker(slot)
        worker.work, worker.busy = number, True
        worker.last_message = self._clock
        worker.send(work)

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        worker = self._workers.get(slot)
        if worker is not None and worker.work == work:
            worker.send(command)

    def kill(self, slot: int, work: int, reason: str) -> None:
        worker = self._workers.get(slot)
        if worker is not None and worker.busy and worker.work == work and worker.killed is None:
            worker.killed = reason
            worker.killed_at = self._clock
            worker.child.kill()

    def poll(self, handle: Handle, timeout: float, wake: Sequence[Connection] = ()) -> None:
        """Do as any executor does. A connection in `wake` that can be read ends the wait, too."""
        self._step(handle, timeout, wake)

    def _step(
        self, handle: Handle, timeout: float, wake: Sequence[Connection] = (), *, only: int | None = None
    ) -> None:
        """Wait for anything to happen, and look after all workers, or only after that of one slot."""
        slots = list(self._workers) if only is None else [only]
        ready = self._wait([self._workers[slot] for slot in slots if slot in self._workers], timeout, wake)
        now = time.monotonic()
        self._clock += min(now - self._polled, timeout + STALL_SECONDS)
        self._polled = now
        due = self._clock - self._checked >= CHECK_SECONDS
        if due:
            self._checked = self._clock
        for zygote in self._zygotes(self._workers.values()):
            if due or zygote.fileno() in ready:
                zygote.read()
        for slot in slots:
            worker = self._workers.get(slot)
            if worker is not None and (due or worker.awaits_anything or worker.child.is_among(ready)):
                self._attend(slot, worker, handle)
        for child, since in list(self._leaving.items()):
            if child.is_over or self._clock - since > KILL_SECONDS:
                del self._leaving[child]
                child.release()

    def _zygotes(self, workers: Iterable[_Worker]) -> set[Zygote]:
        return {self._zygote, *(worker.child.zygote for worker in workers)}

    def _wait(self, workers: Sequence[_Worker], timeout: float, wake: Sequence[Connection]) -> set[int]:
        """Wait for anything to happen. Return the file descriptors where something has."""
        poller = select.poll()
        for zygote in self._zygotes(workers):
            if zygote.alive:
                poller.register(zygote.fileno(), select.POLLIN)
        for worker in workers:
            child = worker.child
            # An end that is known would be told again and again.
            if child.pid is not None and worker.over_at is None:
                if not child.pipe.ended:
                    poller.register(child.pipe, select.POLLIN | (select.POLLOUT if child.pipe.is_full else 0))
                if child.pidfd is not None:
                    poller.register(child.pidfd, select.POLLIN)
        for connection in wake:
            poller.register(connection, select.POLLIN)
        return {file for file, _ in poller.poll(timeout * 1000)}

    def _attend(self, slot: int, worker: _Worker, handle: Handle) -> None:
        """Pass on the messages of a worker so far, and find out if it has ended or hangs."""
        if worker.child.pid is None:
            self._await_birth(slot, worker, handle)
            return
        if worker.early:
            self._deliver_early(worker)
        over = worker.child.is_over  # its last messages were sent before
        worker.child.pipe.flush()
        for value in worker.child.pipe.receive():
            work, message = cast(tuple[int, Message], value)
            self._take(slot, work, message, handle)
            if self._workers.get(slot) is not worker:
                return
        silent = self._clock - worker.last_message
        if over:
            self._bury(slot, worker, handle)
        elif worker.killed_at is not None:
            if self._clock - worker.killed_at > KILL_SECONDS:
                reason = worker.killed or "it closed its connection"
                self._end(slot, handle, f"{reason} (process {worker.child.pid} was killed and does not end)")
        elif worker.child.pipe.ended:
            worker.killed_at = self._clock
            worker.child.kill()  # no command can reach it any more
        elif worker.busy and silent > self._heartbeat:
            reason = f"its process sent no sign of life for {format_time(self._heartbeat)}: did it hang?"
            self.kill(slot, worker.work, reason)

    def _deliver_early(self, worker: _Worker) -> None:
        """Send a new process the commands that came before it."""
        worker.last_message = self._clock
        for command in worker.early:
            worker.child.pipe.send(command)
        worker.early.clear()

    def _await_birth(self, slot: int, worker: _Worker, handle: Handle) -> None:
        """Take care of a worker that the zygote has not forked yet."""
        child = worker.child
        if worker.killed is not None:
            self._end(slot, handle, worker.killed)
        elif (failure := child.zygote.failure(time.monotonic())) is not None:
            if not child.zygote.ready:
                raise SearchError(f"workers cannot be started: {failure}; see {self._log}")
            # The zygote has worked before, and has died or hangs: replace it.
            if child.zygote is self._zygote:
                self._zygote.kill()
                self._zygote = self._next_zygote()
            child.release()
            worker.child = self._zygote.fork(self._slots[slot], self._log)

    def _next_zygote(self) -> Zygote:
        """Return the zygote that replaces one that has died."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive:
            return spare
        return Zygote(self._log, self._keras_backend, self._compiled)

    def _bury(self, slot: int, worker: _Worker, handle: Handle) -> None:
        """Remove a worker that has ended, when the zygote has reported how, or does not."""
        child = worker.child
        if worker.over_at is None:
            worker.over_at = self._clock
        if child.status is None and child.zygote.alive and self._clock - worker.over_at < STATUS_SECONDS:
            child.zygote.wake()
            return
        self._end(slot, handle, _describe_end(worker))

    def _end(self, slot: int, handle: Handle, reason: str) -> None:
        """Remove the worker of a slot, and tell that its work is lost."""
        worker = self._workers.pop(slot)
        worker.child.release()
        if worker.busy:
            handle(slot, worker.work, Lost(reason))

    def close(self, *, now: bool = False) -> None:
        for worker in self._workers.values():
            if now or worker.busy:
                worker.child.kill()
            else:
                worker.send(Shutdown())
            self._leaving[worker.child] = self._clock
        self._workers.clear()
        if self._zygote is not self._shared_zygote:
            self._zygote.close()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if not now:
            self._await_ends()
        for child in self._leaving:
            if not child.is_over:
                child.kill()
        self._await_ends()
        for child in self._leaving:
            child.release()
        self._leaving.clear()
        delete_abandoned()

    def _await_ends(self) -> None:
        """Wait until the workers that leave have ended."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and any(child.pid and not child.is_over for child in self._leaving):
            time.sleep(0.01)

    def _worker(self, slot: int) -> _Worker:
        """Return the slot's worker, which is forked if there is none."""
        if slot not in self._workers:
            child = self._zygote.fork(self._slots[slot], self._log)
            self._workers[slot] = _Worker(child)
            busy = any(worker.busy for worker in self._workers.values())
            if not busy and not self._zygote.ready:
                with waiting_for(f"importing {self._zygote.framework}", soon=True):
                    while not self._zygote.ready:
                        self._step(_drop, 0.1, only=slot)
            deadline = time.monotonic() + (FORK_SECONDS if busy else LONG_FORK_SECONDS)
            while child.pid is None and self._zygote.ready and self._zygote.alive and time.monotonic() < deadline:
                self._zygote.read(0.05)
            if child.pid is None:
                self._await_birth(slot, self._workers[slot], _drop)
        return self._workers[slot]

    def _take(self, slot: int, work: int, message: Message, handle: Handle) -> None:
        """Take in a message of the worker in a slot, and pass it on if it belongs to the present work."""
        worker = self._workers[slot]
        worker.last_message = self._clock
        if isinstance(message, Heartbeat) or work != worker.work:
            return
        if isinstance(message, (SegmentEnded, Evaluated, Probed, ProbeFailed)):
            worker.busy = False
            worker.out_of_memory = isinstance(message, SegmentEnded) and message.outcome == "no_memory"
        handle(slot, work, message)

    def retire(self, slot: int) -> None:
        """End the worker of a slot where nothing runs, if there is one."""
        if slot in self._workers:
            self._retire(slot)

    def _retire(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        worker.send(Shutdown())
        self._leaving[worker.child] = self._clock


def _describe_end(worker: _Worker) -> str:
    """Return how a worker ended, as text."""
    status = worker.child.status
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


def _drop(slot: int, work: int, message: Message) -> None:
    """Do nothing with a message."""
