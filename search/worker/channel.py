"""How a worker talks to its driver: through a pipe where it is a process of its own, by plain calls where it is not."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn, Protocol

from search.messages import Command, Evaluate, Heartbeat, Interrupt, Message, Probe, Segment, Shutdown

ALIVE_SECONDS = 1.0
"""How often a worker gives a sign of life."""


class Interrupted(BaseException):
    """The driver wants the segment to end, and the worker was waiting for an answer. Not an error of the user's."""


class Channel(Protocol):
    """One worker's end of the conversation."""

    def send(self, message: Message) -> None:
        """Say something to the driver."""

    def receive(self) -> Command:
        """The driver's next word, waiting for it. An `Interrupt` is no word: it only sets `interrupted`.

        Raises:
            Interrupted: an interrupt comes while waiting.
        """

    def interrupted(self) -> bool:
        """Whether the driver wants the segment to end. An interrupt ends with the segment that it was meant for."""


class PipeChannel:
    """A channel through a pipe. A thread reads it, so that an interrupt, or the driver's death, is noticed at once:
    a worker whose driver is gone ends, wherever it is, with the processes that it made, and leaves the GPU to others.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Command | Interrupt] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, name="search-channel", daemon=True).start()

    def _read(self) -> None:
        due = time.monotonic()
        while True:
            if (now := time.monotonic()) >= due:
                self.send(Heartbeat())
                due = now + ALIVE_SECONDS
            try:
                if not self._connection.poll(due - now if due > now else ALIVE_SECONDS):
                    continue
                command = self._connection.recv()
            except (EOFError, OSError):
                _end()
            if isinstance(command, Interrupt):
                self._interrupted.set()
            elif isinstance(command, Segment):
                self._interrupted.clear()
            self._inbox.put(command)

    def send(self, message: Message) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            _end()

    def receive(self) -> Command:
        command = self._inbox.get()
        if isinstance(command, Interrupt):
            raise Interrupted
        return command

    def idle(self) -> Command:
        """The next command for a worker that has nothing to do; what was meant for the last segment is dropped."""
        while True:
            command = self._inbox.get()
            if isinstance(command, (Probe, Evaluate, Segment, Shutdown)):
                return command

    def interrupted(self) -> bool:
        return self._interrupted.is_set()


def _end() -> NoReturn:
    """End this process, and those that it has made: loaders of data, say."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class DirectChannel:
    """A channel within one process: what the worker says is handled before `send` returns, answers included."""

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self._handle = handle
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._interrupted = False

    def put(self, command: Command) -> None:
        """The driver's side: say something to the worker."""
        if isinstance(command, Interrupt):
            self._interrupted = True
        else:
            self._inbox.put(command)

    def begin(self) -> None:
        """The driver's side: a new segment begins; what was meant for the last one is dropped."""
        self._interrupted = False
        self._inbox = queue.SimpleQueue()

    def send(self, message: Message) -> None:
        self._handle(message)

    def receive(self) -> Command:
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            if self._interrupted:
                raise Interrupted from None
            return Shutdown()

    def interrupted(self) -> bool:
        return self._interrupted
