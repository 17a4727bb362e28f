"""How far from the limit: the trials of `ours` by the same fused epochs, with nothing around them.

After the imports as many processes are forked as there are workers, and take trials from a queue, those with the most
epochs first. Each trial is built, traced and trained for itself, without interruption: there are no promotions,
checkpoints or messages, and no graph serves two trials.

Seconds of a trial are told apart: `build`, of the model; `trace`, the first epoch's but for those of a steady one; and
`steady`, those of a steady epoch times its epochs: the arithmetic alone. A trial with too few epochs to know how long a
steady one takes is trained a few more, which count neither in the search nor, as they are said to be `beside` it, in
the command.
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
from search.worker.data import arrays as datas
from search.worker.keras_session import session
from search.worker.runners import choose as runner

if keras.config.backend() == "tensorflow":
    import search.worker.runners.tensorflow.epochs
else:
    import search.worker.runners.jax.epochs  # noqa: F401

STEADY = 3
"""Epochs after the first, at least, whose median is a steady epoch's time."""


@dataclass(frozen=True)
class Times:
    """Seconds of a trial, when it ended, and in which process it was trained.

    Attributes:
        more: of the epochs that it did not have in the search.
    """

    process: int
    build: float
    trace: float
    steady: float
    more: float
    ended: float
    best: float


class Clock(keras.callbacks.Callback):
    """Notes how long each epoch takes, and the best objective."""

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
    """Give a process of the pool its cores and threads, as a worker of `ours` has them."""
    slot = slots.get()
    apply_slot(slot)
    common.limit_threads(slot.threads)


def train(trial: common.Trained) -> Times:
    began = time.perf_counter()
    hp, clock = common.InitialConfigurations(trial.values), Clock()
    with session(trial.seed):
        model = space.build_model(hp)
        fused = runner.choose(model, data, space.fit_options(hp), trial.seed, [clock])
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
    """When the last process ended, had each trained only the epochs of the search."""
    ended: dict[int, float] = defaultdict(float)
    more: dict[int, float] = defaultdict(float)
    for times in trials:
        # The last trial's additional epochs come after its end.
        ended[times.process] = times.ended - more[times.process]
        more[times.process] += times.more
    return max(ended.values())


task = common.task()
space = common.load_space(task.space)
data = datas.prepare(space.load_data())


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
