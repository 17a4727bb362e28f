"""The memory of a node: which worker is ended before the machine's own killer comes.

Ray watches the processes that it has started itself. Workers are forked from a program of the owner's, so the owner
watches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["choose_victim", "nearly_full", "node_memory", "tree_memory"]

LIMIT = 0.93
"""The share of a node's memory from which a worker is ended. Ray ends processes of its own from 0.95 on."""

LEAST_SHARE = 0.05
"""The share of a node's memory that a worker must use to be ended: to end a smaller one is no help."""


def choose_victim(sizes: Mapping[int, int], used: int, total: int) -> int | None:
    """Return the worker to end, the largest one; None if memory suffices, or if no worker uses much of it.

    Args:
        sizes: the memory of each worker with the processes that it started, in bytes.
        used, total: the node's memory, in bytes.
    """
    if not nearly_full(used, total) or not sizes:
        return None
    largest = max(sizes, key=lambda key: (sizes[key], key))
    return largest if sizes[largest] >= LEAST_SHARE * total else None


def nearly_full(used: int, total: int) -> bool:
    """Return whether so much of a node's memory is in use that a worker must end."""
    return used >= LIMIT * total


def node_memory(root: str | Path = "/") -> tuple[int, int]:
    """Return the memory in use, and all memory, in bytes: the machine's, or the container's if that has less.

    Args:
        root: the folder that contains `sys`.
    """
    machine = psutil.virtual_memory()
    used, total = int(machine.total - machine.available), int(machine.total)
    groups = Path(root) / "sys/fs/cgroup"
    for limit, current, cache in (
        (groups / "memory.max", groups / "memory.current", "inactive_file"),
        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most = int(limit.read_text())
            if most < total:
                lines = (line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
                reclaimable = next((int(value) for name, value in lines if name == cache), 0)
                used, total = max(0, int(current.read_text()) - reclaimable), most
    return used, total


def tree_memory(pid: int) -> int:
    """Return the memory in bytes of a process and those that it started, without files that processes share."""
    size = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                memory = each.memory_info()
                size += max(0, int(memory.rss) - int(getattr(memory, "shared", 0)))
    return size
