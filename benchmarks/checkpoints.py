"""The cost of a checkpoint, by the size of the model.

    python benchmarks/checkpoints.py [--folder DIR]

A checkpoint holds the weights, and Adam's two moments of each weight. If there is a new best epoch, its weights are
saved beside the checkpoint. Training waits while both files are written and flushed to the disk of `--folder`.

- capture: copying the state from the device.
- write: writing and flushing both files.
- of the time: the share of the time that checkpoints take, with one every 30 seconds, and with one every 5.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from search.worker import checkpoint

WIDTHS = (32, 256, 1024, 3072)
REPEATS = 7


def model_of(width: int) -> keras.Model:
    """Return a model of three layers with `width` units each."""
    model = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(3))])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def measure(model: keras.Model, folder: Path) -> tuple[float, float, float]:
    """Return the median seconds of a capture and of the writing, and the MB on disk."""
    captures, writes = [], []
    paths = folder / "checkpoint-0.npz", folder / "best-0.npz"
    history = [{"epoch": epoch, "logs": {"loss": 0.1, "val_loss": 0.2}, "seconds": 1.0} for epoch in range(1, 28)]
    for _ in range(REPEATS):
        began = time.perf_counter()
        state, best = checkpoint.capture_state(model, ()), checkpoint.copy_weights(model)
        captured = time.perf_counter()
        checkpoint.save_weights(paths[1], best, 27, 0.2)
        checkpoint.save_checkpoint(paths[0], state, owner={}, history=history, best_epoch=27, best_value=0.2)
        captures.append(captured - began)
        writes.append(time.perf_counter() - captured)
    return statistics.median(captures), statistics.median(writes), sum(path.stat().st_size for path in paths) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    print("| weights | MB written | capture, ms | write, ms | of the time, every 30 s | every 5 s |")
    print("| ---" * 6 + " |")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for width in WIDTHS:
            model = model_of(width)
            capture, write, size = measure(model, Path(folder))
            share = [f"{100 * (capture + write) / (every + capture + write):.2g} %" for every in (30, 5)]
            row = [f"{model.count_params():,}", f"{size:.1f}", f"{1e3 * capture:.1f}", f"{1e3 * write:.1f}", *share]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
