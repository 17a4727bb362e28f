"""The cost of a search beside its training: many trials of one epoch, by the real driver and executors, with MLflow.

    python benchmarks/driver.py [--trials 1000] [--executors inline local] [--workers 2] [--profile]

The model is the smallest possible, and its graph is the same for all trials. The benchmark prints a table; each search
is a process of its own. All columns but the last are milliseconds for each trial:

- wall: the whole search, from the first decision to the last;
- driver: the driver's loop between the messages of its workers, by the clock: decisions, journal, files;
- processor: processor time of the driver's thread, and of the thread that ships to MLflow, which no worker waits for;
- idle: from the end of a slot's segment until the next segment is handed to the worker (`local`);
- synced: seconds after the search's end until MLflow has everything.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from search.driver.loop import Driver
from search.executors.base import Handle
from search.study.records import SegmentEnded

SPACE = """
import keras
import numpy as np

x = np.zeros((32, 1), "float32")

def load_data():
    return (x, x), (x, x)

def build_model(hp):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")), "mse")
    return model
"""


class Timed:
    """An executor that measures how long the driver waits for messages, and how long slots idle.

    Attributes:
        waited: seconds in `poll`, without those of the handler.
        idle: seconds from a segment's end to the start of the next in the same slot, over all slots.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.waited = 0.0
        self.idle = 0.0
        self._ended: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def start(self, slot: int, work: Any) -> None:
        self._executor.start(slot, work)
        if slot in self._ended:
            self.idle += time.perf_counter() - self._ended.pop(slot)

    def poll(self, handle: Handle, timeout: float) -> None:
        handled = 0.0

        def timed(slot: int, work: int, message: Any) -> None:
            nonlocal handled
            began = time.perf_counter()
            if isinstance(message, SegmentEnded):
                self._ended[slot] = began
            handle(slot, work, message)
            handled += time.perf_counter() - began

        began = time.perf_counter()
        self._executor.poll(timed, timeout)
        self.waited += time.perf_counter() - began - handled


def measure(executor: str, workers: int, trials: int, profile: bool) -> dict[str, float]:
    """Run a search in this process, and return its seconds by name."""
    found: dict[str, float] = {}
    profiler = cProfile.Profile()
    run = Driver._run

    def timed(self: Any, records: Any) -> None:
        self._executor = timer = Timed(self._executor)
        wall, own = time.perf_counter(), time.thread_time()
        if profile:
            profiler.enable()
        run(self, records)
        profiler.disable()
        found.update(wall=time.perf_counter() - wall, own=time.thread_time() - own)
        found.update(driver=found["wall"] - timer.waited, idle=timer.idle, waited=timer.waited)
        self._executor = timer._executor

    Driver._run = timed  # type: ignore[method-assign]
    follow = timed_syncer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.py"
        path.write_text(SPACE)
        import search

        search.run(
            path, backend="optuna", sampler="random", pruner="none", max_epochs=1, max_trials=trials, seed=0,
            executor=executor, runs=Path(folder) / "runs", progress=False,
            **({"workers": workers} if executor == "local" else {}),
        )  # fmt: skip
    found["shipper"] = follow["processor"]
    found["synced"] = follow["after"]
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumtime").print_stats(45)
    return found


def timed_syncer() -> dict[str, float]:
    """Patch the MLflow syncer, and return a dict that it fills.

    `processor` becomes the processor time of the shipping thread, `after` the time that the search's end waits for it.
    """
    from search.tracking.mlflow.syncer import Syncer

    found = {"processor": 0.0, "after": 0.0}
    follow, finish = Syncer._follow, Syncer.finish

    def timed_follow(self: Any) -> None:
        follow(self)
        found["processor"] = time.thread_time()

    def timed_finish(self: Any, timeout: float) -> bool:
        began = time.perf_counter()
        complete = finish(self, timeout)
        found["after"] = time.perf_counter() - began
        return complete

    Syncer._follow, Syncer.finish = timed_follow, timed_finish  # type: ignore[method-assign]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--executors", nargs="+", default=["inline", "local"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="print where the driver's thread spends its time")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.here, arguments.workers, arguments.trials, arguments.profile)))
        return
    print("| executor | trials | wall | driver | processor: driver | processor: MLflow | idle | synced, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for executor in arguments.executors:
        command = [sys.executable, __file__, "--here", executor, "--trials", str(arguments.trials)]
        command += ["--workers", str(arguments.workers), *(["--profile"] if arguments.profile else [])]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(printed.splitlines()[-1])
        each = {name: 1e3 * seconds / arguments.trials for name, seconds in found.items()}
        row = (f"{each[name]:.1f}" for name in ("wall", "driver", "own", "shipper", "idle"))
        print(f"| {executor} | {arguments.trials} | {' | '.join(row)} | {found['synced']:.1f} |")


if __name__ == "__main__":
    main()
