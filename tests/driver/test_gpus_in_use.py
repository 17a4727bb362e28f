"""Searches on machines whose GPUs others use, or whose GPUs Keras does not see. The GPUs are made up for the test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from commands import Command, assert_refused
from fake_gpus import fake_smi, make_gpus
from places import TINY

SHORT = ("--max-epochs", "1", "--max-trials", "1", "--workers", "1", "--no-progress", "--study", "t")


@pytest.fixture
def space(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a space file, on a machine with two GPUs, which this process's parent uses."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = "".join(f"{gpu.index}, {gpu.uuid}, 143771, 61700, {gpu.name}\n" for gpu in make_gpus(2))
    apps = "".join(f"{gpu.uuid}, {os.getppid()}, 61640, [Not Found]\n" for gpu in make_gpus(2))
    fake_smi(workplace, monkeypatch, gpus, apps)
    path = workplace / "space.py"
    path.write_text(TINY.read_text())
    return path


def test_gpus_that_keras_does_not_see_end_the_search_with_the_fix(command: Command, space: Path) -> None:
    words = ("no GPU is free: others use GPU 0 by process", "share GPUs by --gpus 0,1")
    assert_refused(command, "run", space, *SHORT, words=words)
    words = (
        "search: the NVIDIA driver shows GPU 1 (H200, GPU-bb-1), and Keras on tensorflow sees no GPU",
        "[and-cuda]",
    )
    assert_refused(command, "run", space, *SHORT, "--gpus", "1", words=words)


@pytest.mark.slow
def test_a_space_file_may_choose_the_processor_although_no_gpu_is_free(command: Command, space: Path) -> None:
    space.write_text(TINY.read_text() + "\nsearch_options = dict(gpus='NONE'.lower())\n")
    ended = command("run", space, *SHORT)
    assert ended.code == 0
    assert "1 at once: CPU" in ended.err
