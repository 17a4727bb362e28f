"""Followers: the parts that are told of every record. None can delay or change a search."""

from __future__ import annotations

import json
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from search.study.journal import Entry
from search.study.record_json import decode, encode

__all__ = ["Follower", "FollowerSetup", "FollowerThread"]

CAPACITY = 50_000
"""Entries that wait for a follower, at most. One that is so far behind gets no more."""

_FLUSHED: Sequence[Entry] = ()
"""Stands in the queue for the news that the disk has all entries before it."""


class Follower(Protocol):
    """A part that is told of every record.

    A follower of another package is a class whose constructor takes a `FollowerSetup` first, and then the arguments of
    `--follow name:key=value,…` by name. It lives in a thread of its own, the constructor included, so it may be slow.
    It may have a method `close()`, called at the end of the search. An exception ends the follower, and never the
    search. `search.testing.FollowerContract` tests a follower.

    Attributes:
        protocol: the version of this protocol that the class was written for; 1 today.

    Example:
        Tell the user of each trial that ends, such as by `--follow my_package:Tell`::

            from search.plugins import records

            class Tell:
                protocol = 1

                def __init__(self, setup):
                    self._say = setup.say

                def take(self, entries):
                    for entry in entries:
                        if isinstance(entry.record, records.TrialEnded):
                            self._say(f"trial {entry.record.trial}: {entry.record.state}")

                def flushed(self):
                    pass
    """

    protocol: int

    def take(self, entries: Sequence[Entry]) -> None:
        """Take in entries that were just journaled and applied to the study.

        A follower that the driver calls itself (one of ours) must be quick, and must not raise.

        Args:
            entries: each with its `record`, and its `time` in seconds since the epoch.
        """

    def flushed(self) -> None:
        """Act on the entries taken in so far, which the disk has now: no power failure can take them back."""


@dataclass(frozen=True, slots=True)
class FollowerSetup:
    """The circumstances of a search, for a follower of it.

    Attributes:
        study: the study's name.
        folder: the study's folder. A follower may write into a folder or file of its own there.
        entries: the journal of the study's earlier processes; empty for a new study. Later entries come by `take`.
        say: shows the user one line that stays.

    Example:
        A setup for a test of a follower::

            >>> from pathlib import Path
            >>> from search.plugins import FollowerSetup
            >>> FollowerSetup("digits", Path("runs/digits"), entries=(), say=print).study
            'digits'
    """

    study: str
    folder: Path
    entries: Sequence[Entry]
    say: Callable[[str], None]


class FollowerThread:
    """A follower in a thread of its own.

    Args:
        name: of the follower, for messages.
        make: makes the follower, in the thread.
        setup: its setup.
        copies: give the follower copies of records, so that it cannot change those of the study.
        report: shows the user a line; its second argument is a traceback, or "".
    """

    protocol = 1

    def __init__(
        self,
        name: str,
        make: Callable[[FollowerSetup], Follower],
        setup: FollowerSetup,
        *,
        copies: bool,
        report: Callable[[str, str], None],
    ) -> None:
        self._name = name
        self._make = make
        self._setup = setup
        self._copies = copies
        self._report = report
        self._queue: deque[Sequence[Entry]] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"follower {name}", daemon=True)

    def start(self) -> None:
        """Make the follower, in its thread."""
        self._thread.start()

    def take(self, entries: Sequence[Entry]) -> None:
        """Queue entries for the thread. Return at once."""
        self._put(entries)

    def flushed(self) -> None:
        """Queue the news that the disk has the entries so far. Return at once."""
        self._put(_FLUSHED)

    def end(self) -> None:
        """Let the thread end when the follower has taken in what is queued. Return at once."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Let the follower take in what is queued, and end its thread. Wait `seconds` at most."""
        self.end()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._drop("did not end in time, and may lack the last records")

    def _put(self, item: Sequence[Entry]) -> None:
        with self._changed:
            if self._ended or (item is _FLUSHED and self._queue and self._queue[-1] is _FLUSHED):
                return
            self._queue.append(item)
            self._waiting += len(item)
            is_full = self._waiting > CAPACITY
            self._changed.notify()
        if is_full:
            self._drop(
                f"hangs, or is too slow: {CAPACITY} records wait for it, and it gets no more; the search goes on"
            )

    def _drop(self, why: str, details: str = "") -> None:
        """Give the follower no more entries, and tell the user once."""
        with self._changed:
            was_ended, self._ended = self._ended, True
            self._queue.clear()
        if not was_ended:
            self._report(f"follower {self._name} {why}", details)

    # In the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # a `sys.exit` of the follower, too: it ends only this thread
            what = f"{type(error).__name__}: {error}"
            self._drop(f"failed ({what}), and gets no more records; the search goes on", traceback.format_exc())

    def _follow(self) -> None:
        setup = self._setup
        follower = self._make(replace(setup, entries=self._own(setup.entries)))
        while (item := self._next()) is not None:
            if item is _FLUSHED:
                follower.flushed()
            else:
                follower.take(self._own(item))
        if not self._ended and hasattr(follower, "close"):
            follower.close()

    def _next(self) -> Sequence[Entry] | None:
        """Wait for the next item, and return it. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing or self._ended)
            if self._ended or not self._queue:
                return None
            item = self._queue.popleft()
            self._waiting -= len(item)
            return item

    def _own(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return `entries`, as copies if the follower gets copies: those that a reader of the journal would have."""
        if not self._copies:
            return list(entries)
        return [entry._replace(record=decode(json.loads(json.dumps(encode(entry.record))))) for entry in entries]
