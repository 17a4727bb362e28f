"""KerasTuner's tuners: scripts that were written for it run with `import search as kerastuner`.

A thin layer over `search.run` and `StudyResults`: a tuner's arguments become options of a search, and `tuner.search`
takes what `Model.fit` takes. What cannot be honoured is refused.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search import options as opts
from search.api import run
from search.errors import OptionError, StudyError, UserError, nearest
from search.options import FIELDS
from search.results.study_results import StudyResults, load_study, print_parameters
from search.space.file import kind, of_hypermodel
from search.study.paths import StudyPaths

__all__ = ["BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch", "Tuner"]

OWN_END = 1000
"""Epochs of a trial whose `fit` is the hypermodel's own, and says itself how many it wants."""

_REFUSED = {
    "max_model_size": "raise an exception in build_model where a model is too large, and that trial fails",
    "distribution_strategy": "gpus_per_trial=2 gives two GPUs to each trial",
    "tuner_id": "trials run in worker processes, workers=4 has four of them",
    "logger": "`search ui` shows the search while it runs",
    "alpha": "it is of KerasTuner's Gaussian process, and values are drawn by Optuna's TPE",
    "beta": "it is of KerasTuner's Gaussian process, and values are drawn by Optuna's TPE",
}
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
}
_OPTIONS = [name for name in FIELDS if name not in _MAPPED]

_FIT = (
    "shuffle",
    "class_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)


class Tuner:
    """What all tuners have in common.

    Args:
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`.
        objective: a metric's name, or a `search.Objective`; by default as `search.run` chooses it.
        options: what the kind of tuner makes of a search.
        max_trials: how many configurations to try.
        seed: makes a search with one worker repeatable.
        hyperparameters: a `HyperParameters`: what it holds takes the place of what the hypermodel asks for by the same
            names.
        tune_new_entries: whether what is not in `hyperparameters` is searched; else it has its default.
        allow_new_entries: whether the hypermodel may ask for what is not in `hyperparameters`.
        max_retries_per_trial: how often to take up a trial whose process died.
        max_consecutive_failed_trials: give up when so many failed before any succeeded.
        executions_per_trial: how often to train each trial.
        directory, project_name: the folder that studies live in, by default `runs`, and the study's name.
        overwrite: begin anew where the project exists; else the search goes on.
        optimizer, loss, metrics: take the place of what the hypermodel compiled its model with.
        accept_changes, take_over: as in `search.run`.
        others: options of `search.run`: `workers`, `gpus`, `timeout`, `tracking_uri`, …

    Raises:
        OptionError: an argument is not known, or cannot be honoured.
    """

    epochs_are_given = True
    """Whether `search` is told a trial's epochs."""

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
        max_consecutive_failed_trials: int = 3,
        executions_per_trial: int = 1,
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
            "max_consecutive_failures": max_consecutive_failed_trials,
            "executions_per_trial": executions_per_trial,
            **{name: value for name, value in others.items() if name not in _REFUSED},
        }
        self.options = {name: value for name, value in self.options.items() if value is not None}
        self.hypermodel = hypermodel if hasattr(hypermodel, "build") else _Function(hypermodel)
        self._factory = hypermodel
        if hyperparameters is not None or not (tune_new_entries and allow_new_entries):
            self._factory = _declaring(hypermodel, hyperparameters, tune_new_entries, allow_new_entries)
        given = {"optimizer": optimizer, "loss": loss, "metrics": metrics}
        self._compiled = {name: value for name, value in given.items() if value is not None}
        self._overwrite = overwrite
        self._accept_changes, self._take_over = accept_changes, take_over
        self._results: StudyResults | None = None
        with _spoken():
            opts.resolve(self.options, {})
            self._paths = StudyPaths.of(self.directory, self.project_name)

    def _check(self, hypermodel: Any, others: Mapping[str, Any]) -> None:
        name = type(self).__name__
        if hasattr(self, "run_trial"):
            raise OptionError(f"{name} has a run_trial, which is not called: give a HyperModel with a fit of its own")
        if hypermodel is None or not (callable(hypermodel) or hasattr(hypermodel, "build")):
            raise OptionError(f"{name} was given {kind(hypermodel)}: give a function of hp, or a HyperModel")
        for argument, value in others.items():
            if argument in _REFUSED and value is not None:
                raise OptionError(f"{name} was given {argument}: leave it out, {_REFUSED[argument]}")
            if argument not in _REFUSED and argument not in _OPTIONS:
                raise OptionError(f"{name} does not take {argument!r}: leave it out.{nearest(argument, _OPTIONS)}")

    @property
    def project_dir(self) -> str:
        """The study's folder."""
        return str(self._paths.folder)

    @property
    def results(self) -> StudyResults:
        """The study, with all that it found. StudyError where it has not been searched."""
        if self._results is None:
            if self._overwrite:
                raise StudyError(f"{self.project_name} is to be overwritten: call the tuner's search before")
            with _spoken():
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
        """Search, or go on where the project exists. Takes what `Model.fit` takes.

        Args:
            epochs: of each trial, 1 by default; Hyperband decides them itself.
            verbose: 0 shows no progress.
            callbacks: copied for every trial, with all that they hold.
            validation_split: the last part of the arrays.
            fit_options: other arguments of `Model.fit`, or of the hypermodel's own `fit`.

        Raises:
            UserError: the input is wrong; the message says what, where and what to do.
            NoResult: no trial has an objective.
            KeyboardInterrupt: the search was stopped; the same call goes on with it.
        """
        own_fit = hasattr(self._factory, "build") and "fit" in of_hypermodel(self._factory)
        for name in fit_options:
            if name not in _FIT and not own_fit:
                raise OptionError(f"search does not take {name!r}: leave it out.{nearest(name, _known_to_fit())}")
        if x is None:
            raise OptionError("search was given no data: give x and y, or a dataset, as Model.fit takes them")
        fit_options = {"batch_size": batch_size, **fit_options}
        factory, options = self._factory, dict(self.options)
        if self.epochs_are_given:
            options["max_epochs"] = epochs or 1
            if own_fit and epochs is None:
                factory, options["max_epochs"] = _fitting(factory), OWN_END
        with _spoken():
            self._results = run(
                factory,
                _data(x, y, sample_weight, validation_data, validation_split),
                compile_model=_compiling(self._compiled) if self._compiled else None,
                fit_options=_giving({name: value for name, value in fit_options.items() if value is not None}),
                callbacks=_copying(callbacks) if callbacks else None,
                resume=not self._overwrite,
                overwrite=self._overwrite,
                progress=verbose != 0,
                accept_changes=self._accept_changes,
                take_over=self._take_over,
                **options,
            )
        self._overwrite = False

    def reload(self) -> None:
        """Read the study again."""
        self._results = None

    # What it found --------------------------------------------------------------------------------------------------

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """The best trials' models with the weights of their best epochs, best first."""
        return self.results.get_best_models(num_models)

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[Any]:
        """The best trials' `HyperParameters`, best first: `tuner.hypermodel.build` takes them."""
        from search.worker.hp import LazyHyperParameters

        return [LazyHyperParameters(values=values) for values in self.results.get_best_hyperparameters(num_trials)]

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials, best first, with their hyperparameters."""
        self.results.results_summary(num_trials)

    def search_space_summary(self, extended: bool = False) -> None:
        """Print the hyperparameters. Where nothing has been searched yet, a model is built for that."""
        if self._results is not None:
            self._results.search_space_summary()
            return
        from search.worker.hp import LazyHyperParameters

        hp = LazyHyperParameters()
        getattr(self._factory, "build", self._factory)(hp)
        print_parameters(hp.parameters)


class Hyperband(Tuner):
    """Hyperband, as `search.run` has it: `max_epochs` is the most that one trial gets."""

    epochs_are_given = False

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
        plan = {"max_epochs": max_epochs, "factor": factor, "iterations": hyperband_iterations}
        super().__init__(hypermodel, objective, {"backend": "hyperband", **plan}, **arguments)


class RandomSearch(Tuner):
    """Values at random."""

    def __init__(
        self, hypermodel: Any = None, objective: Any = None, max_trials: int | None = 10, **arguments: Any
    ) -> None:
        super().__init__(hypermodel, objective, _optuna("random"), max_trials=max_trials, **arguments)


class BayesianOptimization(Tuner):
    """Values by Optuna's TPE, which handles conditional spaces. Its Gaussian process, `sampler="gp"`, needs PyTorch."""

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
    """All combinations. Floats need a step."""

    def __init__(
        self, hypermodel: Any = None, objective: Any = None, max_trials: int | None = None, **arguments: Any
    ) -> None:
        from search.backends.samplers import LARGEST_GRID

        super().__init__(hypermodel, objective, _optuna("grid"), max_trials=max_trials or LARGEST_GRID, **arguments)


class _Function:
    """What `tuner.hypermodel` is where a function was given."""

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
        raise OptionError(f"objective is {kind(objective)}: give a metric's name, or a search.Objective")
    return {"objective": objective.name, "direction": objective.direction}


_SPOKEN = {
    "study": "project_name",
    "runs": "directory",
    "overwrite": "overwrite=True",
    "accept-changes": "accept_changes=True",
    "take-over": "take_over=True",
    "direction": "with objective=search.Objective(name, direction)",
    "retries": "max_retries_per_trial",
    "iterations": "hyperband_iterations",
}


@contextmanager
def _spoken() -> Iterator[None]:
    """Have errors name a tuner's arguments, and not flags."""
    try:
        yield
    except UserError as error:
        text = re.sub(
            r"--([a-z]+(?:-[a-z]+)*)", lambda flag: _SPOKEN.get(flag[1], flag[1].replace("-", "_")), str(error)
        )
        raise type(error)(text) from error


def _known_to_fit() -> list[str]:
    return [name for name in inspect.signature(Tuner.search).parameters if name != "self"] + list(_FIT)


# Data -----------------------------------------------------------------------------------------------------------------


def _data(x: Any, y: Any, sample_weight: Any, validation: Any, split: float) -> tuple[Any, Any]:
    """(train, validation), as `load_data` of a space file returns them."""
    arrays = y is not None or sample_weight is not None or isinstance(x, (dict, list, tuple)) or _is_array(x)
    train = x
    if arrays:
        train = (x,) if y is None and sample_weight is None else (x, y)
        train = train if sample_weight is None else (x, y, sample_weight)
    if validation is not None or not split:
        return train, tuple(validation) if isinstance(validation, list) else validation
    if not arrays:
        raise OptionError("validation_split needs arrays: give validation_data")
    samples = _samples(x)
    at = math.floor(samples * (1.0 - split))
    if not 0 < at < samples:
        raise OptionError(f"validation_split={split} leaves nothing to train or to validate on: give another")
    return _part(train, slice(at)), _part(train, slice(at, None))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _samples(value: Any) -> int:
    while isinstance(value, (dict, list, tuple)) and len(value):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return len(value)


def _part(value: Any, where: slice) -> Any:
    if isinstance(value, dict):
        return {name: _part(item, where) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_part(item, where) for item in value)
    return value if value is None else getattr(value, "iloc", value)[where]


# Parts of a space -----------------------------------------------------------------------------------------------------

# These return functions that cloudpickle sends by value: a model is served where search is not installed.


def _giving(options: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda hp: options


def _copying(callbacks: Any) -> Callable[[Any], Any]:
    return lambda hp: copy.deepcopy(callbacks)


def _compiling(arguments: dict[str, Any]) -> Callable[[Any, Any], Any]:
    def compile_model(hp: Any, model: Any) -> None:
        import keras

        given = {name: keras.saving.serialize_keras_object(value) for name, value in arguments.items()}
        model.compile_from_config({**model.get_compile_config(), **given})

    return compile_model


def _declaring(hypermodel: Any, given: Any, tune_new: bool, allow_new: bool) -> Any:
    """The hypermodel, with what it is asked for taken from `given` first."""
    if given is not None and not hasattr(given, "space"):
        raise OptionError(f"hyperparameters is {kind(given)}: give a search.HyperParameters")
    if given is None:
        import keras_tuner

        given = keras_tuner.HyperParameters()
    build = getattr(hypermodel, "build", hypermodel)

    @functools.wraps(build)
    def declared(hp: Any) -> Any:
        hp.declare(given, tune_new=tune_new, allow_new=allow_new)
        return build(hp)

    if build is hypermodel:
        return declared
    changed = copy.copy(hypermodel)
    changed.build = declared
    return changed


def _fitting(hypermodel: Any) -> Any:
    """The hypermodel, whose `fit` is told of one epoch, as `Model.fit` has it, where it does not say how many."""
    fit = hypermodel.fit
    has_default = "epochs" in inspect.signature(fit).parameters

    @functools.wraps(fit)
    def fitting(*args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("epochs", None) is not None and not has_default:
            kwargs["epochs"] = 1
        return fit(*args, **kwargs)

    changed = copy.copy(hypermodel)
    changed.fit = fitting
    return changed
