"""The clock of a worker: the seconds in which its process ran.

An epoch's seconds are measured by it, so that no suspension counts as training. In a process of its own, the thread
that reads the worker's pipe looks at the clock once a second at least. Within the driver's process nobody does, and no
suspension is seen.
"""

from __future__ import annotations

from search.study.clock import RunningClock

__all__ = ["running_seconds"]

running_seconds = RunningClock()
