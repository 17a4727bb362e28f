"""New Python processes within milliseconds: forks of a template process that has imported what they need.

Importing the framework takes five seconds, and MLflow two. A fork is a process of its own in all other respects: it has
its own environment, working folder, output and exit code, it runs the code that `python -c` would, and it may be killed
at any time.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import NoReturn

from search.worker.zygote import receive, send

PREPARED = {
    # All that a driver imports, and the tables of a fresh MLflow database.
    "driver": """
from search.tracking.mlflow import database, store
store.configure_mlflow()
database.warm_up()
database.make_fresh_database()
import mlflow, optuna, search.backends.optuna, search.cli, search.driver.launch, search.executors.local
""",
    # All that a process needs to send a study to MLflow.
    "mlflow": """
from search.tracking.mlflow import database, store
store.configure_mlflow()
database.warm_up()
import mlflow.store.model_registry.sqlalchemy_store
""",
    # All that trains in the process itself.
    "worker": """
import os, pathlib
from search.worker.process import quietly
with quietly(pathlib.Path(os.devnull)):
    import renames
    import search.worker.segment, search.worker.runners.tensorflow.epochs
""",
    # All that a zygote imports. It starts no runtime of the framework: a fork of such a process hangs.
    "keras": """
import os, pathlib
from search.worker.process import quietly
with quietly(pathlib.Path(os.devnull)):
    import keras
    import search.worker.runners.tensorflow.graph_files
""",
}
"""The code that templates run before they fork, by their names."""


@dataclass(frozen=True, slots=True)
class Request:
    """The request to run `code` in a fork.

    Attributes:
        numbers: the file descriptors that the fork gets, by their numbers in the process that asks.
    """

    code: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    numbers: tuple[int, ...]


# In the process that asks ---------------------------------------------------------------------------------------------


class Templates:
    """The template processes, by their names in `PREPARED`. Each is started when it is first needed."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="forks-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        """Return the address of a template, with which any process can `start` a fork of it."""
        address = str(Path(self._folder, name))
        if name not in self._processes:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(64)  # requests wait until the template has imported everything
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-c", f"import forks; forks.serve({listener.fileno()}, {name!r})"],
                    pass_fds=[listener.fileno()],
                    stdin=subprocess.PIPE,  # at its end of file the template ends
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
                )
        return address

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def close(self) -> None:
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes.values():
            process.wait()
        shutil.rmtree(self._folder)


class Process:
    """A fork, with the methods of `subprocess.Popen` that its user needs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        pid, _ = receive(connection)
        assert isinstance(pid, int)
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                status, _ = receive(self._connection)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0) from None
            assert isinstance(status, int)
            self.returncode = os.waitstatus_to_exitcode(status)
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start(
    address: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path = ".",
    output: int = 2,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
) -> Process:
    """Run a command in a fork of the template at `address`.

    Args:
        command: as for `subprocess.Popen`: `python … -c CODE ARGUMENT …`.
        env: its environment; by default that of this process.
        output: the file descriptor for its output and its errors.
        pass_fds: as for `subprocess.Popen`.
        stdin: as for `subprocess.Popen`; nothing else than DEVNULL is possible.
    """
    assert stdin == subprocess.DEVNULL
    code, *arguments = command[command.index("-c") + 1 :]
    environment = dict(os.environ if env is None else env)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = Request(code, tuple(arguments), environment, str(Path(cwd).absolute()), tuple(pass_fds))
    send(connection, request, (output, *pass_fds))
    return Process(connection)


# In the template ------------------------------------------------------------------------------------------------------


def serve(fd: int, name: str) -> NoReturn:
    """Fork on request until standard input ends, and run in each fork what its request says.

    Args:
        fd: the file descriptor of the socket that requests connect to.
        name: the template's name.
    """
    exec(PREPARED[name], {})
    listener = socket.socket(fileno=fd)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([0, listener, wake_read], [], [])
        if 0 in readable:
            os._exit(0)
        if wake_read in readable:
            os.read(wake_read, 4096)
            _report_ended(children)
        if listener in readable:
            connection, _ = listener.accept()
            request, fds = receive(connection)
            assert isinstance(request, Request)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (listener, connection, *children.values()):
                    other.close()
                os.close(wake_read)
                os.close(wake_write)
                _run(_become(request, fds))
            for number in fds:
                os.close(number)
            children[pid] = connection
            with suppress(OSError):  # the process that asked is gone
                send(connection, pid)


def _report_ended(children: dict[int, socket.socket]) -> None:
    """Report the exit status of each child that has ended to the process that asked for it."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as connection, suppress(OSError):
            send(connection, status)


def _become(request: Request, fds: Sequence[int]) -> CodeType:
    """Make this fork what the request says, and return the code to run."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    output, *passed = fds
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    for number, wanted in zip(passed, request.numbers, strict=True):
        if number != wanted:
            assert not Path(f"/proc/self/fd/{wanted}").exists(), f"file descriptor {wanted} is in use"
            os.dup2(number, wanted)
            os.close(number)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.argv[1:] = request.arguments
    return compile(request.code, "<string>", "exec")


def _run(code: CodeType) -> NoReturn:
    """Run `code`, and end this process as the interpreter would, but do not free its memory, which takes a second."""
    exit_code = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    threading._shutdown()  # joins threads; those of a pool end only if they are told to, which it does first
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
