"""The first build of a hypermodel, which shows the search space before there is a trial.

A build starts the framework's runtime, and a process with that cannot be forked any more. So it is made in a fork, if
this process can be forked: then the search can still fork its workers from here.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from search.executors.fork_safety import process_facts, why_unsafe

__all__ = ["in_a_fork"]


def in_a_fork(make: Callable[[], Any]) -> Any:
    """Return the result of `make`, called in a fork of this process; None if that fails, or there can be no fork.

    Args:
        make: its result is pickled.
    """
    if why_unsafe(process_facts()) is not None:
        return None
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are known to be harmless
        process = context.Process(target=_send, args=(make, theirs), daemon=True)
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None  # it raised an exception, or died
    finally:
        process.join()
        ours.close()


def _send(make: Callable[[], Any], connection: Connection) -> None:
    try:
        connection.send(make())
    except BaseException:
        connection.close()  # the caller makes it again, and meets the exception
