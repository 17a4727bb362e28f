"""The time of a whole script with a tiny search: KerasTuner against this package, which KerasTuner's users try first.

    python benchmarks/tiny_search.py [--rounds 5]

Each script imports Keras and the tuner, searches three trials of an epoch on 64 samples, and prints the results. The
contestants take turns, a whole process each, so a busy machine slows all alike. Beside the wall time there is the
processor time of the process and its children, which tells more on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

SCRIPT = """
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
tuner.search(x[:48], y[:48], epochs=1, validation_data=(x[48:], y[48:]), verbose=0)
tuner.results_summary()
"""

OURS = "import search as tuners"
CONTESTANTS = {
    "KerasTuner": {"imports": "import keras_tuner as tuners", "before": ""},
    "search": {"imports": OURS, "before": ""},
    # An optimizer outside of the factory starts TensorFlow, so the workers come from a new Python.
    "search, TensorFlow running": {"imports": OURS, "before": "keras.optimizers.Adam()"},
}


def run(script: str) -> tuple[float, float]:
    """Run a script in an empty folder. Return its wall time and its processor time, in seconds."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        file = Path(folder, "script.py")
        file.write_text(script)
        used, began = processor_time(), time.monotonic()
        subprocess.run([sys.executable, file], cwd=folder, env=environment, check=True, capture_output=True)
        return time.monotonic() - began, processor_time() - used


def processor_time() -> float:
    """Return the processor time of all processes that this one has waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(given.rounds):
        for name, parts in CONTESTANTS.items():
            times[name].append(run(SCRIPT.format(**parts)))
    print("| script | wall, s | processor, s | wall by KerasTuner's | least | most |")
    print("| --- | --- | --- | --- | --- | --- |")
    base = [wall for wall, _ in times["KerasTuner"]]
    for name, runs in times.items():
        wall, processor = (statistics.median(values) for values in zip(*runs, strict=True))
        ratios = [own / other for (own, _), other in zip(runs, base, strict=True)]
        shown = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
        print(f"| {name} | {wall:.1f} | {processor:.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
