"""The `inline` executor: one slot in this process and thread, so that a debugger can step into the user's code."""

from __future__ import annotations

import os

from search.executors.base import ExecutorSetup, Handle, tell_user
from search.messages import Answer, Evaluate, Interrupt, Message, Probe, Probed, ProbeFailed, Segment, Verdict


class InlineExecutor:
    """Runs a whole segment or final evaluation within one call of `poll`."""

    protocol = 1
    in_process = True
    slots = 1

    @classmethod
    def from_setup(cls, setup: ExecutorSetup) -> InlineExecutor:
        """Return the executor of a search; this process imports the framework here."""
        from search.worker.process import quietly

        if setup.keras_backend is not None:
            os.environ["KERAS_BACKEND"] = setup.keras_backend
        with quietly(setup.log):
            import search.worker.probe  # noqa: F401
        return cls()

    def __init__(self) -> None:
        from search.worker.channel import DirectChannel
        from search.worker.segment import clear_caches

        # An earlier search in this process may have loaded files that have changed since.
        clear_caches()
        self._work: Segment | Evaluate | None = None
        self._handle: Handle | None = None
        self._channel = DirectChannel(self._deliver)

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        from search.worker.probe import run_probe

        return run_probe(probe, tell_user)

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        assert self._work is None, "the slot is busy"
        self._work = work
        self._channel.begin()

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        self._channel.put(command)

    def kill(self, slot: int, reason: str) -> None:
        pass

    def poll(self, handle: Handle, timeout: float) -> None:
        from search.worker.evaluate_best import run_evaluation
        from search.worker.segment import run_segment

        work, self._work = self._work, None
        if work is None:
            return
        self._handle = handle
        if isinstance(work, Evaluate):
            self._deliver(run_evaluation(work))
        else:
            run_segment(work, self._channel)

    def close(self, *, now: bool = False) -> None:
        from search.worker.segment import clear_caches

        self._work = None
        clear_caches()  # the process goes on without them

    def _deliver(self, message: Message) -> None:
        assert self._handle is not None
        self._handle(0, message)
