"""The speed of a search's decisions: many trials on many simulated workers, by the real driver, with a real journal.

    python benchmarks/scale.py [--trials 1000 --workers 100] [--searches hyperband optuna-random optuna-tpe]

Nothing is trained: see `search.executors.simulated`. Only the work of the driver's process between the messages of its
workers remains. The benchmark prints a table; each search is a process of its own.

- messages: the number of messages from workers, each an event that the controller decides on;
- messages/s: over the whole search by the clock: controller, back end, journal, and the simulated workers themselves;
- mean, 99.9 %, slowest: seconds of a decision (`Controller.handle`), without the pauses of Python's garbage collector;
  the longest pause has its own column;
- peak: resident memory of the process;
- fold: reading the journal and bringing controller and back end to their last state, as a resume does.

All times but messages/s are processor times, so other work of the machine is no part of them.

A search repeats to the last record, so it is run `--repeats` times, and the best time of each decision counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from search.backends.base import BackEnd
from search.backends.brackets import plan_brackets
from search.backends.registry import make_backend
from search.driver.loop import Driver
from search.executors.simulated import Hp, Run, Scenario, SimulatedExecutor
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.events import Event, FromWorker, Reaction
from search.scheduler.limits import Limits
from search.space.file import SpaceRef
from search.study.journal import Journal, read_all
from search.study.paths import StudyPaths
from search.study.records import FORMAT, BackendChanged, Header, SearchStarted
from search.study.study import Study
from search.study.trial import Objective

SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "hyperband": ("hyperband", {}),
    "optuna-random": ("optuna", {"sampler": "random", "pruner": "hyperband"}),
    "optuna-tpe": ("optuna", {"sampler": "tpe", "pruner": "hyperband"}),
}
MAX_EPOCHS = 81


def ask(hp: Hp) -> None:
    """Ask for the values of a typical space: eight parameters, some of them conditional."""
    layers = hp.Int("layers", 1, 3)
    for layer in range(layers):
        hp.Int(f"units_{layer}", 16, 512, sampling="log")
    if hp.Choice("optimizer", ["adam", "sgd"]) == "sgd":
        hp.Float("momentum", 0.0, 0.99)
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Float("dropout", 0.0, 0.7)
    hp.Choice("activation", ["relu", "tanh", "gelu"])


def finite(hp: Hp) -> None:
    """Ask for the values of a finite space of 49,152 configurations, none of which may be tried twice."""
    hp.Choice("optimizer", ["adam", "sgd", "rmsprop"])
    for layer in range(3):
        hp.Int(f"units_{layer}", 32, 512, step=32)
    hp.Choice("rate", [1e-4, 1e-3, 1e-2, 1e-1])


def value(run: Run, epoch: int) -> float:
    rate = run["rate"]
    assert isinstance(rate, float)
    return 0.1 * abs(math.log10(rate) + 2.5) + 1 / (epoch + 1)


SPACES = {"mixed": ask, "finite": finite}


class Pauses:
    """The pauses of Python's garbage collector, in seconds of processor time: their total, and the longest."""

    def __init__(self) -> None:
        self.total = self.longest = self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: Mapping[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._began = now
        else:
            self.total += now - self._began
            self.longest = max(self.longest, now - self._began)


PAUSES = Pauses()


class Timed(Controller):
    """A controller that notes the seconds of each decision on a worker's message."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds: list[float] = []

    def handle(self, event: Event, now: float) -> Reaction:
        began, paused = time.thread_time(), PAUSES.total
        reaction = super().handle(event, now)
        if isinstance(event, FromWorker):
            self.seconds.append(time.thread_time() - began - (PAUSES.total - paused))
        return reaction


class Unseen:
    """A view that shows nothing."""

    def update(self, now: float) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


def controller_of(name: str, trials: int, workers: int) -> Timed:
    """Return the controller of a new study that ends after `trials` trials."""
    backend, options = SEARCHES[name]
    plan = plan_brackets(MAX_EPOCHS)
    iterations = {"iterations": -(-trials // plan.trial_count)} if backend == "hyperband" else {}
    study = Study()

    def make(_: BackendChanged) -> BackEnd:
        everything = {"max_epochs": MAX_EPOCHS, "factor": 3, **options, **iterations}
        return make_backend(backend, everything, study.objective, study.seed, study.parameters)

    return Timed(study, make, Limits(max_trials=trials), workers, MAX_EPOCHS)


def search(controller: Timed, scenario: Scenario, paths: StudyPaths, workers: int, phase: BackendChanged) -> None:
    """Run the search to its end."""
    executor = SimulatedExecutor(scenario, workers)
    driver = Driver(
        controller,
        Journal(paths.journal),
        executor,
        SpaceRef(),
        paths,
        Options(),
        view=Unseen(),
        now=executor.now,
    )
    header = Header(FORMAT, "0", "study", 0, (Objective("val_loss", "min"),), "", "", scenario.parameters(), {})
    driver.run([header, phase, SearchStarted("here", 0, {})])


def measure(name: str, space: str, trials: int, workers: int) -> dict[str, Any]:
    """Run one search, fold its journal, and return the figures of both."""
    scenario = Scenario(SPACES[space], value).disturbed(
        noise=lambda rng: rng.gauss(0, 0.02), pace=lambda rng: rng.lognormvariate(0, 0.3), failing=0.0005
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = StudyPaths.of(folder, "study")
        paths.folder.mkdir()
        controller = controller_of(name, trials, workers)
        began = time.perf_counter()
        search(controller, scenario, paths, workers, BackendChanged(SEARCHES[name][0], {}))
        searched, peak = time.perf_counter() - began, resident()
        again = controller_of(name, trials, workers)
        began = time.thread_time()
        again.replay(read_all(paths.journal))
        folded = time.thread_time() - began
        assert len(again.study.trials) == len(controller.study.trials)
        return {
            "trials": len(controller.study.trials),
            "epochs": controller.study.epochs,
            "seconds": searched,
            "decisions": controller.seconds,
            "pause": PAUSES.longest,
            "peak": peak,
            "journal": paths.journal.stat().st_size / 1e6,
            "fold": folded,
        }


def resident() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """Return a line of the table, with the best of the repeats for each figure."""
    best = {key: min(run[key] for run in runs) for key in runs[0] if key != "decisions"}
    decisions = sorted(map(min, zip(*(run["decisions"] for run in runs), strict=True)))
    count = len(decisions)
    figures = [
        f"{best['trials']}",
        f"{best['epochs']}",
        f"{count}",
        f"{count / best['seconds']:.0f}",
        f"{1e3 * sum(decisions) / count:.3f}",
        f"{1e3 * decisions[int(0.999 * count)]:.2f}",
        f"{1e3 * decisions[-1]:.2f}",
        f"{1e3 * best['pause']:.0f}",
        f"{best['peak']:.0f}",
        f"{best['journal']:.1f}",
        f"{best['fold']:.1f}",
    ]
    return " | ".join(["", name, *figures, ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--space", choices=SPACES, default="mixed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=SEARCHES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.space, given.trials, given.workers)))
        return
    print(f"{given.trials} trials on {given.workers} workers, space {given.space}, max_epochs {MAX_EPOCHS}\n")
    counts = "trials | epochs | messages | messages/s"
    times = "mean, ms | 99.9 %, ms | slowest, ms | longest pause, ms"
    print(f"| search | {counts} | {times} | peak, MB | journal, MB | fold, s |")
    print(f"| ---{' | ---' * 11} |", flush=True)
    command = [sys.executable, __file__, "--trials", str(given.trials), "--workers", str(given.workers)]
    for name in given.searches:
        runs = []
        for _ in range(given.repeats):
            done = subprocess.run(
                [*command, "--space", given.space, "--one", name], stdout=subprocess.PIPE, text=True, check=True
            )
            runs.append(json.loads(done.stdout))
        print(row(name, runs), flush=True)


if __name__ == "__main__":
    main()
