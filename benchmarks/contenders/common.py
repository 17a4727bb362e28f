"""What the contenders share: their task, the space, threads, and how they say what came of it.

A contender is a program that does one search in a process of its own, and prints a line of JSON at its end. Import this
module first: from then on its time counts.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

BEGAN = time.time()

OBJECTIVE = "val_accuracy"
"""Of every space, to be maximised; a trial's is the best over its epochs."""


@dataclass(frozen=True)
class Task:
    """What to search.

    Attributes:
        space: the space file.
        workers: how many trials may run at once.
        trials: a file for the trials of `ours`, which others train again, or take their budget from.
        folder: a place for temporary files.
        gpu: whether to train on the first GPU.
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
    """A trial of `ours`: its hyperparameters, how long it was trained in all, and its training seed."""

    values: dict[str, Any]
    epochs: int
    seed: int


def task() -> Task:
    """The task that the command line gives."""
    parser = argparse.ArgumentParser()
    for name in ("space", "trials", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("max-epochs", "seed", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--gpu", action="store_true")
    return Task(**vars(parser.parse_args()))


@functools.cache
def load_space(path: Path) -> ModuleType:
    """The space file as a module, run once a process."""
    spec = importlib.util.spec_from_file_location("space", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class InitialConfigurations:
    """An `hp` that answers with values that were drawn elsewhere."""

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
    """Have the framework compute with so many threads, as several processes share the cores; before its runtime
    starts."""
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
        began, ended: of the search, by `time.time`; what came before are imports.
        trials, epochs: how many were trained.
        best: the best objective that an epoch had.
        more: what only this contender measures, seconds by name.
    """
    result = {"imports": began - BEGAN, "search": ended - began, "trials": trials, "epochs": epochs, "best": best}
    print(json.dumps({**result, **more}), flush=True)
