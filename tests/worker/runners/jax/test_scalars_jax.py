"""Programs with dynamic scalars on JAX, in other processes with that backend of Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("scalars_on_jax.py")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_one_program_serves_all_values_and_other_processes(tmp_path: Path) -> None:
    output = run(str(tmp_path))
    assert output.count("the same") == 63
    assert "0 programs compiled" not in output.splitlines()
    # Another search: other values, layers of other names, and nothing is left to compile.
    assert run(str(tmp_path), "again") == "0 programs compiled\n"
