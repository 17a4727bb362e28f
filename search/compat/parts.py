"""Functions of a space file, made of a tuner's arguments.

The functions returned here are pickled by value, so they must not use this package: a model may be served where
`search` is not installed. Pickles of `declare_and_build` call `hp.declare`, which keeps its name and arguments.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from search.errors import OptionError
from search.space.file import describe_type

__all__ = [
    "make_callbacks",
    "make_compile_model",
    "make_fit_options",
    "with_checked_results",
    "with_default_epochs",
    "with_hyperparameters",
]


def make_fit_options(options: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a `fit_options` that always gives `options`."""
    return lambda hp: options


def make_callbacks(callbacks: Any, objective: Any = None) -> Callable[[Any], Any]:
    """Return a `callbacks` that gives fresh copies of `callbacks`.

    Args:
        callbacks: a list; None for none.
        objective: a `MultiObjective` of KerasTuner's. Its value is added to the logs of each epoch.
    """

    def add_value(epoch: int, logs: dict[str, Any]) -> None:
        if objective.has_value(logs):
            logs[objective.name] = objective.get_value(logs)

    def fresh(hp: Any) -> list[Any]:
        try:
            made = list(copy.deepcopy(callbacks) or [])
        except Exception as error:
            from keras_tuner.errors import FatalValueError

            raise FatalValueError(
                "All callbacks used during a search should be deep-copyable, as each trial has its own: "
                f"{type(error).__name__}: {error}"
            ) from error
        if objective is not None:
            import keras

            made.append(keras.callbacks.LambdaCallback(on_epoch_end=add_value))
        return made

    # Each may be one that cannot be pickled, and that workers inherit.
    vars(fresh)["leaves"] = lambda: [(f"callbacks[{place}]", each) for place, each in enumerate(callbacks or [])]
    return fresh


def make_compile_model(arguments: dict[str, Any]) -> Callable[[Any, Any], Any]:
    """Return a `compile_model` that replaces `arguments` of the model's own compilation."""

    def compile_model(hp: Any, model: Any) -> None:
        import keras

        replaced = {name: keras.saving.serialize_keras_object(value) for name, value in arguments.items()}
        model.compile_from_config({**model.get_compile_config(), **replaced})

    return compile_model


def with_hyperparameters(hypermodel: Any, hyperparameters: Any, tune_new: bool, allow_new: bool) -> Any:
    """Return the hypermodel, with `hyperparameters` in place of its own parameters of the same names."""
    if hyperparameters is not None and not hasattr(hyperparameters, "space"):
        raise OptionError(f"hyperparameters is {describe_type(hyperparameters)}: give a search.HyperParameters")
    if hyperparameters is None:
        import keras_tuner

        hyperparameters = keras_tuner.HyperParameters()
    build = getattr(hypermodel, "build", hypermodel)

    @functools.wraps(build)
    def declare_and_build(hp: Any) -> Any:
        hp.declare(hyperparameters, tune_new=tune_new, allow_new=allow_new)
        return build(hp)

    if build is hypermodel:
        return declare_and_build
    changed = copy.copy(hypermodel)
    changed.build = declare_and_build
    if (own := getattr(hypermodel, "declare_hyperparameters", None)) is not None:

        @functools.wraps(own)
        def declare_both(hp: Any) -> None:
            hp.declare(hyperparameters, tune_new=tune_new, allow_new=allow_new)
            own(hp)

        changed.declare_hyperparameters = declare_both
    return changed


def with_default_epochs(hypermodel: Any) -> Any:
    """Return the hypermodel with a `fit` that ignores the search's epochs.

    A `fit` without a parameter `epochs` of its own is called with one epoch, the default of `Model.fit`.
    """
    fit = hypermodel.fit
    has_default = "epochs" in inspect.signature(fit).parameters

    @functools.wraps(fit)
    def fit_with_default_epochs(*args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("epochs", None) is not None and not has_default:
            kwargs["epochs"] = 1
        return fit(*args, **kwargs)

    changed = copy.copy(hypermodel)
    changed.fit = fit_with_default_epochs
    return changed


def with_checked_results(hypermodel: Any, objective: Any) -> Any:
    """Return the hypermodel with a `fit` whose result is checked as KerasTuner does; None is left to the search.

    A result of a wrong type raises KerasTuner's FatalTypeError or FatalValueError, which ends the search.
    """
    fit = hypermodel.fit

    @functools.wraps(fit)
    def checked_fit(*args: Any, **kwargs: Any) -> Any:
        from keras_tuner.src.engine.tuner_utils import validate_trial_results

        results = fit(*args, **kwargs)
        if results is not None:
            validate_trial_results(results, objective, "HyperModel.fit()")
        return results

    changed = copy.copy(hypermodel)
    changed.fit = checked_fit
    return changed
