"""The same Hyperband search by KerasTuner and by search, on the same space, one after the other, several times.

    pip install '.[bench]'
    python benchmarks/digits.py [--max-epochs 9] [--seeds 3]

Prints a table: seconds of the whole command (imports and MLflow included), trials, epochs, milliseconds an epoch, and
the best validation accuracy, each as the median over the seeds. Each run is a process of its own, and A and B
alternate, so that a noisy machine does to both what it does to one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPACE = Path(__file__).parents[1] / "spaces" / "digits.py"

KERAS_TUNER = """
import importlib.util, json, sys, time
import keras, keras_tuner
spec = importlib.util.spec_from_file_location("space", sys.argv[1])
space = importlib.util.module_from_spec(spec)
spec.loader.exec_module(space)

class Digits(keras_tuner.HyperModel):
    def build(self, hp):
        model = space.build_model(hp)
        space.compile_model(hp, model)
        return model

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, **{**kwargs, **space.fit_options(hp)})

class Count(keras.callbacks.Callback):
    epochs = 0
    def on_epoch_end(self, epoch, logs=None):
        Count.epochs += 1
    def __deepcopy__(self, memo):
        return self

train, validation = space.load_data()
tuner = keras_tuner.Hyperband(
    Digits(), objective="val_accuracy", max_epochs=int(sys.argv[2]), factor=3, seed=int(sys.argv[3]) + 1,
    directory=sys.argv[4], project_name="digits",
)
began = time.time()
tuner.search(*train, validation_data=validation, verbose=0, callbacks=[Count()])
search = time.time() - began
best = tuner.oracle.get_best_trials(1)[0].score
print(json.dumps({"trials": len(tuner.oracle.trials), "epochs": Count.epochs, "best": best, "search": search}))
"""

SEARCH = """
import json, sys
import search
study = search.run(sys.argv[1], max_epochs=int(sys.argv[2]), seed=int(sys.argv[3]), runs=sys.argv[4], progress=False)
print(json.dumps({
    "trials": len(study.trials), "epochs": study.study.trained, "best": study.study.best.objective,
    "search": study.study.seconds(),
}))
"""


def measure(program: str, max_epochs: int, seed: int) -> dict[str, float]:
    """One run in a process of its own: what it printed, and `wall`, its seconds from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, "-c", program, str(SPACE), str(max_epochs), str(seed), folder]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result: dict[str, float] = json.loads(printed.splitlines()[-1])
        return {**result, "wall": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-epochs", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    programs = {"KerasTuner Hyperband": KERAS_TUNER, "search": SEARCH}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for seed in range(arguments.seeds):
        for name, program in programs.items():
            results[name].append(measure(program, arguments.max_epochs, seed))
            print(name, seed, results[name][-1], file=sys.stderr)
    print(f"| max_epochs {arguments.max_epochs} | command, s | search, s | trials | epochs | ms an epoch | best |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, runs in results.items():
        wall, search, trials, epochs, best = (
            statistics.median(run[key] for run in runs) for key in ("wall", "search", "trials", "epochs", "best")
        )
        pace = 1e3 * search / epochs
        print(f"| {name} | {wall:.1f} | {search:.1f} | {trials:g} | {epochs:g} | {pace:.0f} | {best:.4f} |")


if __name__ == "__main__":
    main()
