"""The time and the epochs in which a back end comes to the result of Hyperband's whole plan, by real training.

    python benchmarks/reach.py [--spaces digits images] [--seeds 0-4] [--keras-backend tensorflow] [--json FILE]

For each space and seed, `hyperband` searches to the end of its plan. The other back end then gets as many epochs, and
the benchmark looks for the first epoch after which its best value is within one standard error of Hyperband's final
one. The standard error is that of a share among the validation samples, √(p(1 − p)/n), as for an accuracy or an AUC.
A loss counts without one, which is stricter. Time is that of the journal, from the start of the search to that epoch's
record, so the import of the framework is no part of it.

The benchmark prints a row for each space: the medians over seeds of the epochs and seconds of both, and of the ratios.
A search that never comes there counts as infinite.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from search.study.journal import read
from search.study.records import DataLoaded, EpochDone, Header, SearchStarted

COLUMNS = ("space", "plan: epochs", "seconds", "comes there", "other comes there: epochs", "seconds")
COLUMNS += ("ratio of epochs", "of seconds", "plan: best", "other: best")
SPACES = Path(__file__).parent.parent / "spaces"
BACKEND = "freeze-thaw:cost=seconds"
"""The default back end as it is without a seed: the seeds here are to vary searches, not to repeat them."""


class Run:
    """One search: the running best after each epoch of it, with its time.

    Attributes:
        steps: (epochs trained so far in the search, seconds since its start, best value so far).
        samples: validation samples.
    """

    def __init__(self, journal: Path) -> None:
        self.steps: list[tuple[int, float, float]] = []
        self.samples = 0
        name, sign, began, best = "", 1.0, 0.0, -math.inf
        for entry in read(journal):
            record = entry.record
            if isinstance(record, Header):
                name, sign = record.objective.name, 1.0 if record.objective.direction == "max" else -1.0
            elif isinstance(record, SearchStarted):
                began = entry.time
            elif isinstance(record, DataLoaded):
                self.samples = self.samples or _validation_samples(record)
            elif isinstance(record, EpochDone):
                best = max(best, sign * record.logs.get(name, -math.inf))
                self.steps.append((len(self.steps) + 1, entry.time - began, best))

    @property
    def best(self) -> float:
        """The best value at the end."""
        return self.steps[-1][2]

    @property
    def standard_error(self) -> float:
        """The standard error of `best` if it is a share among the validation samples, else 0."""
        if not 0 < self.best < 1:
            return 0.0
        return math.sqrt(self.best * (1 - self.best) / self.samples)

    def reaches(self, value: float) -> tuple[float, float]:
        """Return the epochs and the seconds after which the best value is at least `value`."""
        return next(((epochs, seconds) for epochs, seconds, best in self.steps if best >= value), (math.inf, math.inf))


def _validation_samples(record: DataLoaded) -> int:
    part = next(iter(record.fingerprint["validation"].values()))
    return int(part.split("[")[1].split(",")[0].split("]")[0])


def search_space(space: str, backend: str, seed: int, keras: str, epochs: int | None, folder: Path) -> Run:
    """Search a space in a process of its own."""
    command = [sys.executable, "-c", "from search.cli import main; main()", "run", str(SPACES / f"{space}.py")]
    command += ["--backend", backend, "--seed", str(seed), "--study", backend.partition(":")[0]]
    command += ["--no-progress", "--runs", str(folder), "--keras-backend", keras]
    command += [] if epochs is None else ["--max-total-epochs", str(epochs)]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "KERAS_BACKEND": keras},
    )
    return Run(folder / backend.partition(":")[0] / "journal.jsonl")


def compare(space: str, backend: str, seed: int, keras: str) -> dict[str, Any]:
    """Return the figures of one space and seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = search_space(space, "hyperband", seed, keras, None, folder)
        other = search_space(space, backend, seed, keras, plan.steps[-1][0], folder)
    epochs, seconds = other.reaches(plan.best - plan.standard_error)
    return {
        "space": space,
        "seed": seed,
        "plan": [plan.steps[-1][0], plan.steps[-1][1], plan.best],
        "plan comes there": plan.reaches(plan.best - plan.standard_error),
        "other": [epochs, seconds, other.best],
        "standard error": plan.standard_error,
    }


def row(space: str, runs: list[dict[str, Any]]) -> str:
    """Return the row of a space."""

    def median(key: str, index: int) -> float:
        return statistics.median(run[key][index] for run in runs)

    ratios = [statistics.median(run["other"][i] / run["plan"][i] for run in runs) for i in (0, 1)]
    cells = [median("plan", 0), median("plan", 1), median("plan comes there", 0), median("other", 0)]
    cells += [median("other", 1), *ratios]
    values = f"{median('plan', 2):.4f} | {median('other', 2):.4f}"
    return f"| {space} | {' | '.join(f'{cell:.3g}' for cell in cells)} | {values} |"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["digits", "images", "text_cnn", "two_branches"])
    parser.add_argument("--backend", default=BACKEND)
    parser.add_argument("--seeds", default="0-4", help="first-last")
    parser.add_argument("--keras-backend", default="tensorflow")
    parser.add_argument("--json", type=Path, help="a file for the figures of each run")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    found: list[dict[str, Any]] = []
    print(
        "| space | plan: epochs | seconds | comes there | other: epochs | seconds | ratio of epochs | of seconds |",
        end="",
    )
    print(" plan: best | other: best |\n" + "| --- " * 10 + "|")
    for space in given.spaces:
        runs = [
            compare(space, given.backend, seed, given.keras_backend)
            for seed in range(int(first), int(last or first) + 1)
        ]
        found += runs
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))
        print(row(space, runs), flush=True)


if __name__ == "__main__":
    main()
