"""Whole searches from scripts: workers are forked from the script, or its own process trains, with equal results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import forks
import pytest

SCRIPT = """
import json, sys, threading
import keras, numpy as np
import search
from search.errors import SearchError
from search.executors import zygotes
made = []
for name in ("_fork_here", "_new_python"):
    def start(*arguments, name=name, original=getattr(zygotes, name)):
        made.append(name)
        return original(*arguments)
    setattr(zygotes, name, start)

class Rows(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.lock = x, y, threading.Lock()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        with self.lock:
            part = slice(16 * index, 16 * index + 16)
            return self.x[part], self.y[part]

def build_model(hp):
    layers = [keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"), keras.layers.Dropout(0.1)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

lock = threading.Lock()
def build_locked(hp):
    with lock:
        return build_model(hp)

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1)
case = json.loads(sys.argv[1])
if case.get("running"):
    keras.optimizers.Adam()
factory = build_locked if case.get("locked") else build_model
train = Rows(x[:48], y[:48]) if case.get("rows") else (x[:48], y[:48])
options = {"max_trials": 2, "max_epochs": 2, "backend": "optuna", "pruner": "none", "seed": 0, "study": "s"}
told = {}
try:
    options |= case.get("options", {})
    study = search.run(factory, (train, (x[48:], y[48:])), progress=False, report=False, **options)
    told["curve"] = [trial.objective for trial in study.trials]
    told["weights"] = study.get_best_models()[0].count_params()
except SearchError as error:
    told["error"] = str(error)
told["made"] = made
open("told", "w").write(json.dumps(told))
"""


class Scripts:
    """Scripts that run in forks of a process that has imported Keras."""

    def __init__(self, folder: Path, templates: forks.Templates) -> None:
        self.folder, self._templates = folder, templates
        self._count = 0

    def run(self, code: str = SCRIPT, **case: Any) -> tuple[dict[str, Any], str]:
        """Run the script in a folder of its own. Return what it tells, and its output."""
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        with (folder / "output").open("w") as output:
            command = ["python", "-c", code, json.dumps(case)]
            process = forks.start(
                self._templates.address("keras"),
                command,
                env={**os.environ, "CI": "true"},  # MLflow gets all before the script ends, so that nothing goes on
                cwd=folder,
                output=output.fileno(),
            )
            assert process.wait(240) == 0, (folder / "output").read_text()
        return json.loads((folder / "told").read_text()), (folder / "output").read_text()


@pytest.fixture
def scripts(tmp_path: Path, templates: forks.Templates) -> Scripts:
    return Scripts(tmp_path, templates)


LINE = "cannot be sent to worker processes, and TensorFlow is running in this one: trials run here, one at a time"


@pytest.mark.slow
def test_the_way_that_workers_start_changes_no_result(scripts: Scripts) -> None:
    forked, _ = scripts.run()
    new, _ = scripts.run(running=True)
    assert (forked.pop("made"), new.pop("made")) == (["_fork_here"], ["_new_python"])
    assert forked == new
    assert len(forked["curve"]) == 2


@pytest.mark.slow
def test_data_that_do_not_pickle_are_inherited_or_stay_here(scripts: Scripts) -> None:
    forked, _ = scripts.run(rows=True)
    here, output = scripts.run(rows=True, running=True)
    assert forked.pop("made") == ["_fork_here", "_fork_here"]  # the second is the spare
    assert here.pop("made") == []
    assert forked == here
    assert f"data[0] (a Rows) {LINE}" in output


@pytest.mark.slow
def test_a_factory_that_does_not_pickle_is_inherited_and_rebuilds_models(scripts: Scripts) -> None:
    plain, _ = scripts.run()
    locked, _ = scripts.run(locked=True)
    assert locked["curve"] == plain["curve"]
    assert locked["weights"] == plain["weights"]


@pytest.mark.parametrize("options", [{"workers": 2}, {"executor": "local"}, {"gpus": "none", "logical_devices": 2}])
def test_several_workers_are_refused_by_the_arguments_name(scripts: Scripts, options: dict[str, Any]) -> None:
    told, _ = scripts.run(rows=True, running=True, options=options)
    assert told["error"].startswith(
        "data[0] cannot be sent to a worker (TypeError: cannot pickle '_thread.lock' object)"
    )
    assert "no worker can inherit it, as TensorFlow is running in this one" in told["error"]


RESUME = """
import os, sys, json, subprocess
case = json.loads(sys.argv[1])
os.chdir(case["folder"])
import search
from search import cli
code = cli.main(["resume", "s", "--max-trials", "4"])
told = {"code": code, "weights": search.load_study("s").get_best_models()[0].count_params()}
open(os.path.join(case["own"], "told"), "w").write(json.dumps(told))
"""


@pytest.mark.slow
def test_another_process_goes_on_with_the_models_alone(scripts: Scripts) -> None:
    first, _ = scripts.run(rows=True)
    own = scripts.folder / "2"
    told, output = scripts.run(RESUME, folder=str(scripts.folder / "1"), own=str(own))
    assert told == {"code": 2, "weights": first["weights"]}
    assert "data[0] of this study came from its script's memory: run the script again, it goes on" in output
