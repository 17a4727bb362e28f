"""The lower limit: the trials of `ours` by the same fused epochs, with no framework around them.

After the imports, one process is forked for each worker. The processes take trials from a queue, those with the most
epochs first. Each trial is built, traced and trained for itself, without interruption: there are no promotions,
checkpoints or messages, and no graph serves two trials.

The seconds of a trial have three parts:

- `build`: building the model;
- `trace`: the first epoch, less a steady epoch;
- `steady`: a steady epoch times the number of epochs: the arithmetic alone.

If a trial has too few epochs to measure a steady one, it is trained for a few more. These count neither in the search
nor in the command: their time is reported as `beside` the search.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import common
import keras

from search.devices.gpus import find_gpus
from search.devices.slots import Slot, apply_slot, available_cpus, core_ids, make_slots
from search.worker.data.arrays import prepare_data
from search.worker.keras_session import session
from search.worker.runners.choose import choose_runner

if keras.config.backend() == "tensorflow":
    import search.worker.runners.tensorflow.epochs
else:
    import search.worker.runners.jax.epochs  # noqa: F401

STEADY = 3
"""The least number of epochs after the first; their median is the time of a steady epoch."""


@dataclass(frozen=True)
class Times:
    """The measurements of a trial, in seconds.

    Attributes:
        process: the id of the process that trained it.
        build, trace, steady: the parts of its time.
        more: time of the additional epochs, which it did not have in the search.
        ended: when it ended, by `time.time`.
        best: its best objective.
    """

    process: int
    build: float
    trace: float
    steady: float
    more: float
    ended: float
    best: float


class Clock(keras.callbacks.Callback):
    """A callback that notes the seconds of each epoch, and the best objective."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.best = 0.0
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self.best = max(self.best, logs[common.OBJECTIVE])


def take_place(slots: SimpleQueue[Slot]) -> None:
    """Give this process of the pool its cores and threads, as a worker of `ours` has them."""
    slot = slots.get()
    apply_slot(slot)
    common.limit_threads(slot.threads)


def train(trial: common.Trained) -> Times:
    began = time.perf_counter()
    hp, clock = common.RecordedHp(trial.values), Clock()
    with session(trial.seed):
        model = space.build_model(hp)
        fused = choose_runner(model, data, space.fit_options(hp), trial.seed, [clock])
        assert fused.name == "fused", fused.name
        build = time.perf_counter() - began
        fused.run(0, trial.epochs, [clock])
        best, ended = clock.best, time.time()
        more = time.perf_counter()
        if trial.epochs <= STEADY:
            fused.run(trial.epochs, STEADY + 1, [clock])
        first, *others = clock.seconds
        steady = statistics.median(others)
        return Times(
            process=os.getpid(),
            build=build,
            trace=first - steady,
            steady=steady * trial.epochs,
            more=time.perf_counter() - more,
            ended=ended,
            best=best,
        )


def last_end(trials: list[Times]) -> float:
    """Return the time at which the last process would have ended without the additional epochs."""
    ended: dict[int, float] = defaultdict(float)
    more: dict[int, float] = defaultdict(float)
    for times in trials:
        # The last trial's additional epochs come after its end.
        ended[times.process] = times.ended - more[times.process]
        more[times.process] += times.more
    return max(ended.values())


task = common.task()
space = common.load_space(task.space)
data = prepare_data(space.load_data())


def main() -> None:
    trials = sorted(common.read_trials(task.trials), key=lambda trial: trial.epochs, reverse=True)
    context = multiprocessing.get_context("fork")
    slots = context.SimpleQueue()
    gpus = find_gpus()[:1] if task.gpu else ()
    cpus, cores = available_cpus(), core_ids()
    for slot in make_slots(gpus, cpus, cores, task.workers, 1 / task.workers):
        slots.put(slot)
    began = time.time()
    with ProcessPoolExecutor(task.workers, context, take_place, (slots,)) as pool:
        trained = list(pool.map(train, trials))
    ended = last_end(trained)
    common.say(
        began=began,
        ended=ended,
        trials=len(trials),
        epochs=sum(trial.epochs for trial in trials),
        best=max(times.best for times in trained),
        build=sum(times.build for times in trained),
        trace=sum(times.trace for times in trained),
        steady=sum(times.steady for times in trained),
        beside=time.time() - ended,
    )


if __name__ == "__main__":
    main()
