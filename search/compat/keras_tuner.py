"""KerasTuner's tuners, over `search.run` and `StudyResults`: scripts run with `import search as kerastuner`.

A tuner's arguments become options of a search. Unsupported arguments are refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.api import run
from search.backends.registry import LARGEST_GRID
from search.compat.fit_data import train_and_validation
from search.compat.hooks import REFUSED_ARGUMENTS, check_environment, check_hooks
from search.compat.parts import (
    make_callbacks,
    make_compile_model,
    make_fit_options,
    with_default_epochs,
    with_hyperparameters,
)
from search.display.python_messages import python_arguments
from search.errors import OptionError, StudyError, nearest
from search.options import FIELDS, OWN_FIT_MAX_EPOCHS, resolve_options
from search.results.study_results import StudyResults, load_study, print_parameters
from search.space.file import describe_type, hypermodel_parts
from search.study.paths import StudyPaths

__all__ = ["BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch", "Tuner"]


_MAPPED = {
    "study",
    "runs",
    "backend",
    "objective",
    "direction",
    "max_epochs",
    "iterations",
    "retries",
    "max_consecutive_failures",
    "max_retries_per_trial",
    "max_consecutive_failed_trials",
    "max_weights",
}
"""Options of `search.run` that a tuner sets from arguments with KerasTuner's names."""

_NO_LIMIT = 2**31 - 1
"""More trials than a search has."""

_OPTIONS = [name for name in FIELDS if name not in _MAPPED]

_FIT = (
    "shuffle",
    "class_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
"""The other arguments of `Model.fit` that `Tuner.search` takes; a hypermodel's own `fit` may take more."""


class Tuner:
    """The base class of the tuners, with the methods that KerasTuner's tuners have.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        options: options of `search.run` that make up this kind of tuner.
        max_trials: the number of configurations to try.
        seed: makes a search with one worker repeatable.
        hyperparameters: a `HyperParameters`. Its entries replace the hypermodel's parameters of the same names.
        tune_new_entries: whether parameters that are not in `hyperparameters` are searched; else they get their
            defaults.
        allow_new_entries: whether the hypermodel may have parameters that are not in `hyperparameters`.
        max_retries_per_trial: the number of times that a trial is continued after its code raised an exception, and
            after its process died; by default 0 and 1. A FailedTrialError and a diverged loss are not tried again.
        max_consecutive_failed_trials: the search is aborted if so many trials failed in a row; never if None.
        executions_per_trial: the number of times that each trial is trained.
        max_model_size: the most weights that a model may have; a larger one makes its trial infeasible.
        directory, project_name: the folder of all studies, by default `runs`, and the study's name.
        overwrite: begin anew if the project exists; else the search goes on.
        optimizer, loss, metrics: replace those that the hypermodel compiled its model with.
        accept_changes, take_over: as in `search.run`.
        others: options of `search.run`: `workers`, `gpus`, `timeout`, `tracking_uri`, …

    Raises:
        OptionError: an argument is unknown or unsupported.
    """

    search_sets_epochs = True
    """True if `search` takes the epochs of a trial."""

    def __init__(
        self,
        hypermodel: Any,
        objective: Any,
        options: Mapping[str, Any],
        *,
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: Any = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int | None = None,
        max_consecutive_failed_trials: int | None = 3,
        executions_per_trial: int = 1,
        max_model_size: int | None = None,
        directory: str | Path | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        accept_changes: bool = False,
        take_over: bool = False,
        **others: Any,
    ) -> None:
        self._check(hypermodel, others)
        self.project_name = project_name or "untitled_project"
        self.directory = str(directory or "runs")
        self.options: dict[str, Any] = {
            "study": self.project_name,
            "runs": self.directory,
            **options,
            **_objective(objective),
            "max_trials": max_trials,
            "seed": seed,
            "retries": max_retries_per_trial,
            "max_retries_per_trial": max_retries_per_trial,
            "max_consecutive_failed_trials": _NO_LIMIT
            if max_consecutive_failed_trials is None
            else max_consecutive_failed_trials,
            "executions_per_trial": executions_per_trial,
            "max_weights": max_model_size,
            **{name: value for name, value in others.items() if name not in REFUSED_ARGUMENTS},
        }
        self.options = {name: value for name, value in self.options.items() if value is not None}
        self.hypermodel = hypermodel if hasattr(hypermodel, "build") else _Function(hypermodel)
        self._factory = hypermodel
        if hyperparameters is not None or not (tune_new_entries and allow_new_entries):
            self._factory = with_hyperparameters(hypermodel, hyperparameters, tune_new_entries, allow_new_entries)
        compile_arguments = {"optimizer": optimizer, "loss": loss, "metrics": metrics}
        self._compile_arguments = {name: value for name, value in compile_arguments.items() if value is not None}
        self._overwrite = overwrite
        self._accept_changes, self._take_over = accept_changes, take_over
        self._results: StudyResults | None = None
        with python_arguments(_ARGUMENT_NAMES):
            resolve_options(self.options, {})
            self._paths = StudyPaths.of(self.directory, self.project_name)
        if not overwrite and self._paths.journal.exists():
            self.reload()

    def _check(self, hypermodel: Any, others: Mapping[str, Any]) -> None:
        name = type(self).__name__
        check_hooks(self)
        check_environment(name)
        if hypermodel is None or not (callable(hypermodel) or hasattr(hypermodel, "build")):
            raise OptionError(f"{name} was given {describe_type(hypermodel)}: give a function of hp, or a HyperModel")
        for argument, value in others.items():
            if argument in REFUSED_ARGUMENTS and value is not None:
                raise OptionError(f"{name} was given {argument}: leave it out, {REFUSED_ARGUMENTS[argument]}")
            if argument not in REFUSED_ARGUMENTS and argument not in _OPTIONS:
                raise OptionError(f"{name} does not take {argument!r}: leave it out.{nearest(argument, _OPTIONS)}")

    @property
    def project_dir(self) -> str:
        """The study's folder."""
        return str(self._paths.folder)

    @property
    def results(self) -> StudyResults:
        """The study and its results.

        Raises:
            StudyError: there has been no search.
        """
        if self._results is None:
            if self._overwrite:
                raise StudyError(f"{self.project_name} is to be overwritten: call the tuner's search before")
            with python_arguments(_ARGUMENT_NAMES):
                self._results = load_study(self.project_name, self.directory)
        return self._results

    # The search -----------------------------------------------------------------------------------------------------

    def search(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        sample_weight: Any = None,
        **fit_options: Any,
    ) -> None:
        """Search, or go on if the project exists. Takes the arguments of `Model.fit`.

        Args:
            x, y: inputs and targets, as in `Model.fit`; or `x` alone, a dataset of batches.
            batch_size: as in `Model.fit`.
            epochs: of each trial, 1 by default; Hyperband decides them itself.
            verbose: 0 shows no progress.
            callbacks: deep-copied for every trial.
            validation_split: the fraction of the samples that validate, the last ones; not for datasets.
            validation_data: as in `Model.fit`; takes precedence over `validation_split`.
            sample_weight: as in `Model.fit`.
            fit_options: other arguments of `Model.fit`, or of the hypermodel's own `fit`.

        Raises:
            OptionError: an argument is unknown, or there are no data. So for all other wrong input: `UserError`.
            SpaceError: also if a trial raised a FatalError of KerasTuner's.
            NoResult: no trial has an objective.
            SearchError: too many trials failed in a row, and others have results.
            KeyboardInterrupt: the search was stopped; the same call resumes it.
        """
        check_hooks(self)  # a method may have been assigned since
        own_fit = hasattr(self._factory, "build") and "fit" in hypermodel_parts(self._factory)
        for name in fit_options:
            if name not in _FIT and not own_fit:
                raise OptionError(f"search does not take {name!r}: leave it out.{nearest(name, _search_arguments())}")
        if x is None:
            raise OptionError("search was given no data: give x and y, or a dataset, as Model.fit takes them")
        fit_options = {"batch_size": batch_size, **fit_options}
        factory, options = self._with_epochs(epochs, own_fit)
        self.on_search_begin()
        with python_arguments(_ARGUMENT_NAMES):
            self._results = run(
                factory,
                train_and_validation(x, y, sample_weight, validation_data, validation_split),
                compile_model=make_compile_model(self._compile_arguments) if self._compile_arguments else None,
                fit_options=make_fit_options({name: v for name, v in fit_options.items() if v is not None}),
                callbacks=make_callbacks(callbacks) if callbacks else None,
                resume=not self._overwrite,
                overwrite=self._overwrite,
                progress=verbose != 0,
                accept_changes=self._accept_changes,
                take_over=self._take_over,
                **options,
            )
        self._overwrite = False
        self.on_search_end()

    def _with_epochs(self, epochs: int | None, own_fit: bool) -> tuple[Any, dict[str, Any]]:
        """Return the factory and the options of a search with so many epochs for a trial."""
        factory, options = self._factory, dict(self.options)
        if self.search_sets_epochs:
            options["max_epochs"] = epochs or 1
            if own_fit and epochs is None:
                factory, options["max_epochs"] = with_default_epochs(factory), OWN_FIT_MAX_EPOCHS
        return factory, options

    def on_search_begin(self) -> None:
        """Do nothing; a subclass may override it. It is called when `search` begins, before anything is written."""

    def on_search_end(self) -> None:
        """Do nothing; a subclass may override it. It is called at the end of a `search` that raises no exception."""

    def reload(self) -> None:
        """Read the study again. It is also called when the tuner is made, if the project exists."""
        self._results = None

    # Results --------------------------------------------------------------------------------------------------------

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Return the models of the `num_models` best trials with the weights of their best epochs, best first."""
        return self.results.get_best_models(num_models)

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[Any]:
        """Return the `HyperParameters` of the `num_trials` best trials: `tuner.hypermodel.build` takes them."""
        from search.worker.hp import LazyHyperParameters

        return [LazyHyperParameters(values=values) for values in self.results.get_best_hyperparameters(num_trials)]

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials, best first, with their hyperparameters; at most `num_trials`."""
        self.results.results_summary(num_trials)

    def search_space_summary(self, extended: bool = False) -> None:
        """Print the hyperparameters. Builds a model if this tuner has no results yet.

        Args:
            extended: KerasTuner's argument, without an effect here.
        """
        if self._results is not None:
            self._results.search_space_summary()
            return
        from keras_tuner.errors import FailedTrialError

        from search.worker.hp import LazyHyperParameters

        hp = LazyHyperParameters()
        is_hypermodel = hasattr(self._factory, "build")
        build = hypermodel_parts(self._factory)["build_model"] if is_hypermodel else self._factory
        with suppress(FailedTrialError):  # of the default values
            build(hp)
        print_parameters(hp.parameters)


class Hyperband(Tuner):
    """The back end `hyperband` of `search.run` (Li et al. 2018, JMLR 18, algorithm 1), with KerasTuner's brackets.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_epochs: the most epochs of one trial.
        factor: one trial in this many is promoted; η in the paper.
        hyperband_iterations: how often the whole plan of brackets is run.
        arguments: those of `Tuner`, such as `project_name`, and options of `search.run`, such as `workers`.

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

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        **arguments: Any,
    ) -> None:
        if not hyperband_iterations or hyperband_iterations == math.inf:
            raise OptionError("hyperband_iterations has no end: give a number, or end the search with timeout='8h'")
        options = {
            "backend": "hyperband",
            "max_epochs": max_epochs,
            "factor": factor,
            "iterations": hyperband_iterations,
        }
        super().__init__(hypermodel, objective, options, **arguments)


class RandomSearch(Tuner):
    """Random search (Bergstra and Bengio 2012, JMLR 13): each value is drawn by itself, and no trial is stopped.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the number of configurations to try; without end if None.
        arguments: those of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.RandomSearch(build_model, "val_loss", max_trials=20, seed=0)
    """

    def __init__(
        self, hypermodel: Any = None, objective: Any = None, max_trials: int | None = 10, **arguments: Any
    ) -> None:
        super().__init__(hypermodel, objective, _optuna("random"), max_trials=max_trials, **arguments)


class BayesianOptimization(Tuner):
    """Search by Optuna's TPE (Bergstra et al. 2011, NeurIPS 24, section 4), which handles conditional spaces.

    Optuna's Gaussian process, `sampler="gp"`, needs PyTorch.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the number of configurations to try; without end if None.
        num_initial_points: the number of random trials before the first one by TPE; Optuna's default if None.
        arguments: those of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.BayesianOptimization(build_model, "val_loss", max_trials=20, seed=0)
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        num_initial_points: int | None = None,
        **arguments: Any,
    ) -> None:
        sampler = f"tpe:n_startup_trials={num_initial_points}" if num_initial_points else "tpe"
        super().__init__(hypermodel, objective, _optuna(sampler), max_trials=max_trials, **arguments)


class GridSearch(Tuner):
    """Grid search: all combinations, the defaults first. A float without a step has eleven values.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        max_trials: the most configurations to try; all of the grid if None.
        arguments: those of `Tuner`, and options of `search.run`.

    Raises:
        OptionError: an argument is unknown or unsupported.

    Example:
        `build_model`, `x` and `y` are those of `Hyperband`'s example::

            import search

            def tuner_of(build_model):
                return search.GridSearch(build_model, "val_loss", max_trials=None, seed=0)
    """

    def __init__(
        self, hypermodel: Any = None, objective: Any = None, max_trials: int | None = None, **arguments: Any
    ) -> None:
        super().__init__(hypermodel, objective, _optuna("grid"), max_trials=max_trials or LARGEST_GRID, **arguments)


class _Function:
    """The hypermodel `tuner.hypermodel` of a function."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.fit(*args, **kwargs)


def _optuna(sampler: str) -> dict[str, Any]:
    return {"backend": "optuna", "sampler": sampler, "pruner": "none"}


def _objective(objective: Any) -> dict[str, Any]:
    if objective is None or isinstance(objective, str):
        return {"objective": objective}
    if isinstance(objective, list) or hasattr(objective, "objectives"):
        raise OptionError("there are several objectives: give one, such as a metric that weighs them")
    if not hasattr(objective, "name") or not hasattr(objective, "direction"):
        raise OptionError(f"objective is {describe_type(objective)}: give a metric's name, or a search.Objective")
    return {"objective": objective.name, "direction": objective.direction}


_ARGUMENT_NAMES = {
    "study": "project_name",
    "runs": "directory",
    "overwrite": "overwrite=True",
    "accept-changes": "accept_changes=True",
    "take-over": "take_over=True",
    "direction": "with objective=search.Objective(name, direction)",
    "retries": "max_retries_per_trial",
    "max-weights": "max_model_size",
    "iterations": "hyperband_iterations",
    "space": "hypermodel",
    "data[0]": "x, y or sample_weight",
    "data[1]": "validation_data",
}
"""The tuner's argument for each flag whose name it does not have; see `search.display.python_messages`."""


def _search_arguments() -> list[str]:
    return [name for name in inspect.signature(Tuner.search).parameters if name != "self"] + list(_FIT)
