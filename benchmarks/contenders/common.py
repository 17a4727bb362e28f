"""Shared code of the contenders: their task, the space, threads, and the report of the result.

A contender is a program that does one search in a process of its own, and prints a line of JSON at its end. Import this
module first: its import starts the clock.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

BEGAN = time.time()

OBJECTIVE = "val_accuracy"
"""The objective of every space, which is maximised. A trial's objective is the best over its epochs."""


@dataclass(frozen=True)
class Task:
    """The search that a contender is to do.

    Attributes:
        space: the space file.
        max_epochs: the most epochs of one trial.
        seed: the seed of the search.
        workers: the number of trials that may run at once.
        trials: a file for the trials of `ours`. Other contenders train them again, or take their budget from them.
        folder: a folder for temporary files.
        gpu: if True, train on the first GPU.
    """

    space: Path
    max_epochs: int
    seed: int
    workers: int
    trials: Path
    folder: Path
    gpu: bool


@dataclass(frozen=True)
class Trained:
    """A trial of `ours`: its hyperparameters, its number of epochs, and its training seed."""

    values: dict[str, Any]
    epochs: int
    seed: int


def task() -> Task:
    """Return the task that the command line gives."""
    parser = argparse.ArgumentParser()
    for name in ("space", "trials", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("max-epochs", "seed", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--gpu", action="store_true")
    return Task(**vars(parser.parse_args()))


@functools.cache
def load_space(path: Path) -> ModuleType:
    """Return the space file as a module. It is run once in each process."""
    sys.path.insert(0, str(path.parent))  # a space may import another one
    spec = importlib.util.spec_from_file_location("space", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(train: Any) -> tuple[Any, ...]:
    """Return the training data as the first arguments of `model.fit`: arrays, or a stream of batches."""
    return train if isinstance(train, tuple) else (train,)


class RecordedHp:
    """An `hp` that answers with the values of a trial that was drawn elsewhere."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def Int(self, name: str, *_: Any, **__: Any) -> Any:
        return self._values[name]

    Float = Choice = Int


def write_trials(path: Path, trials: list[Trained]) -> None:
    path.write_text(json.dumps([vars(trial) for trial in trials]))


def read_trials(path: Path) -> list[Trained]:
    return [Trained(**trial) for trial in json.loads(path.read_text())]


def limit_threads(count: int) -> None:
    """Limit the framework to `count` threads, as several processes share the cores.

    Call it before the framework's runtime starts.
    """
    import keras

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    else:
        os.environ["PJRT_NPROC"] = str(count)


def say(*, began: float, ended: float, trials: int, epochs: int, best: float, **more: float) -> None:
    """Print the result.

    Args:
        began, ended: when the search began and ended, by `time.time`. The time before `began` counts as imports.
        trials, epochs: the numbers of trials and epochs that were trained.
        best: the best objective of any epoch.
        more: seconds by name that only this contender measures.
    """
    times = {"began": began, "imports": began - BEGAN, "search": ended - began}
    result = {**times, "trials": trials, "epochs": epochs, "best": best}
    print(json.dumps({**result, **more}), flush=True)
