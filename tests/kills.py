"""Random kills of drivers, workers and zygotes while a search trains.

    python tests/kills.py --kills 200 --seed 0

A study is searched, its processes are killed, and the search is resumed until it has ended. Then its results must be
those of an undisturbed search, to 1e-6. The next study has another back end, and so on, until there were enough kills.

The kills of a process follow from (seed, study, process). Most fall at the n-th record of the journal (before, within
or after its line), at the n-th batch for MLflow, or at a worker's n-th checkpoint, so with one worker they repeat. The
others fall at a time, as in practice. The kills of each process are printed, so that a failure can be repeated:

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, closing, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forks
import psutil
from places import STATEFUL

from search.results.study_results import StudyResults
from search.study.journal import read
from search.study.paths import StudyPaths
from search.study.records import Checkpointed, EpochDone
from search.study.study import Study

BACKENDS = (
    ("hyperband", ["--backend", "hyperband"]),
    ("asha", ["--backend", "asha", "--max-total-epochs", "30"]),
    ("freeze-thaw", ["--backend", "freeze-thaw:cost=epochs", "--max-total-epochs", "40"]),
    ("optuna-tpe", ["--backend", "optuna", "--sampler", "tpe", "--pruner", "median:n_startup_trials=2"]),
    ("optuna-random", ["--backend", "optuna", "--sampler", "random", "--max-total-epochs", "30"]),
)
DRIVER_KILLS = (
    *("driver before", "driver within", "driver after", "driver at", "driver and zygote", "terminal"),
    *("batch before", "batch after"),
)
OTHER_KILLS = ("worker", "worker at", "zygote", "checkpoint write", "checkpoint rename", "probe", "evaluation")


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        what: one of `DRIVER_KILLS` or `OTHER_KILLS`: the process, and the event at which it is killed.
        n: the number of the record, batch or checkpoint; seconds for "driver at" and "worker at", and from the begin of
            a probe or a final evaluation.
    """

    what: str
    n: float


def draw_kills(rng: random.Random) -> list[Kill]:
    """Draw the kills of one driver process: some that the driver survives, and mostly one of the driver itself."""
    kills = []
    for _ in range(rng.randint(0, 4)):
        what = rng.choice(OTHER_KILLS)
        kills.append(Kill(what, draw_number(what, rng)))
    if rng.random() < 0.6 or not kills:
        what = rng.choice(DRIVER_KILLS)
        kills.append(Kill(what, draw_number(what, rng)))
    return kills


def draw_number(what: str, rng: random.Random) -> float:
    """Draw the `n` of a kill."""
    if what.endswith(" at"):
        return round(rng.uniform(0.0, 10.0), 3)
    if what in ("probe", "evaluation"):
        return round(rng.uniform(0.0, 1.0), 3)
    return rng.randint(1, {"batch": 8, "checkpoint": 15}.get(what.split()[0], 100))


# In the driver's process ----------------------------------------------------------------------------------------------


def arrange_kills(kills: Sequence[Kill]) -> None:
    """Arrange the kills of this driver process. Each kill adds a line to the file `killed`."""
    from search.executors.local import LocalExecutor
    from search.messages import Evaluate
    from search.study.journal import Entry, Journal

    executors: list[LocalExecutor] = []
    initialize, append = LocalExecutor.__init__, Journal.append
    count = 0

    def note(kill: Kill) -> None:
        with open("killed", "a") as file:
            print(json.dumps(asdict(kill)), file=file)

    def die(kill: Kill) -> None:
        note(kill)
        if kill.what == "driver and zygote":
            with suppress(ProcessLookupError):  # it has been killed before
                os.kill(executors[0].zygote_pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def close_terminal(kill: Kill) -> None:
        """Let all output fail, and send what the system sends to the processes of a terminal that is closed."""
        note(kill)
        reading, writing = os.pipe()
        os.close(reading)
        for descriptor in (1, 2):
            os.dup2(writing, descriptor)
        os.kill(os.getpid(), signal.SIGHUP)

    def kill_other(kill: Kill) -> None:
        """Kill the zygote or a worker."""
        pids = executors[0].pids() if executors else {}
        if kill.what == "zygote":
            note(kill)
            with suppress(ProcessLookupError):
                os.kill(executors[0].zygote_pid, signal.SIGKILL)
        elif pids:
            note(kill)
            with suppress(ProcessLookupError):
                os.kill(pids[min(pids)], signal.SIGKILL)

    def initialize_and_note(self: LocalExecutor, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)
        executors.append(self)

    def append_and_kill(self: Journal, records: Any, time: float | None = None) -> list[Entry]:
        nonlocal count
        entries = []
        for record in records:
            count += 1
            due = [kill for kill in kills if kill.n == count]
            for kill in due:
                if kill.what in ("driver before", "driver and zygote"):
                    die(kill)
                elif kill.what == "driver within":
                    from search.study.journal import format_line

                    line = format_line(record, time or 0.0)
                    with open(self.path, "ab", buffering=0) as file:
                        file.write(line[: random.Random(count).randrange(1, len(line))])
                    die(kill)
            entries += append(self, [record], time)
            for kill in due:
                if kill.what == "driver after":
                    die(kill)
                elif kill.what == "terminal":
                    close_terminal(kill)
                elif kill.what in ("worker", "zygote"):
                    kill_other(kill)
        return entries

    def in_a_while(what: str) -> None:
        """Kill a worker some time after the first probe or final evaluation begins. The second one goes on."""
        for kill in [kill for kill in kills if kill.what == what][:1]:
            _start_timer(kill, kill_other)
        kills[:] = [kill for kill in kills if kill.what != what]

    def probe_and_kill(self: LocalExecutor, *arguments: Any) -> Any:
        in_a_while("probe")
        return probe(self, *arguments)

    def start_and_kill(self: LocalExecutor, slot: int, work: Any) -> None:
        start(self, slot, work)
        if isinstance(work, Evaluate):
            in_a_while("evaluation")

    kills = list(kills)
    probe, start = LocalExecutor.probe, LocalExecutor.start
    patches: Any = LocalExecutor
    patches.__init__, patches.probe, patches.start = initialize_and_note, probe_and_kill, start_and_kill
    Journal.append = append_and_kill  # type: ignore[method-assign]
    for kill in kills:
        if kill.what.endswith(" at"):
            _start_timer(kill, die if kill.what == "driver at" else kill_other)
        elif kill.what.startswith("checkpoint"):
            os.environ["DIE_IN_CHECKPOINT"] = f"{kill.n:g}:{kill.what.split()[1]}"
    batches = [kill for kill in kills if kill.what.startswith("batch")]
    if batches:
        _die_in_batches(batches, die)


def _start_timer(kill: Kill, act: Callable[[Kill], None]) -> None:
    timer = threading.Timer(kill.n, act, [kill])
    timer.daemon = True
    timer.start()


def _die_in_batches(kills: Sequence[Kill], die: Any) -> None:
    from search.tracking.mlflow import store

    store.configure_mlflow()
    from mlflow import MlflowClient

    log_batch, count = MlflowClient.log_batch, 0

    def log_and_die(*arguments: Any, **options: Any) -> Any:
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

    MlflowClient.log_batch = log_and_die


# Studies --------------------------------------------------------------------------------------------------------------


def history(study: Study) -> list[Any]:
    """Return all facts of a study that kills must not change."""
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


def run_here(folder: Path, arguments: Sequence[str]) -> int:
    """Run `search` with `arguments` in `folder`, in this process, and return its exit code."""
    from search.cli import main

    with chdir(folder), open("output.txt", "a") as output, redirect_stdout(output), redirect_stderr(output):
        return main(list(arguments))


def start_driver(
    folder: Path, arguments: Sequence[str], kills: Sequence[Kill], templates: forks.Templates
) -> forks.Process:
    """Start `search` with `arguments` and `kills` in `folder`, in a process of its own.

    This process, its zygote, and each zygote that replaces a killed one are forks: none has to import a framework.
    """
    code = "import sys; from kills import *; sys.exit(run_driver())"
    environment = {
        **os.environ,
        "CHILDREN": "1" if len(kills) % 2 else "",
        "KILLS": json.dumps([asdict(kill) for kill in kills]),
        "ZYGOTES": templates.address("keras"),
    }
    with (folder / "output.txt").open("a") as output:
        return forks.start(
            templates.address("driver"),
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=environment,
            output=output.fileno(),
        )


def run_driver() -> int:
    """Run the command line of this process with the kills in the environment variable KILLS."""
    from search.cli import main
    from search.executors import zygotes

    patched: Any = zygotes
    patched.subprocess = forked_zygotes(os.environ["ZYGOTES"])
    arrange_kills([Kill(**kill) for kill in json.loads(os.environ["KILLS"])])
    return main(sys.argv[1:])


def forked_zygotes(address: str) -> SimpleNamespace:
    """Return what `search.executors.zygotes` can have for `subprocess`: the template at `address` forks its zygotes."""

    def start(*arguments: Any, **options: Any) -> forks.Process:
        return forks.start(address, *arguments, **options)

    return SimpleNamespace(**{**vars(subprocess), "Popen": start})


def search_arguments(backend: Sequence[str], workers: int = 1) -> list[str]:
    """Return the command that begins or resumes the study."""
    arguments = ["run", "stateful.py", "--study", "study", "--seed", "0", "--resume", "--no-progress"]
    # Many retries: a trial whose worker is killed several times must not fail.
    return [*arguments, "--workers", str(workers), "--retries", "1000", *backend]


def search_with_kills(
    folder: Path, backend: Sequence[str], seed: object, templates: forks.Templates, workers: int = 1
) -> int:
    """Search in `folder` to the end, with kills, and return the number of kills."""
    shutil.copy(STATEFUL, folder)
    for number in range(1000):
        kills = draw_kills(random.Random(f"{seed}/{number}"))
        code = start_driver(folder, search_arguments(backend, workers), kills, templates).wait()
        check_nobody_is_left(folder)
        print(
            f"    process {number}: exit {code}, {', '.join(f'{kill.what} {kill.n:g}' for kill in kills)}", flush=True
        )
        if code == 0:
            noted = (folder / "killed").read_text().splitlines() if (folder / "killed").exists() else []
            return len(noted) + len(list(folder.glob("died-*")))
        stopped = 130 if any(kill.what == "terminal" for kill in kills) else None
        assert code in (-signal.SIGKILL, stopped), f"exit {code}: see {folder / 'output.txt'}"
    raise AssertionError("the search does not end")


LEFT_SECONDS = 5.0
"""Seconds after which no process of a driver that has ended may be there."""


def check_nobody_is_left(folder: Path) -> None:
    """Assert that all processes that a driver has started in `folder` end, and their children."""
    end = time.monotonic() + LEFT_SECONDS
    while left := [process for process in psutil.process_iter() if _works_in(process, folder)]:
        assert time.monotonic() < end, (
            f"processes are left: {[process.as_dict(['pid', 'cmdline']) for process in left]}"
        )
        time.sleep(0.1)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder.resolve()
    except psutil.Error:
        return False


def search_undisturbed(folder: Path, backend: Sequence[str], workers: int = 1) -> Study:
    """Search in `folder` without kills, and return the study."""
    shutil.copy(STATEFUL, folder)
    assert run_here(folder, search_arguments(backend, workers)) == 0, (folder / "output.txt").read_text()[-3000:]
    return StudyResults(StudyPaths.of(folder / "runs", "study")).study


def check_study(folder: Path, undisturbed: Study) -> Study:
    """Assert that the study in `folder` equals the undisturbed one, also in MLflow, and return it."""
    paths = StudyPaths.of(folder / "runs", "study")
    study = StudyResults(paths).study
    check_repeats(paths)
    assert_same(history(study), history(undisturbed))
    assert study.end is not None
    assert study.end.complete
    assert paths.model.exists(), "the best model is not there"
    check_mlflow(folder, study)
    for trial in study.trials.values():
        left = list(paths.trial(trial.number).folder.glob("checkpoint-*"))
        assert not trial.ended or not left, f"the trial has ended, and its checkpoints are left: {left}"
    return study


def assert_same(found: Any, expected: Any) -> None:
    """Assert that `found` equals `expected`, with numbers to 1e-6."""
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
    """Assert that no epoch was trained again after the record of a checkpoint that includes it."""
    reported: dict[tuple[int, int], set[int]] = {}
    checkpointed: dict[tuple[int, int], int] = {}
    for entry in read(paths.journal):
        record = entry.record
        if isinstance(record, EpochDone):
            epochs = reported.setdefault((record.trial, record.execution), set())
            if record.epoch in epochs:
                assert record.epoch > checkpointed.get((record.trial, record.execution), 0), f"trained again: {record}"
            epochs.add(record.epoch)
        elif isinstance(record, Checkpointed):
            checkpointed[record.trial, record.execution] = record.epoch


def check_mlflow(folder: Path, study: Study) -> None:
    """Assert that MLflow has each trial once, each epoch's point once, and no running run."""
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


def search_studies(
    kills: int, seed: int, only: int | None, folder: Path, templates: forks.Templates
) -> Iterator[tuple[str, int]]:
    """Search studies until there were `kills`, with each back end at least once, and check each.

    Args:
        kills: the least number of kills, in all studies together.
        seed: of the kills.
        only: the number of the one study to search; None searches from number 0 on.
        folder: an empty folder.

    Yields:
        (back end, number of kills) of each study.
    """
    undisturbed: dict[str, Study] = {}
    total, number = 0, only or 0
    while total < kills or (only is None and number < len(BACKENDS)):
        name, backend = BACKENDS[number % len(BACKENDS)]
        print(f"study {number}: {name}", flush=True)
        if name not in undisturbed:
            (folder / name).mkdir()
            undisturbed[name] = search_undisturbed(folder / name, backend)
        place = folder / f"study-{number}"
        place.mkdir()
        count = search_with_kills(place, backend, f"{seed}/{number}", templates)
        study = check_study(place, undisturbed[name])
        print(f"    {count} kills, {study.trained - study.epochs} of {study.epochs} epochs trained again", flush=True)
        shutil.rmtree(place)
        total += count
        yield name, count
        number += 1
        if only is not None:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=int, help="the number of the one study to search")
    arguments = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="search-kills-"))
    with closing(forks.Templates()) as templates:
        studies = search_studies(arguments.kills, arguments.seed, arguments.study, folder, templates)
        total = sum(count for _, count in studies)
    print(f"{total} kills in {time.monotonic() - began:.0f} s, and nothing was lost")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
