"""The ready spaces: each searched by each back end, killed and resumed, its best model brought back from MLflow alone.

    python tests/ready.py [--spaces digits images] [--backends optuna] [--ways kill]

- kill: the driver is killed at a record of the journal and the search resumed; it must be the one that nobody
  disturbed, to 1e-6.
- reload: in another process, with a copy of the MLflow store and of nothing else, the best model must give what was
  logged for its best epoch.

The budget is as small as shows that: three trials of up to three epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kills
from places import SPACES

from search.results.study_results import StudyResults
from search.study.paths import StudyPaths
from search.study.study import Study

NAMES = tuple(sorted(path.stem for path in SPACES.glob("*.py")))
BACKENDS = {
    "hyperband": ["--backend", "hyperband"],
    "optuna": ["--backend", "optuna", "--pruner", "median:n_startup_trials=1"],
}
MORE = {"data_parallel": ["--logical-devices", "2"]}
"""What a space is for, where a flag says it."""


def search(folder: Path, space: str, backend: str, *struck: kills.Kill) -> int:
    """Begin the search of a space in `folder`, or go on with it. Its exit code."""
    words = ["run", str(SPACES / f"{space}.py"), "--study", "study", "--resume", "--no-progress"]
    words += ["--max-epochs", "3", "--max-trials", "3", "--workers", "1", "--seed", "0"]
    return kills.command(folder, [*words, *BACKENDS[backend], *MORE.get(space, [])], struck)


def study_in(folder: Path) -> Study:
    return StudyResults(StudyPaths.of(folder / "runs", "study")).study


def output_of(folder: Path) -> str:
    return (folder / "output.txt").read_text()[-3000:]


def kill(folder: Path, space: str, backend: str) -> None:
    """Kill the driver once, resume, and compare with a search that was left alone."""
    alone, struck = folder / "alone", folder / "struck"
    alone.mkdir()
    struck.mkdir()
    assert search(alone, space, backend) == 0, output_of(alone)
    # After the first records of a trial, before the last ones of the search.
    record = random.Random(f"{space}/{backend}").randint(12, 30)
    assert search(struck, space, backend, kills.Kill("driver after", record)) == -signal.SIGKILL, output_of(struck)
    assert search(struck, space, backend) == 0, output_of(struck)
    found = study_in(struck)
    kills.assert_same(kills.history(found), kills.history(study_in(alone)))
    kills.check_repeats(StudyPaths.of(struck / "runs", "study"))
    kills.check_mlflow(struck, found)


def reload(folder: Path, space: str, backend: str) -> None:
    """Search, and compare what the best model gives elsewhere with the logs."""
    assert search(folder, space, backend) == 0, output_of(folder)
    study = study_in(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("mlflow.db", "mlartifacts"):
        shutil.move(folder / "runs" / name, elsewhere / name)
    shutil.rmtree(folder / "runs")
    best = study.best
    assert best is not None
    assert best.best_epoch is not None
    record = best.best.find(best.best_epoch)
    assert record is not None
    logged = {name: value for name, value in record.logs.items() if name.startswith("val_")}
    words = [sys.executable, __file__, "--bring-back", json.dumps(dict(best.params)), str(SPACES / f"{space}.py")]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(words, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    compared = found.keys() & logged.keys()
    assert len(compared) > 1 or study.objective.name in compared, (found, logged)
    for name in compared:
        assert abs(found[name] - logged[name]) <= 1e-5 * max(1, abs(logged[name])), (name, found, logged)


def rebuild_model(values: dict[str, Any], path: Path) -> dict[str, float]:
    """What the best model in the MLflow store here gives for the validation data of a space."""
    import keras_tuner

    import search
    from search.space import file as spaces
    from search.space.file import SpaceRef

    (model,) = search.get_best_models("study", tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    loaded = spaces.load(SpaceRef(path=str(path)))
    hp = keras_tuner.HyperParameters()
    hp.values = values
    _, validation, *_ = loaded.load_data(hp) if loaded.data_takes_hp else loaded.load_data()
    arrays = isinstance(validation, tuple)
    # Keras's mean over batches of a single output's loss does not weigh the last, smaller one.
    given = loaded.fit_options(hp) if loaded.fit_options else {}
    batch_size = {"batch_size": given.get("batch_size", 32)} if arrays else {}
    found = model.evaluate(*(validation if arrays else [validation]), return_dict=True, verbose=0, **batch_size)
    score = getattr(sys.modules[spaces.MODULE], "score", None)
    if score is not None:
        found[str(loaded.options["objective"]).removeprefix("val_")] = score(model)
    return {f"val_{name}": float(value) for name, value in found.items()}


WAYS: dict[str, Callable[[Path, str, str], None]] = {"kill": kill, "reload": reload}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bring-back", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rebuild_model:
        print(json.dumps(rebuild_model(json.loads(given.rebuild_model[0]), Path(given.rebuild_model[1]))))
        return
    failed = 0
    for space in given.spaces:
        for backend in given.backends:
            for way in given.ways:
                folder, began = Path(tempfile.mkdtemp(prefix="search-ready-")), time.monotonic()
                said = "as it should be"
                try:
                    WAYS[way](folder, space, backend)
                    shutil.rmtree(folder)
                except AssertionError as error:
                    failed += 1
                    said = f"FAILED, see {folder}: {error}"
                print(f"{space:18} {backend:10} {way:7} {time.monotonic() - began:4.0f} s  {said}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
