"""Random kills, for real: of drivers, workers and zygotes, while a search trains; in the end it must be the search that
nobody disturbed, to the last digit.

    python tests/kills.py --kills 200 --seed 0

A study is searched, its processes killed on the way and the search resumed, until it is done; then the next, with
another back end, until there were as many kills as asked for. Where a kill falls follows from (seed, study, process):
most at the n-th record of the journal (before, within or after its line), of MLflow's batches or of a worker's
checkpoints, so that they repeat with one worker; some at a time, as they come in life. Each process's are printed, so
that a failure can be repeated:

    python tests/kills.py --seed 0 --study 3
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from places import STATEFUL

from search.results.study_results import StudyResults
from search.study.journal import read
from search.study.paths import StudyPaths
from search.study.records import Checkpointed, EpochDone
from search.study.study import Study

BACKENDS = (
    ("hyperband", ["--backend", "hyperband"]),
    ("optuna-tpe", ["--backend", "optuna", "--sampler", "tpe", "--pruner", "median:n_startup_trials=2"]),
    ("optuna-random", ["--backend", "optuna", "--sampler", "random", "--max-total-epochs", "30"]),
)
FATAL = ("driver before", "driver within", "driver after", "driver at", "batch before", "batch after")
OTHERS = ("worker", "worker at", "zygote", "checkpoint write", "checkpoint rename")


@dataclass(frozen=True)
class Kill:
    """What is killed, and when: at the n-th record, batch or checkpoint of its process, or after `n` seconds."""

    what: str
    n: float


def draw(rng: random.Random) -> list[Kill]:
    """The kills of one driver process: some that it survives, and, mostly, one that it does not."""
    kills = []
    for _ in range(rng.randint(0, 4)):
        what = rng.choice(OTHERS)
        kills.append(Kill(what, instant(what, rng)))
    if rng.random() < 0.6 or not kills:
        what = rng.choice(FATAL)
        kills.append(Kill(what, instant(what, rng)))
    return kills


def instant(what: str, rng: random.Random) -> float:
    if what.endswith(" at"):
        return round(rng.uniform(0.0, 20.0), 3)
    return rng.randint(1, {"batch": 10, "checkpoint": 20}.get(what.split()[0], 150))


# In the driver's process ----------------------------------------------------------------------------------------------


def be_killed(kills: Sequence[Kill]) -> None:
    """Arrange for the kills of this process. Each leaves a line in `killed` as it falls."""
    from search.executors.local import LocalExecutor
    from search.study.journal import Journal

    executors: list[LocalExecutor] = []
    make, append = LocalExecutor.__init__, Journal.append
    count = 0

    def note(kill: Kill) -> None:
        with open("killed", "a") as file:
            print(json.dumps(asdict(kill)), file=file)

    def die(kill: Kill) -> None:
        note(kill)
        os.kill(os.getpid(), signal.SIGKILL)

    def strike(kill: Kill) -> None:
        """Kill one of the others."""
        pids = executors[0].pids() if executors else {}
        if kill.what == "zygote":
            note(kill)
            os.kill(executors[0].zygote_pid, signal.SIGKILL)
        elif pids:
            note(kill)
            os.kill(pids[min(pids)], signal.SIGKILL)

    def making(self: LocalExecutor, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        executors.append(self)

    def appending(self: Journal, records: Any, time: float | None = None) -> None:
        nonlocal count
        for record in records:
            count += 1
            due = [kill for kill in kills if kill.n == count]
            for kill in due:
                if kill.what == "driver before":
                    die(kill)
                elif kill.what == "driver within":
                    from search.study.journal import format_line

                    line = format_line(record, time or 0.0)
                    os.write(self._file.fileno(), line[: random.Random(count).randrange(1, len(line))])
                    die(kill)
            append(self, [record], time)
            for kill in due:
                if kill.what == "driver after":
                    die(kill)
                elif kill.what in ("worker", "zygote"):
                    strike(kill)

    LocalExecutor.__init__ = making  # type: ignore[method-assign]
    Journal.append = appending  # type: ignore[method-assign]
    for kill in kills:
        if kill.what.endswith(" at"):
            timer = threading.Timer(kill.n, die if kill.what == "driver at" else strike, [kill])
            timer.daemon = True
            timer.start()
        elif kill.what.startswith("checkpoint"):
            os.environ["DIE_IN_CHECKPOINT"] = f"{kill.n:g}:{kill.what.split()[1]}"
    batches = [kill for kill in kills if kill.what.startswith("batch")]
    if batches:
        _die_in_batches(batches, die)


def _die_in_batches(kills: Sequence[Kill], die: Any) -> None:
    from search.tracking.mlflow import store

    store.prepare()
    from mlflow import MlflowClient

    log_batch, count = MlflowClient.log_batch, 0

    def logging(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        for kill in kills:
            if kill.n == count and kill.what == "batch before":
                die(kill)
        result = log_batch(*arguments, **options)
        for kill in kills:
            if kill.n == count and kill.what == "batch after":
                die(kill)
        return result

    MlflowClient.log_batch = logging


# Around it ------------------------------------------------------------------------------------------------------------


def history(study: Study) -> list[Any]:
    """All that must be the same, whatever happened on the way."""
    return [
        (
            trial.number,
            trial.params,
            trial.state,
            trial.seed,
            [(epoch.epoch, dict(epoch.logs)) for epoch in trial.curve],
        )
        for trial in study.trials.values()
    ]


def command(folder: Path, arguments: Sequence[str], kills: Sequence[Kill]) -> int:
    """`search` with `arguments` in `folder`, as a process in which the kills fall. Its exit code."""
    code = "import sys; from kills import *; sys.exit(process())"
    environment = {
        **os.environ,
        "KILLS": json.dumps([asdict(kill) for kill in kills]),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
    }
    with (folder / "output.txt").open("a") as output:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            check=False,
        )
    return done.returncode


def search(folder: Path, backend: Sequence[str], kills: Sequence[Kill], workers: int = 1) -> int:
    """One process of a study in `folder`, which is begun or goes on. Its exit code."""
    arguments = ["run", "stateful.py", "--study", "study", "--seed", "0", "--resume", "--no-progress"]
    # A trial that is killed again and again has done nothing wrong.
    arguments += ["--workers", str(workers), "--retries", "1000", *backend]
    return command(folder, arguments, kills)


def process() -> int:
    """The driver's process."""
    from search.cli import main

    be_killed([Kill(**kill) for kill in json.loads(os.environ["KILLS"])])
    return main(sys.argv[1:])


def disturbed(folder: Path, backend: Sequence[str], seed: object, workers: int = 1) -> int:
    """Search in `folder` to the end, killing. How many kills there were."""
    shutil.copy(STATEFUL, folder)
    for number in range(1000):
        kills = draw(random.Random(f"{seed}/{number}"))
        code = search(folder, backend, kills, workers)
        print(
            f"    process {number}: exit {code}, {', '.join(f'{kill.what} {kill.n:g}' for kill in kills)}", flush=True
        )
        if code == 0:
            fallen = (folder / "killed").read_text().splitlines() if (folder / "killed").exists() else []
            return len(fallen) + len(list(folder.glob("died-*")))
        assert code == -signal.SIGKILL, f"exit {code}: see {folder / 'output.txt'}"
    raise AssertionError("it comes to no end")


def undisturbed(folder: Path, backend: Sequence[str], workers: int = 1) -> Study:
    shutil.copy(STATEFUL, folder)
    assert search(folder, backend, (), workers) == 0, (folder / "output.txt").read_text()[-3000:]
    return StudyResults(StudyPaths.of(folder / "runs", "study")).study


def check(folder: Path, before: Study) -> Study:
    """That what was disturbed is what was not, in the journal and in MLflow. Returns it."""
    paths = StudyPaths.of(folder / "runs", "study")
    study = StudyResults(paths).study
    check_repeats(paths)
    assert_same(history(study), history(before))
    assert study.end is not None
    assert study.end.complete
    check_mlflow(folder, study)
    for trial in study.trials.values():
        left = list(paths.trial(trial.number).folder.glob("checkpoint-*"))
        assert trial.ended is None or not left, f"nobody wants {left}"
    return study


def assert_same(found: Any, expected: Any) -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(expected, float) and isinstance(found, float):
        assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6), (found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), (found, expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), (len(found), len(expected))
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected, (found, expected)


def check_repeats(paths: StudyPaths) -> None:
    """That no epoch was trained again once a checkpoint was known to hold it."""
    known: dict[tuple[int, int], set[int]] = {}
    held: dict[tuple[int, int], int] = {}
    for entry in read(paths.journal):
        record = entry.record
        if isinstance(record, EpochDone):
            epochs = known.setdefault((record.trial, record.execution), set())
            if record.epoch in epochs:
                assert record.epoch > held.get((record.trial, record.execution), 0), f"trained again: {record}"
            epochs.add(record.epoch)
        elif isinstance(record, Checkpointed):
            held[record.trial, record.execution] = record.epoch


def check_mlflow(folder: Path, study: Study) -> None:
    """That MLflow has each trial once, each epoch's point once, and nothing that runs."""
    from search.tracking.mlflow import store

    client = store.connect(store.resolve_uri(None, folder / "runs"), create=False)
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], max_results=10_000)
    ]
    assert len(runs) == len(study.trials) + 1, (len(runs), len(study.trials))
    assert "RUNNING" not in {run.info.status for run in runs}
    by_name = {run.info.run_name: run for run in runs}
    for trial in study.trials.values():
        run = by_name[f"trial-{trial.number:04d}"]
        points = client.get_metric_history(run.info.run_id, "val_loss")
        assert [point.step for point in sorted(points, key=lambda point: point.step)] == [e.epoch for e in trial.curve]


def studies(kills: int, seed: int, only: int | None, folder: Path) -> Iterator[tuple[str, int]]:
    """Search and kill until there were `kills`, with each back end at least once: (back end, kills) of each study."""
    before: dict[str, Study] = {}
    total, number = 0, only or 0
    while total < kills or (only is None and number < len(BACKENDS)):
        name, backend = BACKENDS[number % len(BACKENDS)]
        print(f"study {number}: {name}", flush=True)
        if name not in before:
            (folder / name).mkdir()
            before[name] = undisturbed(folder / name, backend)
        place = folder / f"study-{number}"
        place.mkdir()
        fallen = disturbed(place, backend, f"{seed}/{number}")
        study = check(place, before[name])
        print(f"    {fallen} kills, {study.trained - study.epochs} of {study.epochs} epochs trained again", flush=True)
        shutil.rmtree(place)
        total += fallen
        yield name, fallen
        number += 1
        if only is not None:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=int, help="the number of the one study to search")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="search-kills-"))
    fallen = sum(count for _, count in studies(given.kills, given.seed, given.study, folder))
    print(f"{fallen} kills in {time.monotonic() - began:.0f} s, and nothing was lost")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
