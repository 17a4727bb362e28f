"""The zygote: a process that has imported the framework, does nothing with it, and forks workers in milliseconds.

The zygote never runs the user's code: if one variable is made before the fork, the child hangs. It is a new Python, or
a fork of the script's process, if that has made none (`search/executors/fork_safety.py`). A Unix socket brings `Fork`
requests, each with one end of a pipe for the new worker, and takes back how children ended. The zygote ends with
its driver. Workers notice the driver's end themselves, and the zygote kills those that do not.

Each worker has a *lifeline*, too: a socket that carries nothing, whose other end is with the driver and the zygote. If
both are gone, the kernel kills the worker's process group. So no code that blocks all threads of a worker can outlive
them.
"""

from __future__ import annotations

import array
import fcntl
import gc
import hashlib
import os
import pickle
import platform
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from search.devices.slots import Slot
from search.worker.surroundings import Surroundings

LAST_SECONDS = 2.0
"""Seconds that workers have to notice that their driver is gone."""

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Fork:
    """The request to fork a worker for `slot`, which logs to the file `log` while it runs no trial.

    With it come three file descriptors: the worker's end of its pipe, that of its lifeline, and the other end of that.
    If the zygote was forked early from a script, the worker takes over the script's present `surroundings`.
    """

    number: int
    slot: Slot
    log: str
    surroundings: Surroundings | None = None


@dataclass(frozen=True, slots=True)
class ZygoteReady:
    """The report that the framework is imported."""

    pid: int


@dataclass(frozen=True, slots=True)
class Forked:
    """The answer to the `Fork` of this number. If `has_pidfd`, a file descriptor of the process comes with it."""

    number: int
    pid: int
    has_pidfd: bool


@dataclass(frozen=True, slots=True)
class Died:
    """The report that a worker ended, with the status that `os.waitpid` gave."""

    pid: int
    status: int


def send(sock: socket.socket, value: object, fds: tuple[int, ...] = ()) -> None:
    """Send a value together with file descriptors."""
    data = pickle.dumps(value)
    message = _LENGTH.pack(len(data)) + data
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([message], ancillary)
    sock.sendall(message[sent:])


def receive(sock: socket.socket) -> tuple[object, list[int]]:
    """Wait for a value, and return it with its file descriptors. EOFError if the other side is gone."""
    head, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, 4)
    head = _receive_bytes(sock, _LENGTH.size, head)
    return pickle.loads(_receive_bytes(sock, _LENGTH.unpack(head)[0])), fds


def take_values(data: bytearray) -> Iterator[object]:
    """Remove each whole value from the front of `data`, and yield it."""
    while len(data) >= _LENGTH.size and len(data) >= (end := _LENGTH.size + _LENGTH.unpack_from(data)[0]):
        value = pickle.loads(data[_LENGTH.size : end])
        del data[:end]
        yield value


def _receive_bytes(sock: socket.socket, size: int, data: bytes = b"") -> bytes:
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def run_zygote(fd: int, log: str, folder: str | None) -> None:
    """Import the framework, then fork workers on request until the driver is gone.

    Args:
        fd: the file descriptor of the socket to the driver.
        log: the file for this process's output.
        folder: as in `_share_compiled`.
    """
    signal_at_end(fd, os.getpid(), signal.SIGKILL)  # an import blocks all threads, and may take minutes
    from search.worker import process

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the driver handles them, and this process ends with it
    process.redirect_output(Path(log))
    process.set_environment()
    # Imports make half a million objects and no garbage. The collector would look at all of them again and again, which
    # takes a fifth of the time here. In a worker, each look would also copy the memory that all workers share.
    gc.disable()
    # Import all that a worker needs, but start no runtime.
    import keras

    import search.worker.evaluate_best
    import search.worker.probe
    import search.worker.segment

    if keras.config.backend() == "tensorflow":
        import search.worker.runners.tensorflow.epochs
        from search.worker.runners.tensorflow.graph_files import set_graph_folder
    elif keras.config.backend() == "jax":
        import search.worker.runners.jax.epochs  # noqa: F401

    temporary = None
    if keras.config.backend() == "jax":
        temporary = _share_compiled(folder)
    elif keras.config.backend() == "tensorflow":
        with suppress(OSError):  # without it, each worker traces for itself
            temporary = tempfile.mkdtemp(prefix="search-graphs-")
            set_graph_folder(temporary)

    gc.freeze()
    sock = socket.socket(fileno=fd)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # From now on the driver's end is seen, unless somebody has stopped this process.
    signal_at_end(fd, os.getpid(), signal.SIGCONT)
    try:
        send(sock, ZygoteReady(os.getpid()))
        _serve(sock, wake_read, wake_write)
    except (EOFError, ConnectionError):
        _end_children()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    os._exit(0)


_lifelines: dict[int, int] = {}
"""The workers, each with our copy of the driver's end of its lifeline."""


def signal_at_end(fd: int, target: int, number: int) -> None:
    """Have the kernel send a signal when the last holder of the other end of a socket is gone.

    Args:
        fd: the socket.
        target: the id of a process, or that of a process group, negative.
        number: the signal. It is sent if data come, too.
    """
    with suppress(OSError, AttributeError):  # other systems lack this; then only the processes themselves notice
        fcntl.fcntl(fd, fcntl.F_SETOWN, target)
        fcntl.fcntl(fd, fcntl.F_SETSIG, number)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(fd, select.POLLHUP)
    if poller.poll(0):
        os.kill(os.getpid(), number)  # the end came before


def _serve(sock: socket.socket, wake_read: int, wake_write: int) -> None:
    """Fork workers and report those that ended. EOFError or ConnectionError once the driver is gone."""
    while True:
        readable, _, _ = select.select([sock.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            for pid, status in _collect_ended():
                send(sock, Died(pid, status))
        if sock.fileno() in readable:
            request, fds = receive(sock)
            assert isinstance(request, Fork)
            pid = _fork(request, fds, (sock.fileno(), wake_read, wake_write))
            try:
                pidfd = os.pidfd_open(pid)
            except (OSError, AttributeError):  # an old kernel: the driver waits for the report of the end
                send(sock, Forked(request.number, pid, False))
                continue
            send(sock, Forked(request.number, pid, True), (pidfd,))
            os.close(pidfd)


COMPILED_BYTES = 2 << 30
"""Bytes of compiled programs to keep when a search starts; the oldest programs are deleted first."""


def _share_compiled(folder: str | None) -> str | None:
    """Make JAX keep compiled programs in `folder`; if that is None, in a temporary folder, whose path is returned.

    A promoted trial's model may be built in another process, and an equal model in another search. If the user has
    chosen a folder for JAX's cache, nothing is changed.
    """
    import jax

    if jax.config.jax_compilation_cache_dir:
        return None
    temporary = None if folder else tempfile.mkdtemp(prefix="search-jax-")
    cache = Path(temporary or Path(str(folder), f"jax-{_processor()}"))
    _prune(cache)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return temporary


def _prune(folder: Path) -> None:
    """Delete the oldest files beyond `COMPILED_BYTES`. (JAX can do so itself, but checks all files each time.)"""
    files = [(file.stat(), file) for file in folder.glob("*")]
    size = sum(stat.st_size for stat, _ in files)
    for stat, file in sorted(files, key=lambda item: item[0].st_mtime):
        if size <= COMPILED_BYTES:
            return
        file.unlink(missing_ok=True)
        size -= stat.st_size


def _processor() -> str:
    """Return a name for this kind of processor: a program compiled for one kind may crash on another."""
    kind = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(kind.encode()).hexdigest()[:12]


def _fork(request: Fork, fds: list[int], ours: tuple[int, ...]) -> int:
    pipe, lifeline, lifelines_end = fds
    pid = os.fork()
    if pid:
        os.close(pipe)
        os.close(lifeline)
        _lifelines[pid] = lifelines_end
        with suppress(OSError):
            os.setpgid(pid, pid)  # here too, so that the group exists as soon as the driver knows the pid
        return pid
    try:
        gc.enable()
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (*ours, lifelines_end, *_lifelines.values()):
            os.close(descriptor)
        # Programs that the user's code starts must not hold them.
        os.set_inheritable(pipe, False)
        os.set_inheritable(lifeline, False)
        signal_at_end(lifeline, -os.getpid(), signal.SIGKILL)
        if request.surroundings is not None:
            request.surroundings.apply()
        from search.worker.process import serve_worker

        serve_worker(Connection(pipe), request.slot, request.log)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _collect_ended() -> Iterator[tuple[int, int]]:
    """Yield the process id and the `os.waitpid` status of each child that has ended."""
    while _lifelines:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        # Until the child is waited for, no other process can get its id. Its own children end with it.
        _kill_group(ended.si_pid)
        os.close(_lifelines.pop(ended.si_pid))
        yield os.waitpid(ended.si_pid, 0)


def _end_children() -> None:
    """Wait until the children notice that the driver is gone, and kill those whose threads native code blocks."""
    deadline = time.monotonic() + LAST_SECONDS
    while _lifelines and time.monotonic() < deadline:
        for _ in _collect_ended():
            pass
        time.sleep(0.02)
    for pid in _lifelines:
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
