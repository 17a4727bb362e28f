"""The way of requests to the driver of a search, and of replies back: files in the study's folder `requests`.

The driver may run on another machine, and the folder may lie on a network's file system. So each step is one rename,
which a file system carries out wholly or not at all:

    <id>.json    asked: the client has written it under another name before
    <id>.taken   the driver has claimed it, and will carry it out and reply
    <id>.reply   the driver has replied
    <id>.gone    the client has withdrawn it, before the driver claimed it

Client and driver rename the same `<id>.json`, and one of the two succeeds. So a request that was withdrawn never takes
effect, and a client that cannot withdraw its request knows that it was claimed. If the driver dies before it replies,
the journal tells the truth: the record of a request has its id.

The driver makes the folder when it begins. Requests that it finds there are those of an earlier process: they are never
carried out.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from search.study.requests import Action, Reply, Request, decode_reply, decode_request, encode_reply, encode_request

__all__ = ["POLL_SECONDS", "Received", "RequestFolder", "SentRequest"]

POLL_SECONDS = 0.2
"""The least time between two looks of the driver at the folder."""

MAX_BYTES = 1 << 20
"""The largest request that is read."""

_ASKED = re.compile(r"(\d{20}-[0-9a-f]{8})\.json")


class Received(NamedTuple):
    """A file that the driver has claimed: the request in it, or the error of a file without a request."""

    id: str
    request: Request | None
    error: str = ""


class RequestFolder:
    """The driver's side.

    Args:
        folder: the study's folder of requests. The study's lock must be held.
        now: the clock, in seconds.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._now = now
        self._looked_at = -POLL_SECONDS
        self._ignored: set[str] = set()
        """Names of files that are never claimed: those of earlier processes, and those that cannot be renamed."""

    def open(self) -> None:
        """Make the folder, and delete the requests of earlier processes. Without a folder, nobody can ask."""
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            for path in self._folder.iterdir():
                try:
                    path.unlink()
                except OSError:
                    self._ignored.add(path.name)

    def take(self) -> list[Received]:
        """Claim the requests that wait, the oldest first, if a look is due. Cheap otherwise."""
        now = self._now()
        if 0 <= now - self._looked_at < POLL_SECONDS:
            return []
        self._looked_at = now
        return self._claim_all()

    def reply(self, id: str, reply: Reply) -> None:
        """Write the reply to a claimed request. If that fails, the client looks into the journal."""
        with suppress(OSError):
            _write(self._folder / f"{id}.reply", encode_reply(reply))
        with suppress(OSError):
            self._path(id, "taken").unlink()

    def close(self, reply: Reply) -> None:
        """Reply to all requests that wait still: the search has ended."""
        for received in self._claim_all():
            self.reply(received.id, reply)

    def _claim_all(self) -> list[Received]:
        try:
            with os.scandir(self._folder) as entries:  # five times as fast as a list of paths
                names = sorted(entry.name for entry in entries)
        except OSError:
            return []
        found = []
        for name in names:
            match = _ASKED.fullmatch(name)
            if match is not None and name not in self._ignored and self._claim(name, match[1]):
                found.append(self._read(match[1]))
        return found

    def _claim(self, name: str, id: str) -> bool:
        """Return whether the request is ours: it is not if the client has withdrawn it."""
        try:
            (self._folder / name).rename(self._path(id, "taken"))
        except FileNotFoundError:
            return False
        except OSError:
            self._ignored.add(name)
            return False
        return True

    def _read(self, id: str) -> Received:
        try:
            with self._path(id, "taken").open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError("it is too large")
            return Received(id, decode_request(content.decode(), id))
        except OSError as error:
            return Received(id, None, f"the request cannot be read ({error.strerror})")
        except ValueError as error:
            return Received(id, None, f"the request cannot be used: {error}")

    def _path(self, id: str, form: str) -> Path:
        return self._folder / f"{id}.{form}"


class SentRequest:
    """The client's side: one request, which is sent by the constructor.

    Args:
        folder: the study's folder of requests.
        study: the study's uid.
        action: the user's wish.

    Attributes:
        id: its id.

    Raises:
        OSError: the request cannot be written. There is no folder if no search of this version runs.
    """

    def __init__(self, folder: Path, study: str, action: Action) -> None:
        # Requests are carried out in the order of their ids.
        self._reply: Reply | None = None
        self.id = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._folder = folder
        _write(folder / f"{self.id}.json", encode_request(Request(self.id, study, action)))

    @property
    def is_claimed(self) -> bool:
        """True if the driver has claimed the request, and has not replied."""
        return self._path("taken").exists()

    def reply(self) -> Reply | None:
        """Return the driver's reply, whose file is deleted once it is read; None while there is none."""
        path = self._path("reply")
        if self._reply is None:
            with suppress(OSError, ValueError):
                self._reply = decode_reply(path.read_text())
                path.unlink()
        return self._reply

    def withdraw(self) -> bool:
        """Return whether the request could be withdrawn: then it never takes effect."""
        try:
            self._path("json").rename(self._path("gone"))
        except OSError:
            return False
        with suppress(OSError):
            self._path("gone").unlink()
        return True

    def _path(self, form: str) -> Path:
        return self._folder / f"{self.id}.{form}"


def _write(path: Path, text: str) -> None:
    """Write a file as a whole: nobody sees a part of it."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text)
        part.rename(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
