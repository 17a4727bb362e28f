"""KerasTuner's tuners by name. Their constructors are KerasTuner's own; their searches are ours."""

from __future__ import annotations

import warnings
from typing import Any

from search.compat import original
from search.compat.base_tuner import BaseTuner
from search.compat.trial_runs import running
from search.compat.tuner import OfOracle, Tuner

__all__ = ["BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch", "SklearnTuner"]


class Hyperband(OfOracle, original.tuners.Hyperband, Tuner):
    """The back end `hyperband` of `search.run` (Li et al. 2018, JMLR 18, algorithm 1), with KerasTuner's brackets.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_epochs: the most epochs of one trial; 100 by default.
        factor: one trial in this many is promoted; η in the paper; 3 by default.
        hyperband_iterations: how often the whole plan of brackets is run; 1 by default.
        seed: makes a search with one worker repeatable.
        hyperparameters: a `HyperParameters`. Its entries replace the hypermodel's parameters of the same names.
        tune_new_entries: whether parameters that are not in `hyperparameters` are searched; else they get their
            defaults. True by default.
        allow_new_entries: whether the hypermodel may have parameters that are not in `hyperparameters`. True by
            default.
        max_retries_per_trial: the number of times that a trial is continued after its code raised an exception; 0 by
            default. A FailedTrialError and a diverged loss are not tried again. A trial whose process died is continued
            once, or as often.
        max_consecutive_failed_trials: the search is aborted if so many trials failed in a row; 3 by default.
        args, kwargs: the arguments above, those of `Tuner`, such as `project_name`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        ::

            import keras
            import numpy as np
            import search

            def build_model(hp):
                layers = [keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"), keras.layers.Dense(1)]
                model = keras.Sequential([keras.Input((4,)), *layers])
                model.compile("adam", "mse")
                return model

            x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
            y = x.sum(axis=1)
            tuner = search.Hyperband(build_model, "val_loss", max_epochs=2, project_name="sums", seed=0, max_trials=2)
            tuner.search(x[:48], y[:48], validation_data=(x[48:], y[48:]), verbose=0)
            model, = tuner.get_best_models()
    """

    search_sets_epochs = False

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Build and train the trial's model for the epochs that the search decides. Return its History.

        Args:
            trial, args, kwargs: as in `Tuner.run_trial`.
        """
        if (run := running(trial)) is None:
            return super().run_trial(trial, *args, **kwargs)
        return Tuner.run_trial(self, trial, *args, **{**kwargs, "epochs": run.epochs})

    def _build_hypermodel(self, hp: Any) -> Any:
        """Build a model. In a worker, a promoted trial goes on from its own checkpoint."""
        return super()._build_hypermodel(hp) if running() is None else Tuner._build_hypermodel(self, hp)


class RandomSearch(OfOracle, original.tuners.RandomSearch, Tuner):
    """Random search (Bergstra and Bengio 2012, JMLR 13): each value is drawn by itself, and no trial is stopped.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the number of configurations to try; 10 by default; without end if None.
        seed: makes a search with one worker repeatable.
        args, kwargs: these and the other arguments of `Hyperband` and of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.RandomSearch(build_model, "val_loss", max_trials=20, seed=0)
    """


class BayesianOptimization(OfOracle, original.tuners.BayesianOptimization, Tuner):
    """Search by Optuna's TPE (Bergstra et al. 2011, NeurIPS 24, section 4), which handles conditional spaces.

    Optuna's Gaussian process, `sampler="gp"`, needs PyTorch.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the number of configurations to try; 10 by default; without end if None.
        num_initial_points: the number of random trials before the first one by TPE; Optuna's default if None.
        alpha, beta: of KerasTuner's Gaussian process; without an effect here, as a warning says.
        seed: makes a search with one worker repeatable.
        args, kwargs: these and the other arguments of `Hyperband` and of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.BayesianOptimization(build_model, "val_loss", max_trials=20, seed=0)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (self.oracle.alpha, self.oracle.beta) != (_ALPHA, _BETA):
            warnings.warn(
                "alpha and beta have no effect: they belong to KerasTuner's Gaussian process, and values are drawn by "
                'TPE; sampler="gp" is a Gaussian process of Optuna\'s',
                stacklevel=2,
            )


_ALPHA, _BETA = 1e-4, 2.6
"""KerasTuner's defaults."""


class GridSearch(OfOracle, original.tuners.GridSearch, Tuner):
    """Grid search: all combinations, the defaults first. A float without a step has eleven values.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the most configurations to try; all of the grid if None.
        args, kwargs: these and the other arguments of `Hyperband` and of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.GridSearch(build_model, "val_loss", max_trials=None, seed=0)
    """


class SklearnTuner(original.tuners.SklearnTuner, BaseTuner):
    """A search for a scikit-learn estimator by cross-validation. Each trial is a black box in a worker.

    Args:
        oracle: its objective is `Objective("score", "max")`.
        hypermodel: a function that takes `hp` and returns an estimator, or a `HyperModel`.
        scoring: a scorer of scikit-learn's; the estimator's own score by default.
        metrics: further functions of `sklearn.metrics` to record; none by default.
        cv: a splitter of `sklearn.model_selection`; five shuffled folds by default.
        kwargs: the arguments of `BaseTuner`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        ::

            import search.compat.keras_tuner as keras_tuner
            from sklearn import datasets, linear_model

            def build_model(hp):
                return linear_model.RidgeClassifier(alpha=hp.Float("alpha", 1e-3, 1, sampling="log"))

            x, y = datasets.load_iris(return_X_y=True)
            oracle = keras_tuner.oracles.RandomSearchOracle(keras_tuner.Objective("score", "max"), max_trials=2, seed=1)
            tuner = keras_tuner.SklearnTuner(oracle, build_model, project_name="ridges")
            tuner.search(x, y)
            model, = tuner.get_best_models()
    """

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Return the estimators of the best trials, best first, each fitted on its last fold."""
        return [self.load_model(trial) for trial in self.oracle.get_best_trials(num_models)]
