"""The `inline` executor: one slot in this process and thread, so that a debugger can step into the user's code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from search.executors.base import ExecutorSetup, Handle, tell_user
from search.executors.waiting import show_stage, waiting_for
from search.messages import (
    Evaluate,
    Message,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    StoppedAtOnce,
    WorkCommand,
)
from search.study.versions import framework_name


class InlineExecutor:
    """Runs a whole segment or final evaluation within one call of `poll`.

    The process may be a script's, which goes on after the search with its own random states.
    """

    protocol = 2
    in_process = True
    slots = 1

    @classmethod
    def from_setup(cls, setup: ExecutorSetup) -> InlineExecutor:
        """Return the executor of a search; this process imports the framework here."""
        from search.worker.process import quietly

        if setup.keras_backend is not None:
            os.environ["KERAS_BACKEND"] = setup.keras_backend
        imported = "keras" in sys.modules
        name = framework_name(setup.keras_backend)
        with ExitStack() as stack:
            if not imported:
                stack.enter_context(waiting_for(f"importing {name}", soon=True))
                stack.enter_context(quietly(setup.log))
            import search.worker.probe  # noqa: F401
        return cls()

    def __init__(self) -> None:
        from search.worker.channel import DirectChannel
        from search.worker.keras_session import keep_random_states
        from search.worker.own_process import claim_process
        from search.worker.segment import clear_caches

        # An earlier search in this process may have loaded files that have changed since.
        clear_caches()
        claim_process()
        self._restore = keep_random_states()
        self._work: Segment | Evaluate | None = None
        self._id = 0
        self._handle: Handle | None = None
        self._channel = DirectChannel(self._deliver)

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        from search.worker.probe import run_probe

        with _ctrl_c_told_apart():
            return run_probe(probe, tell_user, show_stage)

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        assert self._work is None, "the slot is busy"
        self._work = work
        self._id = work.id
        self._channel.begin()

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        if work == self._id:
            self._channel.put(command)

    def kill(self, slot: int, work: int, reason: str) -> None:
        pass

    def poll(self, handle: Handle, timeout: float) -> None:
        from search.worker.evaluate_best import run_evaluation
        from search.worker.segment import run_segment

        work, self._work = self._work, None
        if work is None:
            time.sleep(timeout)  # the back end may wait for a computation
            return
        self._handle = handle
        if isinstance(work, Evaluate):
            self._deliver(run_evaluation(work, self._channel))
        else:
            run_segment(work, self._channel)

    def close(self, *, now: bool = False) -> None:
        from search.storage.scratch import remove_scratch
        from search.worker.segment import clear_caches

        self._work = None
        clear_caches()  # the process goes on without them
        remove_scratch()
        self._restore()

    def _deliver(self, message: Message) -> None:
        assert self._handle is not None
        self._handle(0, self._id, message)


@contextmanager
def _ctrl_c_told_apart() -> Iterator[None]:
    """Let Ctrl-C raise another exception than the KeyboardInterrupt of the user's code. The driver does so later."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedAtOnce

    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
