"""The clock of a search: time that passes only while the search runs.

The system's time may be set back or forward, and a machine or a process may be suspended. Neither is training, so
neither counts in a limit of time. Within a process the times of a study follow a monotonic clock. Across processes they
follow the journal: a process begins no earlier than the last record.

A monotonic clock stands still while a machine sleeps. It goes on while a process is stopped (Ctrl-Z, `docker pause`, a
cluster that suspends a job). A process that runs looks at its clock many times a second. So a long gap between two
looks, in which the process used no processor, is such a stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["RunningClock", "SearchClock", "present"]

SUSPENDED_SECONDS = 5.0
"""The longest gap between two looks of a process that runs, in seconds, if the process does not compute meanwhile."""


class RunningClock:
    """A clock of the seconds in which this process ran. Any thread may read it.

    Args:
        steady: a clock that nobody sets.
        used: the processor's time that this process has used, in seconds.

    Attributes:
        watched: the process reads the clock many times a second, so a long gap is a suspension.
    """

    def __init__(
        self, steady: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        self.watched = False
        self._steady = steady
        self._used = used
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._last, self._last_used = steady(), used()

    def __call__(self) -> float:
        """Return the seconds since the clock was made, without suspensions."""
        with self._lock:
            now, used = self._steady(), self._used()
            gap = now - self._last
            if self.watched and gap > SUSPENDED_SECONDS:
                gap = min(gap, used - self._last_used)
            self._last, self._last_used = now, used
            self._seconds += max(0.0, gap)
            return self._seconds


class SearchClock:
    """The times of a study in one process, in seconds since the epoch.

    Args:
        not_before: the time of the study's last record. The clock begins then if the system's time has been set back.
        watched: as of `RunningClock`.
        system: the system's time.
        running: the seconds in which the process ran.
    """

    def __init__(
        self,
        not_before: float = 0.0,
        *,
        watched: bool = True,
        system: Callable[[], float] = time.time,
        running: RunningClock | None = None,
    ) -> None:
        self._running = RunningClock() if running is None else running
        self._running.watched = watched
        self._begun = max(system(), not_before) - self._running()

    def __call__(self) -> float:
        """Return the time."""
        return self._begun + self._running()


def present(journal: Path, last: float, system: Callable[[], float] = time.time) -> float:
    """Return the present by the clock of the search that writes a journal, as another process can tell it.

    Args:
        journal: the file.
        last: the time of its last record.
    """
    try:
        written = journal.stat().st_mtime
    except OSError:
        return last
    return last + max(0.0, system() - written)
