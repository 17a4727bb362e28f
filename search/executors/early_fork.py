"""A fork of a script's process, made before the script does anything, from which later searches get their workers.

A script may start TensorFlow's runtime before its search: it builds a model to look at it, or has trained one. From
then on no fork of it works (`fork_safety.py`), and a new Python imports the framework again, for seconds. The early
fork has imported it, too, and waits. It shares its memory with the script. When a search needs it, it becomes the
zygote of all later searches of the script. Without a search it ends with the script.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.executors import import_internals
from search.executors.fork_safety import process_facts, why_different, why_unsafe
from search.executors.forked_process import ForkedProcess
from search.executors.pipes import close_in_forks
from search.worker import zygote
from search.worker.surroundings import Surroundings

__all__ = ["EarlyFork", "find_early_fork", "fork_early"]

_made: EarlyFork | None = None


@dataclass(frozen=True, slots=True)
class _Begin:
    """The message by which the early fork becomes a zygote."""

    log: str
    compiled: str | None
    surroundings: Surroundings


class EarlyFork:
    """The fork, as its parent sees it.

    Args:
        keras_backend: the back end of Keras, which is imported.
        importing: as for `fork_early`.

    Attributes:
        process: the fork.
        socket: our end of the socket to it, which becomes the zygote's.
    """

    def __init__(self, keras_backend: str, importing: str | None) -> None:
        self.socket, theirs = socket.socketpair()
        close_in_forks(self.socket)
        atexit.register(self.socket.close)  # Python warns of an open one
        self._keras_backend = keras_backend
        self._environment = dict(os.environ)
        self._parent = os.getpid()
        wait = partial(_wait, theirs.fileno(), importing)
        self.process = ForkedProcess(wait, theirs.fileno(), files=False, private=Path(os.devnull))
        theirs.close()

    def serves(self, keras_backend: str | None) -> bool:
        """Return whether a search of this process can have workers of it.

        Args:
            keras_backend: the back end that the search asks for; None for Keras's own choice.
        """
        fits = keras_backend in (None, self._keras_backend)
        return fits and self._parent == os.getpid() and self.process.poll() is None

    def surroundings(self) -> Surroundings:
        """Return those of the script now."""
        return Surroundings.since(self._environment)

    def begin(self, log: Path, compiled: Path | None) -> None:
        """Let the fork become a zygote. The arguments are those of `Zygote`."""
        compiled_ = None if compiled is None else str(compiled)
        with suppress(OSError):  # it has died: its user sees that by the process
            zygote.send(self.socket, _Begin(str(log), compiled_, self.surroundings()))


def fork_early(importing: str | None = None) -> None:
    """Fork this process for its later searches, if it runs a script and can be forked safely. It is done once.

    Args:
        importing: the name of the module that calls this as the last act of its import, directly from the script; None
            if no import is under way.
    """
    global _made
    if _made is not None or not _runs_script(importing):
        return
    facts = process_facts()
    if facts.keras_backend is not None and why_unsafe(facts) is None and why_different(facts) is None:
        with suppress(OSError):  # the machine may lack memory, or allow no more processes
            _made = EarlyFork(facts.keras_backend, importing)


def find_early_fork(keras_backend: str | None) -> EarlyFork | None:
    """Return this process's early fork if it has one that serves a search with `keras_backend`."""
    return _made if _made is not None and _made.serves(keras_backend) else None


def _runs_script(importing: str | None) -> bool:
    """Return whether this process runs a script, and imports nothing but `importing`.

    In a fork an import would stay half done, so that nothing could use the module. Our own programs call `fork_early`
    when all is ready.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if importing is not None and spec is not None and spec.name.startswith("search."):
        return False
    expected = set() if importing is None else {importing}
    return (
        hasattr(main, "__file__")
        and multiprocessing.parent_process() is None
        and import_internals.find_half_imported() == expected
    )


def _wait(file: int, importing: str | None) -> None:
    """Be the fork: wait for the message to begin, or for the script's end."""
    if importing is not None:
        import_internals.end_import(importing)
    sock = socket.socket(fileno=file)
    try:
        begin, _ = zygote.receive(sock)
    except (EOFError, OSError):
        os._exit(0)
    assert isinstance(begin, _Begin)
    begin.surroundings.apply()
    os.environ.setdefault("PYTHONHASHSEED", "0")  # as in a new Python that is a zygote
    zygote.run_zygote(sock.detach(), begin.log, begin.compiled)
