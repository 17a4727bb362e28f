"""Ray Tune's ASHA, with as many samples as `ours` had trials, each on one core. Actors, and so Keras, are reused.

The imports include the start of Ray itself. The actors import Keras during the search.
"""

from __future__ import annotations

import os
import time
from typing import Any

import common

os.environ.update(RAY_USAGE_STATS_ENABLED="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")

import ray
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

UNITS = {f"units_{i}": tune.lograndint(16, 257) for i in range(3)}
DENSE = {
    "layers": tune.randint(1, 4),
    **UNITS,
    "activation": tune.choice(["relu", "tanh"]),
    "dropout": tune.uniform(0.0, 0.5),
    "lr": tune.loguniform(1e-4, 1e-1),
}
SPACES = {
    "mlp": DENSE,
    "cnn": {
        "blocks": tune.randint(1, 4),
        **{f"filters_{i}": tune.choice([8, 16, 24, 32]) for i in range(3)},
        **DENSE,
    },
    "large": {
        "width": tune.choice([48, 64]),
        "dropout": tune.uniform(0.0, 0.5),
        "lr": tune.loguniform(1e-4, 1e-2),
    },
    "stream": DENSE,
    "pydataset": DENSE,
    "scalars": {
        "dropout": tune.uniform(0.05, 0.5),
        "l2": tune.loguniform(1e-6, 1e-2),
        "lr": tune.loguniform(1e-4, 1e-1),
        "beta_1": tune.uniform(0.8, 0.99),
        "beta_2": tune.uniform(0.9, 0.9999),
    },
    "large_batch": {
        "width": tune.choice([1024, 2048]),
        "dropout": tune.uniform(0.05, 0.5),
        "lr": tune.loguniform(1e-5, 1e-2),
    },
}
"""The spaces in Ray's notation, which has no conditional parameters."""


def trainable(config: dict[str, Any], task: common.Task) -> None:
    import keras

    common.limit_threads(1)
    keras.backend.clear_session()
    space, hp = common.load_space(task.space), common.RecordedHp(config)
    train, validation = space.load_data()

    class Report(keras.callbacks.Callback):
        best = 0.0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            value = float(logs[common.OBJECTIVE])
            self.best = max(self.best, value)
            tune.report({common.OBJECTIVE: value, "best": self.best})

    space.build_model(hp).fit(
        *common.inputs(train),
        validation_data=validation,
        epochs=task.max_epochs,
        callbacks=[Report()],
        verbose=0,
        **space.fit_options(hp),
    )


def main() -> None:
    task = common.task()
    resources = {"cpu": 1.0, "gpu": 1 / task.workers if task.gpu else 0.0}
    ray.init(
        num_cpus=task.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(task.folder),
    )
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, task=task), resources),
        param_space=SPACES[task.space.stem],
        tune_config=tune.TuneConfig(
            metric=common.OBJECTIVE,
            mode="max",
            num_samples=len(common.read_trials(task.trials)),
            scheduler=tune.schedulers.ASHAScheduler(max_t=task.max_epochs, grace_period=1, reduction_factor=3),
            search_alg=BasicVariantGenerator(random_state=task.seed),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(task.folder / "results"), verbose=0),
    )
    began = time.time()
    results = tuner.fit()
    ended = time.time()
    if results.errors:
        raise results.errors[0]
    last = [result.metrics for result in results]
    common.say(
        began=began,
        ended=ended,
        trials=len(last),
        epochs=sum(metrics["training_iteration"] for metrics in last),
        best=max(metrics["best"] for metrics in last),
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
