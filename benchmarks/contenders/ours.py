"""search: Hyperband on worker processes, with MLflow, checkpoints and all other defaults.

The search begins with the first trial: by then the framework is imported and the space has been probed. The search's
time includes the evaluation of the best trials and the winner's file.
"""

from __future__ import annotations

import common

import search


def main() -> None:
    task = common.task()
    results = search.run(
        task.space,
        backend="hyperband",
        max_epochs=task.max_epochs,
        seed=task.seed,
        workers=task.workers,
        **({"gpus": "0", "gpus_per_trial": 1 / task.workers} if task.gpu else {"gpus": "none"}),
        runs=task.folder / "runs",
        progress=False,
    )
    study, trials = results.study, results.trials
    trained = [
        common.Trained(dict(trial.params), trial.progress.trained, trial.seed)
        for trial in trials
        if trial.progress.trained
    ]
    common.write_trials(task.trials, trained)
    began = min(trial.began_at for trial in trials)
    common.say(
        began=began,
        ended=began + study.seconds(),
        trials=len(trials),
        epochs=study.trained,
        best=study.best.objective,
    )


if __name__ == "__main__":
    main()
