"""A worker's connection to its driver: a pipe between two processes, or plain calls within one."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn, Protocol

from search.messages import (
    Command,
    Evaluate,
    FileReply,
    FileRequest,
    Heartbeat,
    Interrupt,
    Message,
    Probe,
    Segment,
    Shutdown,
)
from search.storage.scratch import remove_scratch
from search.worker.own_process import end_if_forked
from search.worker.running_seconds import running_seconds

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two signs of life of a worker."""


class Interrupted(BaseException):
    """The end of a segment that the driver interrupted while the worker waited for an answer. No user's error."""


class Channel(Protocol):
    """The worker's end of the connection."""

    def send(self, message: Message) -> None:
        """Send a message to the driver."""

    def receive(self) -> Command:
        """Wait for the driver's next command and return it.

        An `Interrupt` is not returned: it sets `interrupted`.

        Raises:
            Interrupted: if an interrupt comes while waiting.
        """

    def ask(self, request: FileRequest) -> FileReply:
        """Send the driver a request for files, and wait for the reply. An interrupt does not end the wait."""

    def interrupted(self) -> bool:
        """Return whether the driver wants the segment to end. The next segment starts uninterrupted."""


class PipeChannel:
    """A channel through a pipe.

    A thread reads the pipe, so that an interrupt or the driver's death is noticed at once. A worker whose driver is
    gone ends immediately, together with the processes that it started, and so frees its GPU.

    Through the pipe go pairs: the `id` of the work, and a command or a message. Forks of this process lose the pipe.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[tuple[int, Command]] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[tuple[int, FileReply]] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._work = 0
        self._sending = threading.Lock()
        os.register_at_fork(after_in_child=connection.close)
        threading.Thread(target=self._read, name="search-channel", daemon=True).start()

    def _read(self) -> None:
        running_seconds.watched = True
        due = time.monotonic()
        reading = 0
        while True:
            running_seconds()
            if (now := time.monotonic()) >= due:
                self.send(Heartbeat())
                due = now + HEARTBEAT_INTERVAL
            try:
                if not self._connection.poll(due - now if due > now else HEARTBEAT_INTERVAL):
                    continue
                work, command = self._connection.recv()
            except (EOFError, OSError):
                _end()
            if isinstance(command, FileReply):
                self._replies.put((work, command))
                continue
            if isinstance(command, Segment):
                reading = work
                self._interrupted.clear()
            elif isinstance(command, Interrupt) and work == reading:
                self._interrupted.set()
            self._inbox.put((work, command))

    def send(self, message: Message) -> None:
        end_if_forked()  # before the lock, which another thread may have held at the fork
        try:
            with self._sending:
                self._connection.send((self._work, message))
        except OSError:
            _end()

    def receive(self) -> Command:
        while True:
            work, command = self._inbox.get()
            if work != self._work:
                continue  # for an earlier piece of work
            if isinstance(command, Interrupt):
                raise Interrupted
            return command

    def ask(self, request: FileRequest) -> FileReply:
        self.send(request)
        while True:
            work, reply = self._replies.get()
            if work == self._work:
                return reply

    def receive_work(self) -> Command:
        """Wait for the next piece of work and return it. Commands for the previous segment are dropped."""
        while True:
            work, command = self._inbox.get()
            if isinstance(command, (Probe, Evaluate, Segment, Shutdown)):
                self._work = work
                return command

    def interrupted(self) -> bool:
        return self._interrupted.is_set()


def _end() -> NoReturn:
    """End this process and the processes that it started, such as data loaders."""
    remove_scratch()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class DirectChannel:
    """A channel within one process: the driver handles a message, and answers it, before `send` returns."""

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self._handle = handle
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[FileReply] = queue.SimpleQueue()
        self._interrupted = False

    def put(self, command: Command) -> None:
        """Send a command to the worker (called by the driver)."""
        if isinstance(command, Interrupt):
            self._interrupted = True
        elif isinstance(command, FileReply):
            self._replies.put(command)
        else:
            self._inbox.put(command)

    def begin(self) -> None:
        """Drop the commands for the previous segment, as a new one begins (called by the driver)."""
        self._interrupted = False
        self._inbox = queue.SimpleQueue()

    def send(self, message: Message) -> None:
        end_if_forked()
        self._handle(message)

    def ask(self, request: FileRequest) -> FileReply:
        end_if_forked()
        self._handle(request)
        return self._replies.get_nowait()

    def receive(self) -> Command:
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            if self._interrupted:
                raise Interrupted from None
            return Shutdown()

    def interrupted(self) -> bool:
        return self._interrupted
