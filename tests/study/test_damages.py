"""A fuzz of the journal: 1,000 damages inside that of a real study; see `damages`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from places import ROOT, TINY

import search

COUNT = 1000
SEED = 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_is_damaged_every_command_answers_or_refuses_in_one_line(command: Command, workplace: Path) -> None:
    """`python tests/damages.py JOURNAL --seed 0 --number N` repeats one damage; the output names the journal."""
    words = ("--workers", 1, "--no-progress")
    shutil.copy(TINY, workplace)
    begin = ("--study", "t", "--seed", 0, "--max-epochs", 4, "--factor", 2, "--executions-per-trial", 2)
    assert command("run", "tiny.py", *begin, "--max-total-epochs", 12, *words).code == 0
    optuna = ("--backend", "optuna", "--sampler", "tpe", "--pruner", "median:n_startup_trials=2")
    assert command("resume", "t", *optuna, "--max-total-epochs", 24, *words).code == 0
    paths = search.load_study("t").paths
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "damages.py", paths.journal, "--count", str(COUNT), "--seed", str(SEED)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{paths.journal}:\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
    print(done.stdout)
