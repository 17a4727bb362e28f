"""The time of a search on a Ray cluster of one node, against that of the local executor with the same workers.

    python benchmarks/on_ray.py [--space digits] [--workers 2] [--repeats 5] [--max-epochs 27]

The searches take turns. The time of a search is that of its journal, from its start to its end. The time before it has
a column of its own: `ray.init`, the first import of Keras on the node, and the probe.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search.study.journal import read
from search.study.records import SearchEnded, SearchStarted

SPACES = Path(__file__).parent.parent / "spaces"
EXECUTORS = {"local": ("local",), "ray": ("ray", "--ray-address", "local")}


def search_once(executor: str, space: str, workers: int, max_epochs: int, seed: int) -> tuple[float, float]:
    """Run a search in a process of its own. Return the seconds before it, and those of the search."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-c", "from search.cli import main; main()", "run", str(SPACES / f"{space}.py")]
        command += ["--executor", *EXECUTORS[executor], "--workers", str(workers), "--seed", str(seed)]
        command += ["--backend", "hyperband", "--max-epochs", str(max_epochs), "--study", "t", "--runs", runs]
        began = time.time()
        subprocess.run(
            [*command, "--no-progress"],
            check=True,
            env={**os.environ, "PYTHONPATH": str(SPACES.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        times = {type(entry.record): entry.time for entry in read(Path(runs) / "t" / "journal.jsonl")}
    return times[SearchStarted] - began, times[SearchEnded] - times[SearchStarted]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="digits")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-epochs", type=int, default=27)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in EXECUTORS}
    for seed in range(given.repeats):
        for name, times in found.items():
            times.append(search_once(name, given.space, given.workers, given.max_epochs, seed))
    print("| executor | before the search, s | search, s | least | most |\n| --- | --- | --- | --- | --- |")
    for name, times in found.items():
        before, searches = ([each[i] for each in times] for i in (0, 1))
        cells = (statistics.median(before), statistics.median(searches), min(searches), max(searches))
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    ratios = [ray[1] / local[1] for local, ray in zip(found["local"], found["ray"], strict=True)]
    print(f"ray / local: {statistics.median(ratios):.2f} in the median of {len(ratios)} pairs")


if __name__ == "__main__":
    main()
