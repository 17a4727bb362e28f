"""The speed of a search's decisions: many trials on many simulated workers, by the real driver, with a real journal.

    python benchmarks/scale.py [--trials 1000 --workers 100] [--searches hyperband asha optuna-random optuna-tpe]
    python benchmarks/scale.py --trials 10000 --workers 1000 --nodes 125 --deaths 60 --searches hyperband

Nothing is trained: see `search.executors.simulated`. Only the work of the driver's process between the messages of its
workers remains. The benchmark prints a table; each search is a process of its own.

- messages: the number of messages from workers, each an event that the controller decides on;
- messages/s: over the whole search by the clock: controller, back end, journal, and the simulated workers themselves;
- mean, 99.9 %, slowest: seconds of a decision (`Controller.handle`), without the pauses of Python's garbage collector;
  the longest pause has its own column;
- peak: resident memory of the process, with the simulated workers and their disk;
- state: the memory of controller, study and back end at the end;
- fold: reading the journal and bringing controller and back end to their last state, as a resume does.

All times but messages/s are processor times, so other work of the machine is no part of them.

A search repeats to the last record, so it is run `--repeats` times, and the best time of each decision counts.

With `--nodes` the workers are on so many nodes. One of them dies every `--deaths` virtual seconds, half of the time
with its messages in transit, and is back after ten minutes; the driver hears of it after ten seconds. As often a node
becomes a straggler, slower by a factor with a heavy tail, for five minutes in the mean. An epoch takes about 30 s, a
checkpoint one second. A second table says what became of the trials:

- deaths, moved: nodes that died, and segments that were lost with them;
- lost: trials that failed or never ended. No trial fails by itself here, so there should be none;
- again: epochs that were trained again, and those that a death cut short;
- below a checkpoint: those of them that a journaled checkpoint had. There should be none.
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
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search.backends.base import BackEnd
from search.backends.brackets import plan_brackets
from search.backends.registry import make_backend
from search.driver.computations import VirtualComputations
from search.driver.loop import Driver
from search.executors.simulated import Hp, Run, Scenario, SimulatedExecutor
from search.executors.simulated_nodes import Cluster, RandomEvents
from search.messages import Lost, Segment, SlotClosed
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.events import Event, FromWorker, Reaction, SlotChanged
from search.scheduler.limits import Limits
from search.space.file import SpaceRef
from search.study.journal import Journal, read_all
from search.study.paths import StudyPaths
from search.study.records import FORMAT, BackendChanged, Header, SearchStarted
from search.study.study import Study
from search.study.trial import Objective

SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "hyperband": ("hyperband", {}),
    "asha": ("asha", {}),
    "freeze-thaw": ("freeze-thaw", {}),
    "optuna-random": ("optuna", {"sampler": "random", "pruner": "hyperband"}),
    "optuna-tpe": ("optuna", {"sampler": "tpe", "pruner": "hyperband"}),
}
MAX_EPOCHS = 81
COMPUTING = 0.4
"""Virtual seconds of a back end's computation, as the fit of a model."""

CLUSTER_EPOCH = 30.0
"""Virtual seconds of an epoch on a cluster: so short a search that no node dies would show nothing."""


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


def wide(hp: Hp) -> None:
    """Ask for the values of a space of 30 parameters."""
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    for index in range(29):
        hp.Float(f"x{index}", 0.0, 1.0)


def value(run: Run, epoch: int) -> float:
    rate = run["rate"]
    assert isinstance(rate, float)
    return 0.1 * abs(math.log10(rate) + 2.5) + 1 / (epoch + 1)


SPACES = {"mixed": ask, "finite": finite, "wide": wide}


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
    """A controller that notes the seconds of each decision on a message.

    Attributes:
        seconds: of each decision.
        closed: slots that were closed.
        moved: segments that were lost.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds: list[float] = []
        self.closed = self.moved = 0

    def handle(self, event: Event, now: float) -> Reaction:
        began, paused = time.thread_time(), PAUSES.total
        reaction = super().handle(event, now)
        if isinstance(event, (FromWorker, SlotChanged)):
            self.seconds.append(time.thread_time() - began - (PAUSES.total - paused))
            self.closed += isinstance(event.message, SlotClosed)
            self.moved += isinstance(event.message, Lost)
        return reaction


class Counting(SimulatedExecutor):
    """Simulated workers that count the epochs which they train although a journaled checkpoint has them.

    Args:
        study: the study of their trials.
    """

    def __init__(self, study: Study, scenario: Scenario, cluster: Cluster) -> None:
        super().__init__(scenario, cluster=cluster)
        self.below = 0
        self._study = study

    def epoch_begins(self, segment: Segment, epoch: int) -> None:
        self.below += epoch <= self._study.trials[segment.trial].execution(segment.execution).checkpoint
        super().epoch_begins(segment, epoch)


class Unseen:
    """A view that shows nothing."""

    def update(self, now: float) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def name_slot(self, slot: int, label: str | None) -> None:
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


def cluster_of(given: argparse.Namespace) -> Cluster:
    """Return the cluster that the command line describes; by default each worker is on a node that lives on."""
    if given.nodes is None:
        return Cluster(given.workers)
    if given.workers % given.nodes:
        sys.exit(f"--workers {given.workers} cannot be divided among --nodes {given.nodes}")
    events = RandomEvents(given.deaths, slows_every=given.deaths, regular=True, noticed_after=10.0)
    return Cluster(given.nodes, given.workers // given.nodes, events)


def scenario_of(given: argparse.Namespace) -> Scenario:
    """Return the behaviour of the trials."""
    scenario = Scenario(SPACES[given.space], value)
    if given.nodes is not None:
        scenario = replace(scenario, seconds=lambda run: CLUSTER_EPOCH, saving=lambda run: 1.0)
    failing = 0.0 if given.nodes is not None else 0.0005
    return scenario.disturbed(
        noise=lambda rng: rng.gauss(0, 0.02), pace=lambda rng: rng.lognormvariate(0, 0.3), failing=failing
    )


def search(controller: Timed, executor: Counting, scenario: Scenario, paths: StudyPaths, backend: str) -> None:
    """Run the search to its end."""
    driver = Driver(
        controller,
        Journal(paths.journal),
        executor,
        SpaceRef(),
        paths,
        Options(),
        view=Unseen(),
        computations=VirtualComputations(executor, COMPUTING),
        now=executor.now,
    )
    header = Header(FORMAT, "0", "study", 0, (Objective("val_loss", "min"),), "", "", scenario.parameters(), {})
    driver.run([header, BackendChanged(backend, {}), SearchStarted("here", 0, {})])


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one search, fold its journal, and return the figures of both."""
    scenario, cluster = scenario_of(given), cluster_of(given)
    with tempfile.TemporaryDirectory() as folder:
        paths = StudyPaths.of(folder, "study")
        paths.folder.mkdir()
        controller = controller_of(name, given.trials, given.workers)
        executor = Counting(controller.study, scenario, cluster)
        began = time.perf_counter()
        search(controller, executor, scenario, paths, SEARCHES[name][0])
        searched, peak, pause = time.perf_counter() - began, resident(), PAUSES.longest
        folded = fold(name, given, paths)
        trials = controller.study.trials.values()
        assert folded["folded_trials"] == len(trials)
        return {
            "trials": len(trials),
            "epochs": controller.study.epochs,
            "seconds": searched,
            "decisions": controller.seconds,
            "pause": pause,
            "peak": peak,
            "journal": paths.journal.stat().st_size / 1e6,
            "hours": controller.study.seconds() / 3600,
            "deaths": controller.closed // cluster.slots_per_node,
            "moved": controller.moved,
            "lost": sum(trial.failed or not trial.ended for trial in trials),
            "again": executor.trained - controller.study.epochs,
            "below": executor.below,
            **folded,
        }


def fold(name: str, given: argparse.Namespace, paths: StudyPaths) -> dict[str, float]:
    """Fold the journal as a resume does, and return the seconds and the megabytes that remain."""

    def replayed() -> Controller:
        controller = controller_of(name, given.trials, given.workers)
        controller.replay(read_all(paths.journal))
        return controller

    began = time.thread_time()
    replayed()
    folded = time.thread_time() - began
    tracemalloc.start()
    controller = replayed()
    gc.collect()
    state = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return {"fold": folded, "state": state, "folded_trials": len(controller.study.trials)}


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
        f"{best['state']:.0f}",
        f"{best['journal']:.1f}",
        f"{best['fold']:.1f}",
    ]
    return " | ".join(["", name, *figures, ""]).strip()


def cluster_row(name: str, run: dict[str, Any]) -> str:
    """Return a line of the table of clusters."""
    figures = [f"{run[key]}" for key in ("deaths", "moved", "lost", "again", "below")]
    return " | ".join(["", name, f"{run['hours']:.1f}", *figures, ""]).strip()


def head(*columns: str) -> str:
    """Return the head of a table."""
    return f"| {' | '.join(columns)} |\n| {' | '.join(['---'] * len(columns))} |"


def measured(name: str, repeats: int) -> list[dict[str, Any]]:
    """Return the figures of a search, each time in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
    done = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in range(repeats)]
    return [json.loads(each.stdout) for each in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--nodes", type=int, help="divide the workers among so many nodes, which die")
    parser.add_argument("--deaths", type=float, default=60.0, help="virtual seconds between two deaths")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--space", choices=SPACES, default="mixed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=SEARCHES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cluster_of(given)
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    on = f"{given.workers} workers" + (f" on {given.nodes} nodes" if given.nodes is not None else "")
    print(f"{given.trials} trials on {on}, space {given.space}, max_epochs {MAX_EPOCHS}\n")
    counts = "search", "trials", "epochs", "messages", "messages/s"
    times = "mean, ms", "99.9 %, ms", "slowest, ms", "longest pause, ms"
    print(head(*counts, *times, "peak, MB", "state, MB", "journal, MB", "fold, s"), flush=True)
    found = {}
    for name in given.searches:
        found[name] = measured(name, given.repeats)
        print(row(name, found[name]), flush=True)
    if given.nodes is not None:
        print(f"\n{head('search', 'hours', 'deaths', 'moved', 'lost', 'again', 'below a checkpoint')}")
        for name, runs in found.items():
            print(cluster_row(name, runs[0]))


if __name__ == "__main__":
    main()
