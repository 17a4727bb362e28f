"""The private names of Ray that are used: nodes that drain, the running cluster, and the silence of its driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["draining_nodes", "running_cluster", "silence"]


def draining_nodes() -> frozenset[str] | None:
    """Return the ids of the nodes that are about to be taken away; None if Ray has other internals."""
    try:
        from ray._private.state import state

        found = state.get_draining_nodes()
    except Exception:
        return None
    return frozenset(found) if isinstance(found, Mapping) else None


def running_cluster() -> str | None:
    """Return the address of the cluster that the same user has started last on this machine with `ray start`."""
    try:
        from ray._private.utils import get_ray_address_file, read_ray_address

        file = Path(get_ray_address_file(None))
        if file.stat().st_uid != os.getuid():
            return None
        address: str | None = read_ray_address()
    except (ImportError, OSError, TypeError):
        return None
    return address or None


def silence() -> None:
    """Keep Ray from printing that a process has died: our own messages say so."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None
