"""The entries of a journal for the syncer: from the driver while the search runs, from the file otherwise."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from search.study import journal
from search.study.journal import Entry

CAPACITY = 20_000
"""Entries that wait in memory, at most. More are read from the file again."""


class JournalFeed:
    """Every entry of a growing journal, in order, each once.

    Entries that `put` gets wait in a queue. The file is read if the queue may lack an entry: at first, and after the
    queue was full. `put` may be called from another thread than the other methods.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._is_fed = False
        self._is_incomplete = True
        self._reads_file = True

    def open(self) -> None:
        """Begin to queue: `put` gets every entry that is journaled from now on."""
        self._is_fed = True

    def close(self) -> None:
        """Drop the queue: nobody takes entries any more."""
        with self._lock:
            self._is_fed = False
            self._queue.clear()

    def put(self, entries: Sequence[Entry]) -> None:
        """Queue entries that have just been journaled."""
        with self._lock:
            if not self._is_fed:
                return
            self._queue.extend(entries)
            if len(self._queue) > CAPACITY:
                self._queue.clear()
                self._is_incomplete = True

    def next(self, offset: int, limit: int) -> tuple[list[Entry], bool]:
        """Return the entries after byte `offset`, at most `limit`, and whether there may be more.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._lock:
            if self._is_incomplete:
                # Entries that were dropped are in the file by now, and later ones will be queued.
                self._is_incomplete, self._reads_file = False, True
            if not self._reads_file:
                count = min(limit, len(self._queue))
                queued = [self._queue.popleft() for _ in range(count)]
                # The file may have been read beyond them.
                return [entry for entry in queued if entry.end > offset], bool(self._queue)
        entries = list(islice(journal.read(self._path, offset), limit))
        has_more = len(entries) == limit
        self._reads_file = has_more or not self._is_fed
        return entries, has_more
