"""A script after a search: what it had before, it has still, whether its own process has trained or forks of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import forks
import pytest

SCRIPT = """
import json, os, random, signal, sys, threading, warnings
import keras, numpy as np, tensorflow as tf
import search

class Rows(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.lock = x, y, threading.Lock()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(16 * index, 16 * index + 16)
        return self.x[part], self.y[part]

def build_model(hp):
    layers = [keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    return model

# Libraries set some variables of their own when they are first used. The script's, and ours, are as before.
LIBRARIES = ("MLFLOW_", "_MLFLOW_", "TF", "KMP_", "OMP_", "GRPC_", "GLOG_", "XLA_", "CUDA_")
FIRST = set(os.environ)

def is_ours(name):
    return name.startswith("SEARCH") or (name in FIRST and not name.startswith(LIBRARIES))

def state():
    return {
        "environment": {name: value for name, value in os.environ.items() if is_ours(name)},
        "folder": os.getcwd(),
        "arguments": [list(sys.argv), list(sys.path)],
        "streams": [id(sys.stdout), id(sys.stderr), os.readlink("/proc/self/fd/1"), os.readlink("/proc/self/fd/2")],
        "warnings": list(map(str, warnings.filters)),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "hooks": [str(hook) for hook in (sys.excepthook, threading.excepthook, sys.gettrace(), sys.getprofile())],
        "keras": [keras.config.floatx(), str(keras.config.dtype_policy()), str(keras.distribution.distribution())],
        "threads": [
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ],
        "eager": tf.config.functions_run_eagerly(),
    }

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1)
keras.utils.set_random_seed(7)
if "running" in sys.argv:
    mine = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    mine.compile("adam", "mse")
    mine.fit(x, y, verbose=0)
    keras.random.uniform((1,)), tf.random.uniform((1,))
random.random(), np.random.random()
before = state()
told = {"changed": {}}
if "search" in sys.argv:
    options = {"max_trials": 2, "max_epochs": 1, "backend": "optuna", "pruner": "none", "seed": 0, "report": False}
    search.run(build_model, (Rows(x[:48], y[:48]), (x[48:], y[48:])), progress=False, study="s", **options)
    after = state()
    told["changed"] = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
    if "environment" in told["changed"]:
        told["changed"]["environment"] = sorted(before["environment"].items() ^ after["environment"].items())
told["draws"] = [
    random.random(),
    np.random.random(),
    keras.random.uniform((1,)).numpy().tolist(),
    tf.random.uniform((1,)).numpy().tolist(),
]
told["name"] = keras.layers.Dense(2).name
if "running" in sys.argv:
    told["losses"] = mine.fit(x, y, epochs=2, verbose=0).history["loss"]
open("told", "w").write(json.dumps(told))
"""


def run_script(templates: forks.Templates, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the script in a new folder. Return what it tells."""
    folder.mkdir()
    with (folder / "output").open("w") as output:
        environment = {**os.environ, "CI": "true"}
        command = ["python", "-c", SCRIPT, *arguments]
        address = templates.address("keras")
        process = forks.start(address, command, env=environment, cwd=folder, output=output.fileno())
        assert process.wait(240) == 0, (folder / "output").read_text()
    told: dict[str, Any] = json.loads((folder / "told").read_text())
    if "search" in arguments:
        assert ("trials run here" in (folder / "output").read_text()) == ("running" in arguments)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("case", [("running",), ()])
def test_a_script_goes_on_as_without_the_search(
    templates: forks.Templates, tmp_path: Path, case: tuple[str, ...]
) -> None:
    without = run_script(templates, tmp_path / "without", *case)
    searched = run_script(templates, tmp_path / "with", "search", *case)
    assert searched["changed"] == {}
    assert searched == without
