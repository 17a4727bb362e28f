"""The ready spaces: each is searched by each back end, killed and resumed, and its best model rebuilt from MLflow.

    python tests/ready.py [--spaces digits images] [--backends optuna] [--ways kill]

- kill: the driver is killed at a record of the journal, and the search is resumed. It must equal an undisturbed search,
  to 1e-6.
- reload: another process has only a copy of the MLflow store. There the best model must give the metrics that were
  logged for its best epoch.

The budget is small: two trials of up to three epochs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import forks
import kills
from places import SPACES

from search.results.study_results import StudyResults
from search.study.paths import StudyPaths
from search.study.study import Study

NAMES = tuple(sorted(path.stem for path in SPACES.glob("*.py")))
BACKENDS = {
    "hyperband": ["--backend", "hyperband"],
    "asha": ["--backend", "asha"],
    "freeze-thaw": ["--backend", "freeze-thaw"],
    "optuna": ["--backend", "optuna", "--pruner", "median:n_startup_trials=1"],
}
FLAGS = {"data_parallel": ["--logical-devices", "2"]}
"""Flags that a space needs to show its subject."""


def search_arguments(space: str, backend: str) -> list[str]:
    """Return the command that begins or resumes the search of a space."""
    command = ["run", str(SPACES / f"{space}.py"), "--study", "study", "--resume", "--no-progress"]
    command += ["--max-epochs", "3", "--max-trials", "2", "--workers", "1", "--seed", "0"]
    return [*command, *BACKENDS[backend], *FLAGS.get(space, [])]


def read_study(folder: Path) -> Study:
    return StudyResults(StudyPaths.of(folder / "runs", "study")).study


def read_output(folder: Path) -> str:
    return (folder / "output.txt").read_text()[-3000:]


def kill(folder: Path, space: str, backend: str, templates: forks.Templates) -> None:
    """Kill the driver once, resume, and compare with an undisturbed search."""
    arguments = search_arguments(space, backend)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert kills.run_here(undisturbed, arguments) == 0, read_output(undisturbed)
    # The record is after the first ones of a trial, and before the last ones of the search.
    record = random.Random(f"{space}/{backend}").randint(12, 30)
    exit_code = kills.start_driver(killed, arguments, [kills.Kill("driver after", record)], templates).wait()
    assert exit_code == -signal.SIGKILL, read_output(killed)
    assert kills.run_here(killed, arguments) == 0, read_output(killed)
    study = read_study(killed)
    kills.assert_same(kills.history(study), kills.history(read_study(undisturbed)))
    kills.check_repeats(StudyPaths.of(killed / "runs", "study"))
    kills.check_mlflow(killed, study)


def reload(folder: Path, space: str, backend: str, templates: forks.Templates) -> None:
    """Search, rebuild the best model in another process, and compare its metrics with the logged ones."""
    assert kills.run_here(folder, search_arguments(space, backend)) == 0, read_output(folder)
    study = read_study(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for file in (folder / "runs").glob("mlflow.db*"):  # the write-ahead log lies beside the database
        shutil.copy(file, elsewhere)
    shutil.copytree(folder / "runs" / "mlartifacts", elsewhere / "mlartifacts")
    shutil.rmtree(folder / "runs")
    best = study.best
    assert best is not None
    assert best.best_epoch is not None
    record = best.best_execution.find(best.best_epoch)
    assert record is not None
    logged = {name: value for name, value in record.logs.items() if name.startswith("val_")}
    code = "import sys; from ready import *; print_evaluation(*sys.argv[1:])"
    command = [sys.executable, "-c", code, json.dumps(dict(best.params)), str(SPACES / f"{space}.py")]
    with (elsewhere / "output.txt").open("w") as output:
        done = forks.start(templates.address("keras"), command, cwd=elsewhere, output=output.fileno())
        assert done.wait() == 0, read_output(elsewhere)
    found = json.loads(read_output(elsewhere).splitlines()[-1])
    compared = found.keys() & logged.keys()
    assert len(compared) > 1 or study.objective.name in compared, (found, logged)
    for name in compared:
        assert abs(found[name] - logged[name]) <= 1e-5 * max(1, abs(logged[name])), (name, found, logged)


def evaluate_best(values: dict[str, Any], path: Path) -> dict[str, float]:
    """Return the validation metrics of the best model in the MLflow store of the working folder.

    Args:
        values: the best trial's hyperparameters.
        path: the space file, for its data, batch size and score.
    """
    import keras_tuner

    import search
    from search.space.file import SPACE_MODULE, SpaceRef, read_space

    (model,) = search.get_best_models("study", tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    space = read_space(SpaceRef(path=str(path)))
    hp = keras_tuner.HyperParameters()
    hp.values = values
    _, validation, *_ = space.load_data(hp) if space.data_takes_hp else space.load_data()
    arrays = isinstance(validation, tuple)
    # Keras's mean loss of a single output does not weigh batches by size, so the batch size counts.
    fit_options = space.fit_options(hp) if space.fit_options else {}
    batch_size = {"batch_size": fit_options.get("batch_size", 32)} if arrays else {}
    found = model.evaluate(*(validation if arrays else [validation]), return_dict=True, verbose=0, **batch_size)
    score = getattr(sys.modules[SPACE_MODULE], "score", None)
    if score is not None:
        found[str(space.options["objective"]).removeprefix("val_")] = score(model)
    return {f"val_{name}": float(value) for name, value in found.items()}


def print_evaluation(values: str, path: str) -> None:
    """Print what `evaluate_best` returns, as JSON."""
    print(json.dumps(evaluate_best(json.loads(values), Path(path))))


WAYS: dict[str, Callable[[Path, str, str, forks.Templates], None]] = {"kill": kill, "reload": reload}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    failed = 0
    with closing(forks.Templates()) as templates:
        for space, backend, way in itertools.product(arguments.spaces, arguments.backends, arguments.ways):
            folder, began = Path(tempfile.mkdtemp(prefix="search-ready-")), time.monotonic()
            outcome = "passed"
            try:
                WAYS[way](folder, space, backend, templates)
                shutil.rmtree(folder)
            except AssertionError as error:
                failed += 1
                outcome = f"FAILED, see {folder}: {error}"
            print(f"{space:18} {backend:10} {way:7} {time.monotonic() - began:4.0f} s  {outcome}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
