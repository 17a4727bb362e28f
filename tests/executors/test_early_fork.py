"""The early fork of a script's process: which scripts get one, and the workers of a script whose TensorFlow runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from places import ROOT

from search.worker.surroundings import Surroundings

STUB = """
import sys, types
sys.modules["keras"] = types.ModuleType("keras")
sys.modules["keras"].config = types.SimpleNamespace(backend=lambda: "jax")
from search.executors import early_fork
"""
"""The beginning of a script that has imported a Keras without contents."""

TELL = """
found = early_fork.find_early_fork(None)
print(None if found is None else found.process.pid, flush=True)
"""


def start(folder: Path, code: str, *command: str) -> subprocess.Popen[str]:
    """Start a script in a folder."""
    (folder / "script.py").write_text(code)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *(command or ("script.py",))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def printed(folder: Path, code: str, *command: str) -> str:
    """Run a script, and return the last line that it printed."""
    out, _ = start(folder, code, *command).communicate(timeout=120)
    return out.splitlines()[-1]


@pytest.mark.parametrize("ends", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_ends_with_the_script(tmp_path: Path, ends: str) -> None:
    process = start(tmp_path, f"{STUB}early_fork.fork_early(){TELL}input()\n{ends}")
    assert process.stdout is not None
    fork = psutil.Process(int(process.stdout.readline()))
    assert fork.ppid() == process.pid
    process.communicate("\n", timeout=60)
    deadline = time.monotonic() + 30
    while fork.is_running() and fork.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the fork outlives the script"
        time.sleep(0.02)


def test_only_a_script_that_can_be_forked_has_one(tmp_path: Path) -> None:
    fork = f"{STUB}early_fork.fork_early(){TELL}"
    assert printed(tmp_path, fork) != "None"
    threads = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert printed(tmp_path, f"{threads}{fork}") == "None"
    assert printed(tmp_path, fork.replace('lambda: "jax"', 'lambda: "torch"').replace("(None)", '("jax")')) == "None"
    assert printed(tmp_path, fork, "-c", fork) == "None"
    assert printed(tmp_path, f"{STUB}{TELL}") == "None"


def test_a_python_without_the_private_names_has_none(tmp_path: Path) -> None:
    lacks = "import search.executors.import_internals as names\n"
    lacks += "names.__spec__ = None\n"
    assert printed(tmp_path, f"{STUB}{lacks}early_fork.fork_early(){TELL}") == "None"


def test_an_object_in_place_of_a_module_is_not_asked(tmp_path: Path) -> None:
    odd = "class Odd:\n    def __getattr__(self, name): raise RuntimeError(name)\nsys.modules['odd'] = Odd()\n"
    assert printed(tmp_path, f"{STUB}{odd}early_fork.fork_early(){TELL}") != "None"


def test_the_surroundings_of_a_script_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a script whose folder is gone: it has none to take over."""
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path / "later")
    monkeypatch.setattr(sys, "path", ["", "modules", "/absolute"])
    monkeypatch.setenv("NEW", "1")
    found = Surroundings.since({**os.environ, "NEW": "0", "GONE": "1"})
    here = str(tmp_path / "later")
    assert found == Surroundings(here, (here, f"{here}/modules", "/absolute"), {"NEW": "1", "GONE": None})
    (tmp_path / "later").rmdir()
    gone = Surroundings.since(os.environ)
    assert gone == Surroundings(None, ("", "modules", "/absolute"), {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GONE", "1")
    for surroundings in (found, gone):
        surroundings.apply()
        assert Path.cwd() == tmp_path
    assert os.environ["NEW"] == "1"
    assert "GONE" not in os.environ


def test_a_fork_of_the_script_has_none(tmp_path: Path) -> None:
    forks = "import os\nif (child := os.fork()):\n    os.waitpid(child, 0)\n    os._exit(0)"
    assert printed(tmp_path, f"{STUB}early_fork.fork_early()\n{forks}{TELL}") == "None"


def test_a_module_that_is_half_imported_forbids_it(tmp_path: Path) -> None:
    (tmp_path / "tuners.py").write_text("import last")
    (tmp_path / "last.py").write_text("from search.executors import early_fork\nearly_fork.fork_early(__name__)")
    assert printed(tmp_path, f"{STUB}import tuners{TELL}") == "None"
    assert printed(tmp_path, f"{STUB}import last{TELL}") != "None"


SEARCH = """
import keras, json, os, sys, threading
import numpy as np
from pathlib import Path
import search.compat.keras_tuner as kt
{forget}
Path("sub").mkdir()
os.chdir("sub")
del os.environ["GONE"]
sys.path.insert(0, "modules")

def build(hp):
    def look():
        import search.compat.keras_tuner
        facts["imports"] = hasattr(search.compat.keras_tuner, "RandomSearch")
    facts = {{"origin": Path(f"/proc/{{os.getppid()}}/cmdline").read_text().split("\\0")[1], "folder": os.getcwd()}}
    facts |= {{"word": os.environ["WORD"], "gone": "GONE" in os.environ, "path": sys.path[0]}}
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(60)
    Path("facts.json").write_text(json.dumps(facts))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

os.environ["WORD"] = "before"
build(kt.HyperParameters()).summary()  # from here on TensorFlow runs
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
found = []
for name in "first", "second":
    os.environ["WORD"] = name
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory="runs", project_name=name)
    tuner.search(x, x[:, :1], epochs=1, validation_split=0.25, verbose=0)
    facts = json.loads(Path("facts.json").read_text())
    found.append([facts, [trial.score for trial in tuner.oracle.get_best_trials(2)]])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_script_whose_tensorflow_runs_gets_workers_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers see the script's surroundings, and train as those of a new Python do."""
    monkeypatch.setenv("GONE", "soon")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # without it, a fork may compute other digits than workers do
    found: dict[str, Any] = {}
    for name, forget in (("early", ""), ("new", "from search.executors import early_fork; early_fork._made = None")):
        folder = tmp_path / name
        folder.mkdir()
        found[name] = json.loads(printed(folder, SEARCH.format(forget=forget)))
    for word, (early, values), (new, expected) in zip(["first", "second"], found["early"], found["new"], strict=True):
        assert values == expected
        assert early.pop("origin") == "script.py"
        assert new.pop("origin") == "-P"
        assert early == {
            "folder": str(tmp_path / "early" / "sub"),
            "word": word,
            "gone": False,
            "path": str(tmp_path / "early" / "sub" / "modules"),
            "imports": True,
        }
        assert new["word"] == word
        assert not new["gone"]
