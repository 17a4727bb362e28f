"""How a worker talks to its driver: through a pipe where it is a process of its own, by plain calls where it is not."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from search.messages import Command, Harvest, Interrupt, Leave, Message, Probe, Segment


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
    a worker whose driver is gone ends, wherever it is, and leaves the GPU to others.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Command | Interrupt] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        threading.Thread(target=self._read, name="search-channel", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                command = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if isinstance(command, Interrupt):
                self._interrupted.set()
            elif isinstance(command, Segment):
                self._interrupted.clear()
            self._inbox.put(command)

    def send(self, message: Message) -> None:
        self._connection.send(message)

    def receive(self) -> Command:
        command = self._inbox.get()
        if isinstance(command, Interrupt):
            raise Interrupted
        return command

    def idle(self) -> Command:
        """The next command for a worker that has nothing to do; what was meant for the last segment is dropped."""
        while True:
            command = self._inbox.get()
            if isinstance(command, (Probe, Harvest, Segment, Leave)):
                return command

    def interrupted(self) -> bool:
        return self._interrupted.is_set()


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
            return Leave()

    def interrupted(self) -> bool:
        return self._interrupted
