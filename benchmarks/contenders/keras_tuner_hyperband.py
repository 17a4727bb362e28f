"""KerasTuner's Hyperband, in one process. It counts a promoted trial as another trial."""

from __future__ import annotations

import time
from typing import Any

import common
import keras
import keras_tuner


class Count(keras.callbacks.Callback):
    """A callback that counts epochs over all trials, though KerasTuner copies it for each trial."""

    epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        Count.epochs += 1

    def __deepcopy__(self, memo: Any) -> Count:
        return self


def main() -> None:
    task = common.task()
    space = common.load_space(task.space)

    class Model(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            return space.build_model(hp)

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return model.fit(*args, **{**kwargs, **space.fit_options(hp)})

    train, validation = space.load_data()
    tuner = keras_tuner.Hyperband(
        Model(),
        objective=common.OBJECTIVE,
        max_epochs=task.max_epochs,
        factor=3,
        seed=task.seed + 1,  # KerasTuner takes 0 for no seed
        directory=task.folder,
        project_name="search",
    )
    began = time.time()
    tuner.search(*common.inputs(train), validation_data=validation, verbose=0, callbacks=[Count()])
    ended = time.time()
    trials, best = len(tuner.oracle.trials), tuner.oracle.get_best_trials(1)[0].score
    common.say(began=began, ended=ended, trials=trials, epochs=Count.epochs, best=best)


if __name__ == "__main__":
    main()
