"""The zygote: a process that has imported the framework, and nothing else, and forks workers in milliseconds.

It never runs the user's code: one variable made before the fork, and the child hangs. It listens on a Unix socket for
`fork` requests, each with one end of a pipe for the new worker, and says which child ended how. It ends with its
driver; its children notice the driver's end themselves, and those that cannot, it ends.
"""

from __future__ import annotations

import array
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

LAST_SECONDS = 2.0
"""How long workers whose driver is gone have to notice it."""

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Fork:
    """A request: fork a worker for `slot`, which logs to `log` while it runs no trial."""

    slot: Slot
    log: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The framework is imported."""

    pid: int


@dataclass(frozen=True, slots=True)
class Forked:
    """The answer to `Fork`."""

    pid: int


@dataclass(frozen=True, slots=True)
class Died:
    """A child ended: `status` as `os.waitpid` has it."""

    pid: int
    status: int


def send(sock: socket.socket, value: object, fds: tuple[int, ...] = ()) -> None:
    """Send a value, and file descriptors with it."""
    data = pickle.dumps(value)
    message = _LENGTH.pack(len(data)) + data
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([message], ancillary)
    sock.sendall(message[sent:])


def receive(sock: socket.socket) -> tuple[object, list[int]]:
    """A value and the file descriptors with it. EOFError where the other side is gone."""
    head, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, 4)
    head = _exactly(sock, _LENGTH.size, head)
    return pickle.loads(_exactly(sock, _LENGTH.unpack(head)[0])), fds


def _exactly(sock: socket.socket, size: int, data: bytes = b"") -> bytes:
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def main(fd: int, log: str, folder: str | None) -> None:
    """Import the framework, then fork workers on request until the driver is gone."""
    from search.worker import process

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # for the driver to heed: this process ends with it
    process.redirect(Path(log))
    process.set_environment()
    # All that a worker needs, short of anything that starts a runtime.
    import keras

    if keras.config.backend() == "tensorflow":
        import search.worker.runners.tensorflow.epochs
        import search.worker.runners.tensorflow.graph_files
    elif keras.config.backend() == "jax":
        import search.worker.runners.jax.epochs
    import search.worker.evaluate_best
    import search.worker.probe
    import search.worker.segment

    temporary = None
    if keras.config.backend() == "jax":
        temporary = _share_compiled(folder)
    elif keras.config.backend() == "tensorflow":
        with suppress(OSError):  # without it, each worker traces for itself
            temporary = tempfile.mkdtemp(prefix="search-traced-")
            search.worker.runners.tensorflow.graph_files.use(temporary)

    sock = socket.socket(fileno=fd)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    send(sock, Ready(os.getpid()))
    try:
        _serve(sock, wake_read, wake_write)
    except (EOFError, ConnectionError):
        _end_children()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    os._exit(0)


_children: set[int] = set()


def _serve(sock: socket.socket, wake_read: int, wake_write: int) -> None:
    """Fork, and say who has ended. EOFError or ConnectionError when the driver is gone."""
    while True:
        readable, _, _ = select.select([sock.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            for pid, status in _reap():
                send(sock, Died(pid, status))
        if sock.fileno() in readable:
            request, fds = receive(sock)
            assert isinstance(request, Fork)
            send(sock, Forked(_fork(request, fds[0], (sock.fileno(), wake_read, wake_write))))


COMPILED_BYTES = 2 << 30
"""What is kept of compiled programs when a search begins; the oldest go first."""


def _share_compiled(folder: str | None) -> str | None:
    """On JAX, have workers keep what they compile in `folder`, or in one of this process's own, which is returned.

    A promoted trial's model is built in another process, or anew, and an equal one in another search. Nothing is done
    where the user has a folder of their own for that.
    """
    import jax

    if jax.config.jax_compilation_cache_dir:
        return None
    temporary = None if folder else tempfile.mkdtemp(prefix="search-jax-")
    kept = Path(temporary or Path(str(folder), f"jax-{_processor()}"))
    _prune(kept)
    jax.config.update("jax_compilation_cache_dir", str(kept))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return temporary


def _prune(folder: Path) -> None:
    """Delete the oldest files of a folder that holds too much. (JAX can do so, but looks at all of them each time.)"""
    files = [(file.stat(), file) for file in folder.glob("*")]
    size = sum(stat.st_size for stat, _ in files)
    for stat, file in sorted(files, key=lambda item: item[0].st_mtime):
        if size <= COMPILED_BYTES:
            return
        file.unlink(missing_ok=True)
        size -= stat.st_size


def _processor() -> str:
    """A name for processors of one kind: what is compiled for one may crash another that mounts the same folder."""
    kind = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(kind.encode()).hexdigest()[:12]


def _fork(request: Fork, fd: int, ours: tuple[int, ...]) -> int:
    pid = os.fork()
    if pid:
        os.close(fd)
        _children.add(pid)
        with suppress(OSError):
            os.setpgid(pid, pid)  # here as well: whoever knows of the process may end its group at once
        return pid
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in ours:
            os.close(descriptor)
        from search.worker.process import serve

        serve(Connection(fd), request.slot, request.log)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _reap() -> Iterator[tuple[int, int]]:
    """The children that have ended: process id, and status as `os.waitpid` has it."""
    while _children:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        # While it is not waited for, nobody else can have its number. What it has made ends with it, and lets go of
        # the pipe to the driver, who learns of its end that way.
        _kill_group(ended.si_pid)
        _children.discard(ended.si_pid)
        yield os.waitpid(ended.si_pid, 0)


def _end_children() -> None:
    """Wait for the children, which notice that the driver is gone; end those that do not: their threads may be kept
    from running by native code."""
    deadline = time.monotonic() + LAST_SECONDS
    while _children and time.monotonic() < deadline:
        for _ in _reap():
            pass
        time.sleep(0.02)
    for pid in _children:
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
