"""The base of the tuners of Keras models, and KerasTuner's `run_trial` as a worker runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from search.compat import original
from search.compat.base_tuner import BaseTuner
from search.compat.oracle_options import named_objective
from search.compat.raising import as_kerastuner
from search.compat.refusals import HOOKS_OF_TRAINING, RUNS_A_TRIAL, own_methods
from search.compat.trial_runs import running
from search.errors import OptionError
from search.space.file import describe_type

__all__ = ["OfOracle", "Tuner"]


class Tuner(original.tuner.Tuner, BaseTuner):
    """The base class of the tuners of Keras models, with the methods that KerasTuner's tuners have.

    Args:
        oracle: one of KerasTuner's oracles, which becomes one of our back ends, or an oracle of one's own.
        hypermodel: a function that takes `hp` and returns a compiled model, or a `HyperModel`; may be left out if the
            subclass has a `run_trial`.
        max_model_size: the most weights that a model may have; a larger one makes its trial infeasible.
        optimizer, loss, metrics: replace those that the hypermodel compiled its model with.
        distribution_strategy: a `tf.distribute.MirroredStrategy`: each trial gets as many GPUs.
        directory, project_name: the folder of all studies, by default `runs`, and the study's name.
        overwrite: begin anew if the project exists; else the search goes on.
        executions_per_trial: the number of times that each trial is trained.
        accept_changes, take_over: as in `search.run`.
        args, kwargs: KerasTuner's other arguments, and options of `search.run`: `workers`, `gpus`, `timeout`, …

    Raises:
        OptionError: an argument is unknown or unsupported.
    """

    def __init__(self, oracle: Any, hypermodel: Any = None, *args: Any, **kwargs: Any) -> None:
        if hypermodel is None and "run_trial" not in own_methods(self):
            with as_kerastuner():
                raise OptionError(
                    "Received `hypermodel=None`: give a function of hp, a HyperModel, or a subclass with a run_trial"
                )
        super().__init__(oracle, hypermodel, *args, **kwargs)
        self._check_options()

    def _tuner_options(self) -> dict[str, Any]:
        # KerasTuner's constructor sets these last.
        own = vars(self)
        options = {
            "executions_per_trial": own.get("executions_per_trial"),
            "max_weights": own.get("max_model_size"),
        }
        replicas = getattr(own.get("distribution_strategy"), "num_replicas_in_sync", 1)
        return options if replicas == 1 else {**options, "gpus_per_trial": replicas}

    def _compile_arguments(self) -> dict[str, Any]:
        given = {"optimizer": self.optimizer, "loss": self.loss, "metrics": self.metrics}
        return {name: value for name, value in given.items() if value}

    def _runs_trials(self) -> bool:
        own = own_methods(self)
        return self.hypermodel is None or bool(own & (RUNS_A_TRIAL | HOOKS_OF_TRAINING))

    # A trial in a worker --------------------------------------------------------------------------------------------

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Build and train the trial's model. In a worker the search trains it, and continues it from its checkpoint.

        Args:
            trial: as `search` passes it on.
            args, kwargs: the arguments of `Model.fit`.

        Returns:
            The History of the training; outside of a worker, as KerasTuner, a list of them.
        """
        run = running(trial)
        if run is None:
            return super().run_trial(trial, *args, **kwargs)
        callbacks = [*(kwargs.pop("callbacks", None) or [])]
        if own_methods(self) & HOOKS_OF_TRAINING:
            callbacks.append(original.tuner_utils.TunerCallback(self, trial))
        with run.training():
            return self._build_and_fit_model(trial, *args, **kwargs, callbacks=[*callbacks, run.callback])

    def _build_and_fit_model(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a model and call the hypermodel's `fit`."""
        if running(trial) is None:
            return super()._build_and_fit_model(trial, *args, **kwargs)
        hp = trial.hyperparameters
        results = self.hypermodel.fit(hp, self._try_build(hp), *args, **kwargs)
        original.tuner_utils.validate_trial_results(results, self.oracle.objective, "HyperModel.fit()")
        return results

    def _try_build(self, hp: Any) -> Any:
        """Build a model. In a worker, Keras's session stays: its models serve other trials, too."""
        if running() is None:
            return super()._try_build(hp)
        model = self._build_hypermodel(hp)
        if not isinstance(model, keras.Model):
            raise original.errors.FatalTypeError(
                f"Expected the model-building function to return a keras.Model, and it returned {describe_type(model)}"
            )
        return model

    def on_epoch_begin(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
        """Take note of an epoch of a loop of the user's own; a subclass may override it.

        Args:
            trial, model, epoch, logs: as in KerasTuner.
        """
        if (run := running(trial)) is not None and not run.trains:
            run.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
        """Record an epoch of a loop of the user's own; a subclass may override it.

        Args:
            trial: as `run_trial` got it.
            model: the model that the loop trains.
            epoch: its number, which may be any.
            logs: the metrics by name, with the objective.
        """
        if (run := running(trial)) is not None and not run.trains:
            run.told = True
            run.callback.on_epoch_end(epoch, logs)

    load_model = BaseTuner.load_model

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """Keep the weights of a model as the trial's. In a worker, its own model is kept without this call.

        Args:
            trial_id: the trial's id.
            model: a model with weights of the same shapes as the trial's.
            step: KerasTuner's argument, without an effect here.
        """
        run = running()
        if run is not None and model is not run.model:
            run.model.set_weights(model.get_weights())


class OfOracle:
    """The part of a tuner that makes its oracle itself: it keeps the arguments as they were given.

    The direction of an objective that is only named is left to the search, and 0 is a seed.
    """

    _given: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make: Callable[..., None] = super().__init__
        given = inspect.signature(make).bind(*args, **kwargs).arguments
        self._given = {**given.pop("kwargs", {}), **given}
        self._given["objective"] = named_objective(self._given.get("objective"))
        make(**self._given)

    def _given_seed(self) -> int | None:
        seed = self._given.get("seed")
        return None if seed is None else int(seed)
