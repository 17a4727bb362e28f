"""The time of a whole script with a tiny search: KerasTuner against this package, which KerasTuner's users try first.

    python benchmarks/tiny_search.py [--rounds 5]

Each script imports Keras and the tuner, searches three trials of an epoch on 64 samples, and prints the results. The
contestants take turns, a whole process each, so a busy machine slows all alike. The wall time is shown until the search
returns and until the process ends. Beside it there is the processor time of the process and its children, which tells
more on a busy machine, and that of what goes on after the process: it sends the study to MLflow.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

SCRIPT = """
import time
import keras
import numpy as np
{imports}

def build_model(hp):
    layers = [keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    return model

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1)
{before}
tuner = tuners.RandomSearch(build_model, "val_loss", max_trials=3, seed=0, directory="runs", project_name="tiny")
began = time.monotonic()
tuner.search(x[:48], y[:48], epochs=1, validation_data=(x[48:], y[48:]), verbose=0)
print("searched", time.monotonic() - began)
tuner.results_summary()
"""

OURS = "import search.compat.keras_tuner as tuners"
CONTESTANTS = {
    "KerasTuner": {"imports": "import keras_tuner as tuners", "before": ""},
    "search": {"imports": OURS, "before": ""},
    # An optimizer outside of the factory starts TensorFlow, so the workers come from the early fork.
    "search, TensorFlow running": {"imports": OURS, "before": "keras.optimizers.Adam()"},
}


SUBREAPER = 36
"""The number of Linux's option by which a process becomes the parent of orphans below it."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times of a script in seconds: wall times of the search and of the process, and processor times."""

    search: float
    wall: float
    processor: float
    afterwards: float


def run(script: str) -> Times:
    """Run a script in an empty folder, and wait for all that it leaves behind."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    for name in ("MLFLOW_TRACKING_URI", "CI"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        file = Path(folder, "script.py")
        file.write_text(script)
        used, began = processor_time(), time.monotonic()
        done = subprocess.run(
            [sys.executable, file], cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        wall, until_end = time.monotonic() - began, processor_time()
        with suppress(ChildProcessError):
            while True:
                os.wait()
        searched = next(line for line in done.stdout.splitlines() if line.startswith("searched"))
        return Times(float(searched.split()[1]), wall, until_end - used, processor_time() - until_end)


def processor_time() -> float:
    """Return the processor time of all processes that this one has waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    times: dict[str, list[Times]] = {name: [] for name in CONTESTANTS}
    for _ in range(given.rounds):
        for name, parts in CONTESTANTS.items():
            times[name].append(run(SCRIPT.format(**parts)))
    print("| script | search, s | wall, s | processor, s | afterwards, s | wall by KerasTuner's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in times.items():
        columns = [shown(values) for values in zip(*map(astuple, runs), strict=True)]
        ratios = [own.wall / other.wall for own, other in zip(runs, times["KerasTuner"], strict=True)]
        print(f"| {' | '.join([name, *columns, shown(ratios, 2)])} |", flush=True)


def shown(values: Sequence[float], digits: int = 1) -> str:
    """Return the median of values with their range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
