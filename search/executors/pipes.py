"""The driver's end of the pipe to a worker."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import weakref
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["WorkerPipe", "close_in_forks"]

CHUNK_BYTES = 1 << 20

_LENGTH = struct.Struct("!i")
_LONG_LENGTH = struct.Struct("!Q")
_LONGEST = 0x7FFFFFFF


class WorkerPipe:
    """A pipe for messages that never waits.

    A worker may be stopped in the middle of a message, or read none. Then the other workers go on.

    The worker's end is a `multiprocessing.connection.Connection`, and the bytes are as that class has them.

    Attributes:
        ended: the worker's side is closed, and all its messages are read.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        close_in_forks(sock)
        self._socket = sock
        self._came = bytearray()
        self._waiting = bytearray()
        self.ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_full(self) -> bool:
        """True if there are bytes that the worker has yet to make room for."""
        return bool(self._waiting)

    def send(self, value: object) -> None:
        """Send a value, now or when `flush` finds room. If the worker is gone, nothing happens."""
        data = pickle.dumps(value)
        if len(data) > _LONGEST:
            self._waiting += _LENGTH.pack(-1) + _LONG_LENGTH.pack(len(data))
        else:
            self._waiting += _LENGTH.pack(len(data))
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Write as many of the waiting bytes as there is room for."""
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting[:CHUNK_BYTES])]
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()

    def receive(self) -> Iterator[object]:
        """Yield the whole values that have come. The last bytes of a worker that has died may be part of a value."""
        while not self.ended:
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.ended = not data
            self._came += data
            while (frame := self._take_frame()) is not None:
                yield pickle.loads(frame)

    def _take_frame(self) -> bytes | None:
        """Remove the first whole value from the bytes that have come, and return its pickle."""
        came, start = self._came, _LENGTH.size
        if len(came) < start:
            return None
        (length,) = _LENGTH.unpack_from(came)
        if length == -1:
            if len(came) < start + _LONG_LENGTH.size:
                return None
            (length,) = _LONG_LENGTH.unpack_from(came, start)
            start += _LONG_LENGTH.size
        if len(came) < start + length:
            return None
        frame = bytes(came[start : start + length])
        del came[: start + length]
        return frame

    def close(self) -> None:
        self._socket.close()


_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forks(sock: socket.socket) -> None:
    """Let no fork of this process keep `sock`: workers know by its end that this process is gone."""
    _sockets.add(sock)


def _close_all() -> None:
    for sock in _sockets:
        with suppress(OSError):
            sock.close()


os.register_at_fork(after_in_child=_close_all)
