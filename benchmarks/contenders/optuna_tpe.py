"""Optuna's TPE sampler and Hyperband pruner, until as many epochs were trained as by `ours`.

One process for each worker shares the study in a journal file, as Optuna's documentation recommends. Each process
imports Keras. The search begins when the first process is ready.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import common
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.devices.slots import available_cpus

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

STUDY = "study"


class Suggested:
    """An `hp` whose values an Optuna trial suggests."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def Int(self, name: str, low: int, high: int, step: int = 1, sampling: str = "linear") -> int:
        return self._trial.suggest_int(name, low, high, step=step, log=sampling == "log")

    def Float(self, name: str, low: float, high: float, sampling: str = "linear") -> float:
        return self._trial.suggest_float(name, low, high, log=sampling == "log")

    def Choice(self, name: str, values: list[Any]) -> Any:
        return self._trial.suggest_categorical(name, values)


class Budget:
    """The epochs that all processes may train together."""

    def __init__(self, epochs: int, trained: Synchronized[int]) -> None:
        self._epochs = epochs
        self._trained = trained

    def count(self) -> None:
        with self._trained.get_lock():
            self._trained.value += 1

    @property
    def spent(self) -> bool:
        return self._trained.value >= self._epochs


budget: Budget


def begin(epochs: int, trained: Synchronized[int]) -> None:
    """Set the budget of this process of the pool. A shared counter can be handed over only when a process starts."""
    global budget
    budget = Budget(epochs, trained)


def connect(task: common.Task) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(task.folder / "optuna.log")))


def work(task: common.Task, worker: int, threads: int) -> float:
    """Search until the budget is spent. Return the time at which the process was ready to search."""
    import keras

    common.limit_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = common.load_space(task.space)
    train, validation = space.load_data()

    class Report(keras.callbacks.Callback):
        """A callback that reports to Optuna, and stops a pruned trial at the epoch's end.

        Optuna's own callback raises within an epoch, so the other callbacks never hear of the end.
        """

        def __init__(self, trial: optuna.Trial) -> None:
            super().__init__()
            self._trial = trial
            self.pruned = False

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            budget.count()
            self._trial.report(logs[common.OBJECTIVE], epoch + 1)
            self.pruned = self._trial.should_prune()
            self.model.stop_training = self.pruned or budget.spent

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        hp, report = Suggested(trial), Report(trial)
        history = space.build_model(hp).fit(
            *common.inputs(train),
            validation_data=validation,
            epochs=task.max_epochs,
            callbacks=[report],
            verbose=0,
            **space.fit_options(hp),
        )
        if report.pruned:
            raise optuna.TrialPruned
        return max(history.history[common.OBJECTIVE])

    study = optuna.load_study(
        study_name=STUDY,
        storage=connect(task),
        # With the same seed, all processes would draw the same first trials.
        sampler=optuna.samplers.TPESampler(seed=task.seed * task.workers + worker),
        pruner=optuna.pruners.HyperbandPruner(1, task.max_epochs, 3),
    )
    ready = time.time()
    study.optimize(objective, callbacks=[lambda study, _: study.stop() if budget.spent else None])
    return ready


def main() -> None:
    task = common.task()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=STUDY, storage=connect(task), direction="maximize")
    context = multiprocessing.get_context("spawn")
    epochs, trained = sum(trial.epochs for trial in common.read_trials(task.trials)), context.Value("i", 0)
    threads = max(1, int(available_cpus()) // task.workers)
    with ProcessPoolExecutor(task.workers, context, begin, (epochs, trained)) as pool:
        ready = [pool.submit(work, task, worker, threads) for worker in range(task.workers)]
        began = min(future.result() for future in ready)
    ended = time.time()
    best = max(value for trial in study.trials for value in trial.intermediate_values.values())
    common.say(began=began, ended=ended, trials=len(study.trials), epochs=trained.value, best=best)


if __name__ == "__main__":
    main()
