"""GPUs made up for the tests."""

from __future__ import annotations

from search.devices.gpus import Gpu

LETTERS = "abcdefgh"


def make_gpus(count: int) -> tuple[Gpu, ...]:
    """Return GPUs with the UUIDs GPU-aa-0, GPU-bb-1, …, at most eight."""
    return tuple(Gpu(i, f"GPU-{LETTERS[i]}{LETTERS[i]}-{i}", "H200", 2**37) for i in range(count))
