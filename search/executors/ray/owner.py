"""The owner of a node's workers: an actor around a `LocalExecutor`, and the light actor that holds a slot's resources.

One thread of the owner has the `LocalExecutor` to itself. The driver's calls are queued for it and wake it at once.
Messages are kept until the driver has confirmed them, as the answer to a call may be lost on its way.
"""

from __future__ import annotations

import atexit
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, TypeVar

import psutil

from search.devices.gpus import Gpu, find_gpus
from search.devices.nodes import find_node
from search.devices.slots import Slot, core_ids
from search.errors import SearchError
from search.executors.local import KILL_SECONDS, LocalExecutor
from search.executors.ray.code import Code, Copies
from search.executors.ray.memory import choose_victim, nearly_full, node_memory, tree_memory
from search.executors.ray.plan import choose_cores
from search.messages import (
    Evaluate,
    Lost,
    Message,
    Notice,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    WorkCommand,
)
from search.space.error_text import as_one_line
from search.study.records import Built, Checkpointed, DataLoaded, EpochDone, SegmentEnded
from search.wording import format_bytes, format_time

__all__ = ["DriverSilent", "Entry", "Held", "Owner", "OwnerSetup", "Process", "Report", "SlotHolder"]

POLL_SECONDS = 0.5

WATCH_SECONDS = 1.0
"""Seconds between two looks at the node's memory, and at the time of the driver's last call."""

GATHER_SECONDS = 0.05
"""Seconds for which a message that no worker waits for may wait for others."""

GATHERED = (Built, Checkpointed, DataLoaded, EpochDone, Notice)
"""The messages that no worker waits for, unless its epochs are judged."""

Result = TypeVar("Result")

Process = tuple[int, float]
"""A process id, with the time when the process began."""


class DriverSilent(SearchError):
    """An owner has ended its workers, as the driver did not call."""


@dataclass(frozen=True, slots=True)
class OwnerSetup:
    """The circumstances of a search, for the owner of a node's workers.

    Attributes:
        log, keras_backend, compiled, heartbeat: as in `ExecutorSetup`.
        marker, token: a file in the study's folder, and its content: a node that reads it can use the folder.
        folder: the driver's current folder.
        environment: the driver's variables that frameworks read.
        lease: seconds without a call of the driver's after which the workers end: the driver counts them as dead then.
        memory: bytes that the node's workers may use in all; by default the node's own limit counts.
    """

    log: str
    keras_backend: str | None
    compiled: str | None
    heartbeat: float
    marker: str
    token: str
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)
    lease: float = 30.0
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of a worker, numbered by its owner: `slot` and `work` as in `Handle`."""

    number: int
    slot: int
    work: int
    message: Message


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to the driver: messages, and the processes that must end before their trials may go on elsewhere."""

    entries: tuple[Entry, ...]
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """The resources that Ray has given to a slot.

    Attributes:
        node: the node's id.
        gpus: the ids of the GPUs, as CUDA_VISIBLE_DEVICES names them.
    """

    node: str
    gpus: tuple[str, ...]


class SlotHolder:
    """A light actor that holds the resources of a slot for as long as it lives."""

    def held(self) -> Held:
        """Return the resources."""
        import ray

        context = ray.get_runtime_context()
        return Held(context.get_node_id(), tuple(str(each) for each in context.get_accelerator_ids().get("GPU", ())))

    def hold(self) -> None:
        """Never return: the call fails when the actor dies."""
        threading.Event().wait()


class Owner:
    """The actor that starts, replaces and ends the workers of one node."""

    def __init__(self, setup: OwnerSetup) -> None:
        self._setup = setup
        _take_over(setup)
        self._folder = _make_folder()
        self._copies = Copies(self._folder / "code")
        self._reaches_folder = _reads_token(setup)
        log = Path(setup.log) if self._reaches_folder else self._folder / "search.log"
        compiled = Path(setup.compiled) if setup.compiled and self._reaches_folder else None
        self._local = LocalExecutor((), log, setup.keras_backend, compiled, heartbeat=setup.heartbeat)
        self._slots: list[Slot | None] = []
        """The slots of the `LocalExecutor`, by its numbers; None for one that is closed."""
        self._numbers: dict[int, int] = {}
        """The `LocalExecutor`'s number of each of the search's slots."""
        self._works: dict[int, Segment | Evaluate] = {}
        self._epochs: dict[int, int] = {}
        self._no_memory: dict[int, str] = {}
        self._shared: dict[str, str | None] = {}
        """The folder of shared arrays on this node, for each on the node of the probe."""
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken, self._waker = Pipe(duplex=False)
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._count = 0
        self._processes: tuple[Process, ...] = ()
        self._error: SearchError | None = None
        self._closed = threading.Event()
        self._called = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="search-owner", daemon=True)
        self._thread.start()

    # Calls of the driver --------------------------------------------------------------------------------------------

    def reaches_folder(self) -> bool:
        """Return whether this node can use the study's folder."""
        return self._reaches_folder

    def find_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs that the node's driver shows."""
        return find_gpus({})

    def users_of(self, gpus: Collection[str]) -> tuple[str, ...]:
        """Return a description of each of these GPUs that processes outside this actor's tree use.

        Args:
            gpus: indices or UUIDs, as Ray names them.
        """
        uses = find_node({}, os.getpid()).uses
        return tuple(str(use) for use in uses if use.others and {str(use.gpu.index), use.gpu.uuid} & set(gpus))

    def messages(self, seen: int, timeout: float) -> Report:
        """Wait up to `timeout` seconds for messages, and return those after number `seen`. Earlier ones are dropped.

        Raises:
            SearchError: the owner is broken.
        """
        self._called = time.monotonic()
        with self._changed:
            self._entries = [entry for entry in self._entries if entry.number > seen]
            self._changed.wait_for(lambda: self._entries or self._error, timeout)
            # Each call costs a millisecond of the node's processors: what no worker waits for travels together.
            self._changed.wait_for(lambda: self._error or self._is_urgent(), GATHER_SECONDS)
            if self._error is not None:
                raise self._error
            return Report(tuple(self._entries), self._processes)

    def renew(self) -> None:
        """Take in that the driver lives."""
        self._called = time.monotonic()

    def place_code(self, code: Code, contents: Sequence[Any]) -> None:
        """Let workers find the user's code.

        Args:
            code: the files, without their contents.
            contents: a reference to the files with their contents, which is fetched if the node does not have them.
        """
        if not self._copies.is_in_place(code):
            import ray

            self._copies.write(ray.get(contents[0]))

    def end_processes(self, processes: Sequence[Process]) -> None:
        """End processes of an earlier owner of this node, and wait until they have ended.

        One that does not end is held within the system. It runs no more code of its own, and is not waited for.
        """
        left = [found for process in processes if (found := _find(process)) is not None]
        for process in left:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=KILL_SECONDS)

    def open_slot(self, slot: int, share: Slot) -> Slot:
        """Make a slot of `share`, with cores that no other slot has. Return it with its cores."""
        return self._do(lambda: self._open_slot(slot, share))

    def close_slot(self, slot: int) -> None:
        """End the worker of a slot. Nothing runs there."""
        self._do(lambda: self._close_slot(slot))

    def probe(self, slot: int, probe: Probe) -> Probed | ProbeFailed:
        """Probe in a slot while nothing runs on this node."""
        return self._do(lambda: self._probe(slot, probe))

    def start(self, slot: int, work: Segment | Evaluate, mapped: bool) -> None:
        """Start work in a slot.

        Args:
            mapped: workers here can map the arrays that the probe has shared. Otherwise they are loaded once here.
        """
        self._call(lambda: self._start(slot, work, mapped))

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        """Send a command to the worker in a slot."""
        self._call(lambda: self._on_slot(slot, lambda number: self._local.send(number, work, command)))

    def kill(self, slot: int, work: int, reason: str) -> None:
        """End the worker of a slot, whatever it does."""
        self._call(lambda: self._on_slot(slot, lambda number: self._local.kill(number, work, reason)))

    def close(self, now: bool) -> None:
        """End all workers."""
        if not self._closed.is_set():
            self._do(lambda: self._close(now))

    # The thread of the workers --------------------------------------------------------------------------------------

    def _call(self, function: Callable[[], None]) -> None:
        """Have the thread of the workers call a function."""
        self._calls.put(function)
        self._waker.send_bytes(b"")

    def _do(self, function: Callable[[], Result]) -> Result:
        """Have the thread of the workers call a function, and return its result, or raise its exception."""
        done: Future[Result] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._call(call)
        while True:
            try:
                return done.result(POLL_SECONDS)
            except TimeoutError:
                if not self._thread.is_alive() and not done.done():
                    raise SearchError("the owner has ended") from None

    def _serve(self) -> None:
        watched = time.monotonic()
        try:
            while not self._closed.is_set():
                self._local.poll(self._take, POLL_SECONDS, (self._woken,))
                while self._woken.poll():
                    self._woken.recv_bytes()
                while not self._calls.empty():
                    self._calls.get()()
                self._list_processes()
                if time.monotonic() - watched >= WATCH_SECONDS and not self._closed.is_set():
                    watched = time.monotonic()
                    self._watch_memory()
                    self._watch_driver()
        except SearchError as error:
            self._break(error)
        except BaseException:
            self._break(SearchError(as_one_line(traceback.format_exc())))

    def _break(self, error: SearchError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _open_slot(self, slot: int, share: Slot) -> Slot:
        held = [each.cores for each in self._slots if each is not None]
        number = next((each for each, taken in enumerate(self._slots) if taken is None), len(self._slots))
        made = replace(share, index=number, cores=choose_cores(core_ids(), held, share.threads))
        self._slots[number : number + 1] = [made]
        self._numbers[slot] = number
        self._local.set_slots([each or _closed(index) for index, each in enumerate(self._slots)])
        return made

    def _close_slot(self, slot: int) -> None:
        number = self._numbers.pop(slot, None)
        if number is not None:
            self._local.retire(number)
            self._slots[number] = None

    def _probe(self, slot: int, probe: Probe) -> Probed | ProbeFailed:
        def tell(text: str) -> None:
            self._report(slot, 0, Notice(0, text))

        local = replace(probe, space=self._copies.locate(probe.space))
        found = self._copies.with_original_paths(self._local.probe(local, self._numbers[slot], tell))
        assert isinstance(found, (Probed, ProbeFailed))
        return found

    def _start(self, slot: int, work: Segment | Evaluate, mapped: bool) -> None:
        local = replace(work, space=self._copies.locate(work.space))
        self._works[slot] = local
        self._epochs[slot] = work.from_epoch if isinstance(work, Segment) else 0
        try:
            if local.data is not None and not mapped:
                local = replace(local, data=self._load_once(slot, local, local.data))
            self._on_slot(slot, lambda number: self._local.start(number, local))
        except SearchError as error:
            self._break(error)

    def _load_once(self, slot: int, work: Segment | Evaluate, data: str) -> str | None:
        """Return the folder of shared arrays on this node; None if each worker loads the data. The first call loads."""
        if data not in self._shared:
            folder = str(self._folder / f"data-{len(self._shared)}")
            found = self._local.probe(Probe(work.space, folder), self._numbers[slot])
            self._shared[data] = folder if isinstance(found, Probed) and found.shared else None
        return self._shared[data]

    def _on_slot(self, slot: int, function: Callable[[int], None]) -> None:
        """Call a function with the `LocalExecutor`'s number of a slot, if the slot is open."""
        if slot in self._numbers:
            function(self._numbers[slot])

    def _take(self, number: int, work: int, message: Message) -> None:
        """Take in a message of a worker."""
        slot = next(slot for slot, own in self._numbers.items() if own == number)
        if isinstance(message, EpochDone):
            self._epochs[slot] = message.epoch
        if isinstance(message, Lost) and slot in self._no_memory:
            message = self._out_of_memory(slot, self._no_memory.pop(slot))
        self._report(slot, work, self._copies.with_original_paths(message))

    def _out_of_memory(self, slot: int, reason: str) -> Message:
        work = self._works[slot]
        if isinstance(work, Segment):
            return SegmentEnded(work.trial, work.execution, "no_memory", self._epochs[slot], reason)
        return Lost(reason)

    def _report(self, slot: int, work: int, message: Message) -> None:
        with self._changed:
            self._count += 1
            self._entries.append(Entry(self._count, slot, work, message))
            self._changed.notify_all()

    def _is_urgent(self) -> bool:
        """Return whether a worker waits for the driver, or if there is nothing to gather."""
        return not self._entries or any(
            not isinstance(entry.message, GATHERED) or self._is_judged(entry.slot) for entry in self._entries
        )

    def _is_judged(self, slot: int) -> bool:
        work = self._works.get(slot)
        return isinstance(work, Segment) and work.judged

    def _list_processes(self) -> None:
        """List the processes that must end before their trials may go on elsewhere."""
        known = dict(self._processes)
        pids = [self._local.zygote_pid, *self._local.pids().values()]
        if list(known) != pids:
            found = [(pid, known.get(pid) or _began(pid)) for pid in pids]
            with self._changed:
                self._processes = tuple((pid, began) for pid, began in found if began is not None)

    # Watching -------------------------------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        """End the largest worker if the node's memory is nearly used up."""
        limit = self._setup.memory
        used, total = node_memory() if limit is None else (0, limit)
        if limit is None and not nearly_full(used, total):
            return  # to look at all processes takes a while
        pids = self._local.pids()
        sizes = {slot: tree_memory(pids[number]) for slot, number in self._numbers.items() if number in pids}
        victim = choose_victim(sizes, used if limit is None else sum(sizes.values()), total)
        if victim is not None and victim in self._works and victim not in self._no_memory:
            size = format_bytes(sizes[victim])
            self._no_memory[victim] = f"out of memory: its process had {size}, and its node has {format_bytes(total)}"
            self._local.kill(self._numbers[victim], self._works[victim].id, "out of memory")

    def _watch_driver(self) -> None:
        """End the workers if the driver has not called for so long that it counts them as dead."""
        if time.monotonic() - self._called > self._setup.lease:
            self._close(True)
            self._break(DriverSilent(f"the driver was silent for {format_time(self._setup.lease)}"))

    def _close(self, now: bool) -> None:
        self._closed.set()
        self._local.close(now=now)
        shutil.rmtree(self._folder, ignore_errors=True)


def _closed(index: int) -> Slot:
    return Slot(index, (), (), 1, "closed")


def _take_over(setup: OwnerSetup) -> None:
    """Make this process's environment and folder those of the driver, as far as workers depend on them."""
    # Ray sets these for its own processes. A worker gets its GPUs by its slot.
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    os.environ.update(setup.environment)
    with suppress(OSError):
        os.chdir(setup.folder)


def _reads_token(setup: OwnerSetup) -> bool:
    with suppress(OSError):
        return Path(setup.marker).read_text() == setup.token
    return False


def _make_folder() -> Path:
    """Make a folder for this owner's files. Those of owners that were killed are deleted."""
    for left in Path(tempfile.gettempdir()).glob("search-ray-*-*"):
        pid = left.name.split("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"search-ray-{os.getpid()}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _began(pid: int) -> float | None:
    with suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def _find(process: Process) -> psutil.Process | None:
    """Return a process, unless it has ended."""
    pid, began = process
    with suppress(psutil.Error):
        found = psutil.Process(pid)
        if abs(found.create_time() - began) < 1 and found.status() != psutil.STATUS_ZOMBIE:
            return found
    return None
