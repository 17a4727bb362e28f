"""GPUs made up for the tests, and a program `nvidia-smi` that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.devices.gpus import Gpu

LETTERS = "abcdefgh"
GIB = 2**30


def make_gpus(count: int) -> tuple[Gpu, ...]:
    """Return GPUs with the UUIDs GPU-aa-0, GPU-bb-1, …, at most eight, of which nothing is in use."""
    return tuple(Gpu(i, f"GPU-{LETTERS[i]}{LETTERS[i]}-{i}", "H200", 2**37, 0) for i in range(count))


def fake_smi(folder: Path, patch: pytest.MonkeyPatch, gpus: str, apps: str | None = "") -> None:
    """Put a program `nvidia-smi` on the path, which answers two queries with `gpus` and `apps`; None fails."""
    (folder / "gpus.csv").write_text(gpus)
    answers = {"--query-gpu=index,uuid,memory.total,memory.used,name": f"cat {folder / 'gpus.csv'}"}
    if apps is not None:
        (folder / "apps.csv").write_text(apps)
        answers["--query-compute-apps=gpu_uuid,pid,used_memory,process_name"] = f"cat {folder / 'apps.csv'}"
    cases = "".join(f"{query}) {answer} ;;\n" for query, answer in answers.items())
    program = folder / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\n[ "$2" = --format=csv,noheader,nounits ] || exit 1\ncase "$1" in\n{cases}*) exit 6;;\nesac\n'
    )
    program.chmod(0o755)
    patch.setenv("PATH", str(folder), prepend=":")
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
