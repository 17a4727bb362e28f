"""The trials of `ours`, one after the other, each by one plain `model.fit` for all its epochs."""

from __future__ import annotations

import time

import common
import keras


def main() -> None:
    task = common.task()
    space, trials = common.load_space(task.space), common.read_trials(task.trials)
    train, validation = space.load_data()
    best = 0.0
    began = time.time()
    for trial in trials:
        keras.utils.clear_session()
        keras.utils.set_random_seed(trial.seed)
        hp = common.RecordedHp(trial.values)
        history = space.build_model(hp).fit(
            *common.inputs(train), validation_data=validation, epochs=trial.epochs, verbose=0, **space.fit_options(hp)
        )
        best = max(best, *history.history[common.OBJECTIVE])
    ended = time.time()
    epochs = sum(trial.epochs for trial in trials)
    common.say(began=began, ended=ended, trials=len(trials), epochs=epochs, best=best)


if __name__ == "__main__":
    main()
