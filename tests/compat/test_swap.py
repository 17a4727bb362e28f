"""`python -m search.compat script.py`: a script for KerasTuner runs as it is, as `python script.py` would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.compat.__main__ import main

SCRIPT = """
import json, sys
import keras_tuner, kerastuner
import keras_tuner.tuners.hyperband, kerastuner.oracles as oracles
from keras_tuner import RandomSearch
from kerastuner.engine.hyperparameters import HyperParameters
from kerastuner.tuners import Hyperband
from search.compat import keras_tuner as ours
from search.compat.original import keras_tuner as real
from beside import Points

assert keras_tuner is kerastuner is ours and oracles is ours.oracles
assert RandomSearch is ours.RandomSearch and Hyperband is keras_tuner.tuners.hyperband.Hyperband is ours.Hyperband
assert real is not ours and real.HyperParameters is HyperParameters and real.Hyperband is not Hyperband
assert Points.__module__ == "beside" and issubclass(Points, kerastuner.Tuner)
if __name__ == "__main__":
    tuner = Points(max_trials=3, directory=sys.argv[1], project_name="points", seed=1)
    tuner.search(bound=4.0, verbose=0)
    print(json.dumps([sys.argv, __file__, tuner.oracle.get_best_trials()[0].score]))
"""

BESIDE = """
import keras_tuner


class Points(keras_tuner.RandomSearch):
    def run_trial(self, trial, bound):
        x = trial.hyperparameters.Float("x", -bound, bound)
        assert abs(x) <= bound
        return x * x
"""


def test_a_script_runs_with_its_arguments_and_the_modules_beside_it(tmp_path: Path) -> None:
    """One process for all: importing the framework takes seconds."""
    scripts, elsewhere = tmp_path / "scripts", tmp_path / "elsewhere"
    scripts.mkdir()
    elsewhere.mkdir()
    (scripts / "script.py").write_text(SCRIPT)
    (scripts / "beside.py").write_text(BESIDE)
    (elsewhere / "beside.py").write_text("raise RuntimeError('Python would not look here')")
    command = [sys.executable, "-m", "search.compat", "../scripts/script.py", "my_dir", "--flag"]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=elsewhere, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    argv, file, score = json.loads(done.stdout.splitlines()[-1])
    assert argv == ["../scripts/script.py", "my_dir", "--flag"]
    assert Path(file).name == "script.py"
    assert 0.0 <= score <= 16.0
    assert (elsewhere / "my_dir" / "points" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        ([], 2, "", "usage: python -m search.compat SCRIPT.py"),
        (["--help"], 0, "usage: python -m search.compat SCRIPT.py", ""),
        (["missing.py", "a"], 2, "", "no such script: missing.py. usage: "),
        (["."], 2, "", "no such script: .. usage: "),
    ],
)
def test_wrong_calls(arguments: list[str], code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert printed.out.startswith(out)
    assert printed.err.startswith(err)
    assert bool(printed.out) is bool(out)
    assert bool(printed.err) is bool(err)
