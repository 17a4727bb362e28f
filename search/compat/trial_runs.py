"""A tuner's own `run_trial` in a worker process: the hypermodel that a search gets in place of the user's.

The model is built by the hypermodel before `run_trial` is called. The first `build` within `run_trial` returns that
model, so its training is the trial's: it is checkpointed and continued as `search.worker.runners.own_fit` says. Without
a Keras model, `run_trial` is a black box, and the search has a model without weights in its place.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import pickle
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.compat.original import trial as original_trial
from search.compat.original import tuner_utils
from search.compat.trials import trial_id
from search.worker.user_code import trial_dir

__all__ = ["ATTRIBUTES_FILE", "UPDATES_TRIAL", "Run", "TrialRuns", "calls_super", "keeps_state", "running"]

ATTRIBUTES_FILE = "tuner.pkl"
"""The file in a trial's folder with the attributes of the tuner that the trial has changed."""


@dataclass(eq=False)
class Run:
    """A call of `run_trial` in a worker.

    Attributes:
        trial: the trial that `run_trial` is given.
        model: the model that was built for it.
        callback: the search's own callback.
        epochs: the epochs that the search asks for.
        trains: a training of the model by `Tuner.run_trial` is under way, whose epochs the callback sees.
        told: the search knows the training, so that nothing need be returned, as in KerasTuner before version 1.1.
        built: what the hypermodel's `build` returned, until the first `build` within `run_trial` takes it.
    """

    trial: Any
    model: Any
    callback: Any
    epochs: Any
    trains: bool = False
    told: bool = False
    built: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Note that the callback sees the epochs within the context."""
        self.trains = self.told = True
        try:
            yield
        finally:
            self.trains = False


_running: contextvars.ContextVar[Run | None] = contextvars.ContextVar("_running", default=None)


def running(trial: Any = None) -> Run | None:
    """Return the call of `run_trial` that this process is in, None outside of a worker.

    Args:
        trial: the trial that must be meant; by default any.
    """
    run = _running.get()
    return run if run is not None and (trial is None or trial is run.trial) else None


UPDATES_TRIAL = "oracle.update_trial"
"""The name in `ATTRIBUTES_FILE` that says that `run_trial` has called it."""


class BlackBox(keras.Model):
    """The model without weights of a trial that has no Keras model."""

    def __init__(self) -> None:
        super().__init__(name="black_box")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the inputs: nothing is trained."""
        return inputs


class TrialRuns:
    """A hypermodel whose `fit` is the tuner's `run_trial`.

    Args:
        tuner: the tuner, as a worker gets it.
        given: the names of the arguments that the user gave `search`.
        seen_by_probe: whether the probe may call `run_trial`: it trains by `super().run_trial`, where a probe ends.
    """

    def __init__(self, tuner: Any, *, given: Collection[str], seen_by_probe: bool) -> None:
        self.tuner = tuner
        self.given = frozenset(given)
        self._first = _pickles(tuner)
        self.skips_probe = not seen_by_probe
        self._built: Any = None
        self._updates_trial = False

    @property
    def users_objects(self) -> list[Any]:
        """The user's classes and functions: their modules travel to workers with the tuner."""
        hypermodel = self.tuner.hypermodel
        return [*type(self.tuner).__mro__, hypermodel, getattr(hypermodel, "build", None)]

    def leaves(self) -> list[tuple[str, Any]]:
        """Return the parts of the tuner with their names, so that a worker may inherit one that cannot be pickled."""
        return [(f"tuner.{name}", value) for name, value in self.tuner.__getstate__().items()]

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declare the hyperparameters that the tuner was given, and the hypermodel's own."""
        given, oracle = self.tuner.given_hyperparameters, self.tuner.oracle
        if given is not None:
            hp.declare(given, tune_new=oracle.tune_new_entries, allow_new=oracle.allow_new_entries)
        if self.tuner.hypermodel is not None:
            self.tuner.hypermodel.declare_hyperparameters(hp)

    def build(self, hp: Any) -> Any:
        """Return the hypermodel's model, or a black box if it has none."""
        self._built = None
        if self.tuner.hypermodel is not None:
            builds = getattr(self.tuner, "_build_hypermodel", self.tuner.hypermodel.build)
            self._built = builds(hp)
        return self._built if isinstance(self._built, keras.Model) else BlackBox()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `run_trial`, and return its result as a `fit` returns it.

        Args:
            args, kwargs: those of `search`, with the search's own epochs and callbacks.
        """
        *callbacks, own = kwargs.pop("callbacks")
        for name in ("initial_epoch", "verbose"):
            if name not in self.given or not _takes(self.tuner.run_trial, name):
                kwargs.pop(name, None)
        epochs = kwargs.pop("epochs")
        if "epochs" in self.given:
            kwargs["epochs"] = epochs
        if "callbacks" in self.given:
            kwargs["callbacks"] = callbacks
        trial = self._make_trial(hp)
        built = [] if self._built is None else [self._built]
        run = Run(trial, model, own, epochs, built=built)
        token = _running.set(run)
        try:
            with self._first_build(run):
                return self._result(run, self.tuner.run_trial(trial, *args, **kwargs))
        finally:
            _running.reset(token)
            self._keep_attributes(is_trial=trial_dir().name.isdecimal())

    def _make_trial(self, hp: Any) -> Any:
        """Return the trial that `run_trial` is given. The tuner's oracle knows it, and the ids of those before it."""
        name = trial_dir().name
        number = int(name) if name.isdecimal() else 0  # a probe has a temporary folder
        oracle = self.tuner.oracle
        oracle.start_order = [trial_id(each, oracle.max_trials) for each in range(number + 1)]
        trial = original_trial.Trial(hp, trial_id=oracle.start_order[-1])
        oracle.trials = {trial.trial_id: trial}
        oracle.ongoing_trials = {self.tuner.tuner_id: trial}
        return trial

    @contextlib.contextmanager
    def _first_build(self, run: Run) -> Iterator[None]:
        """Have the first `build` of the trial's hyperparameters return what was built already."""
        hypermodel = self.tuner.hypermodel
        if hypermodel is None:
            yield
            return
        build, assigned = hypermodel.build, "build" in vars(hypermodel)

        def build_once(hp: Any, *args: Any, **kwargs: Any) -> Any:
            if run.built and hp is run.trial.hyperparameters and not args and not kwargs:
                return run.built.pop()
            return build(hp, *args, **kwargs)

        hypermodel.build = build_once
        try:
            yield
        finally:
            if assigned:
                hypermodel.build = build
            else:
                del hypermodel.build

    def _result(self, run: Run, returned: Any) -> Any:
        """Return the result of `run_trial` as numbers, unless the search has seen the training itself."""
        objective, trial = self.tuner.oracle.objective, run.trial
        if trial.metrics.exists(objective.name):
            self._updates_trial = True
            return {name: history.get_best_value() for name, history in trial.metrics.metrics.items()}
        if returned is None and run.told:
            return None
        tuner_utils.validate_trial_results(returned, objective, "Tuner.run_trial()")
        if any(run.callback.knows(item) for item in _flat(returned)):
            return returned  # a training that the search has recorded
        return tuner_utils.convert_to_metrics_dict(returned, objective)

    def _keep_attributes(self, *, is_trial: bool) -> None:
        """Write the tuner's changed attributes into the trial's folder, for the script to look at after the search.

        Those that a probe has changed are restored.
        """
        changed = {name: data for name, data in _pickles(self.tuner).items() if self._first.get(name) != data}
        if self._updates_trial:
            changed[UPDATES_TRIAL] = b"True"
        if changed and is_trial:
            Path(trial_dir(), ATTRIBUTES_FILE).write_bytes(pickle.dumps(changed))
        elif changed:
            vars(self.tuner).update({name: pickle.loads(self._first[name]) for name in changed if name in self._first})


_PLAIN = (bool, int, float, str, list, dict, set, tuple, type(None), np.generic)
"""The types of a tuner's attributes that come back from a worker: counters, and lists of results."""


def keeps_state(tuner: Any) -> bool:
    """Return whether `run_trial` may change an attribute that the script looks at after the search."""
    return bool(_pickles(tuner))


def _pickles(tuner: Any) -> Mapping[str, bytes]:
    """Return the pickles of the attributes that the user's code has given to a tuner."""
    found = {}
    for name, value in tuner.own_attributes().items():
        if isinstance(value, _PLAIN):
            with contextlib.suppress(Exception):  # others have no form outside of this process
                found[name] = pickle.dumps(value)
    return found


def _takes(function: Any, name: str) -> bool:
    """Return whether a function takes an argument of this name, be it by `**kwargs`."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _flat(returned: Any) -> Iterator[Any]:
    for item in returned if isinstance(returned, list) else [returned]:
        yield from _flat(item) if isinstance(item, list) else [item]


def calls_super(tuner: Any) -> bool:
    """Return whether the `run_trial` of a tuner may reach ours: each override may call the one that it overrides."""
    overrides = [(own, "") for name, own in vars(tuner).items() if name == "run_trial"]
    classes = [(vars(cls)["run_trial"], cls.__module__) for cls in type(tuner).__mro__ if "run_trial" in vars(cls)]
    for method, module in [*overrides, *classes]:
        if module.startswith("search.compat."):
            return True
        code = getattr(inspect.unwrap(method), "__code__", None)
        if code is not None and "run_trial" not in code.co_names:
            return False
    return False
