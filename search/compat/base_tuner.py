"""The base of all tuners: KerasTuner's own `BaseTuner`, whose `search` is a search of ours.

The constructors, the methods that a script calls and the lines that they print are KerasTuner's own code. `search`
makes options of `search.run` of the tuner's arguments. The oracle shows the study's trials.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from search.api import run
from search.compat import original
from search.compat.first_build import in_a_fork
from search.compat.fit_data import bind_arguments, take_data
from search.compat.oracle_backend import oracle_in_use
from search.compat.oracle_options import is_own_oracle, options_of
from search.compat.oracle_view import attach_view
from search.compat.parts import (
    make_callbacks,
    make_compile_model,
    make_fit_options,
    with_checked_results,
    with_default_epochs,
    with_hyperparameters,
)
from search.compat.raising import as_kerastuner
from search.compat.refusals import (
    HOOKS_OF_TRIALS,
    check_environment,
    check_overrides,
    own_methods,
)
from search.compat.trial_hooks import FOLLOWER, TrialHooks
from search.compat.trial_runs import ATTRIBUTES_FILE, UPDATES_TRIAL, TrialRuns, calls_super, keeps_state, running
from search.compat.trials import number_of, trials_of
from search.display.python_messages import python_arguments
from search.errors import OptionError, StudyError, nearest
from search.options import FIELDS, OWN_FIT_MAX_EPOCHS, resolve_options
from search.results.study_results import StudyResults, load_study
from search.space.file import describe_type, hypermodel_parts
from search.space.fit_arguments import FitArguments
from search.study.paths import StudyPaths

__all__ = ["BaseTuner"]

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

KEPT_MODELS = 10
"""The most trials whose weights are kept, unless the user says another number. KerasTuner keeps all."""

_OPTIONS = [name for name in FIELDS if name not in _MAPPED]


class BaseTuner(original.base_tuner.BaseTuner):
    """A tuner for models of any kind, whose subclass has a `run_trial(trial, …)`, as KerasTuner's.

    `search` runs `run_trial` in worker processes, and passes its own arguments on.

    Args:
        oracle: one of KerasTuner's oracles, which becomes one of our back ends, or an oracle of one's own.
        hypermodel: a function that takes `hp` and returns a model, or a `HyperModel`; may be left out.
        directory, project_name: the folder of all studies, by default `runs`, and the study's name.
        overwrite: begin anew if the project exists; else the search goes on.
        accept_changes, take_over: as in `search.run`.
        options: options of `search.run`: `workers`, `gpus`, `timeout`, `tracking_uri`, …

    Raises:
        OptionError: an argument is unknown or unsupported.
    """

    search_sets_epochs = True
    """True if `search` takes the epochs of a trial."""

    def __init__(
        self,
        oracle: Any,
        hypermodel: Any = None,
        directory: str | Path | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        accept_changes: bool = False,
        take_over: bool = False,
        **options: Any,
    ) -> None:
        with as_kerastuner():
            check_overrides(self)
            check_environment(type(self).__name__)
        unknown = {name: value for name, value in options.items() if name not in _OPTIONS}
        self._options = {name: value for name, value in options.items() if name in _OPTIONS}
        self._overwrite, self._accept_changes, self._take_over = overwrite, accept_changes, take_over
        self._factory = hypermodel
        self._results: StudyResults | None = None
        self._trials: dict[str, Any] = {}
        self._space_filled = False
        self.directory = str(directory or "runs")
        self.project_name = project_name or "untitled_project"
        with as_kerastuner(), python_arguments(_ARGUMENT_NAMES):
            _check_unknown(type(self).__name__, unknown.keys() - {"logger"})
            self._paths = StudyPaths.of(self.directory, self.project_name)
        if isinstance(oracle, original.oracle.Oracle):
            space = oracle.hyperparameters
            if not isinstance(space, original.hyperparameters.HyperParameters):
                with as_kerastuner():
                    raise OptionError(f"hyperparameters is {describe_type(space)}: give a HyperParameters")
            self._has_own_oracle = is_own_oracle(oracle)
            restricted = not (oracle.tune_new_entries and oracle.allow_new_entries)
            self.given_hyperparameters = space.copy() if space.space or restricted else None
            if not self._has_own_oracle:
                attach_view(oracle, self)
        super().__init__(oracle, hypermodel, directory or "runs", project_name, logger=unknown.get("logger"))
        self._check_options()
        if self._has_study():
            self._check_kind()

    def _check_kind(self) -> None:
        """Raise StudyError if the project that exists was searched in another way than this tuner's."""
        options = {"backend", "sampler", "pruner"} & self._options.keys()
        wanted, phases = options_of(self.oracle), self.results.study.phases
        if self._has_own_oracle or options or not phases:
            return
        asked = wanted["backend"], wanted.get("sampler", "random")
        before = phases[-1].backend, str(phases[-1].options.get("sampler", "random"))
        if [name.partition(":")[0] for name in asked] != [name.partition(":")[0] for name in before]:
            with as_kerastuner():
                raise StudyError(
                    f"{self.project_name} in {self.directory} was searched by {' with sampler '.join(before)}, and "
                    f"{type(self).__name__} searches in another way: pass `overwrite=True` to begin anew, or give "
                    "another project_name"
                )

    def _check_options(self) -> None:
        """Raise OptionError if an argument of the tuner is wrong; a constructor that sets attributes calls it last."""
        with as_kerastuner(), python_arguments(_ARGUMENT_NAMES):
            resolve_options(self._search_options(), {})

    def __getstate__(self) -> dict[str, Any]:
        left_out: dict[str, Any] = {"_results": None, "_trials": {}, "_factory": None, "_options": {}}
        return {**vars(self), **left_out}

    def _search_options(self) -> dict[str, Any]:
        """Return the options of `search.run` that the tuner's arguments make."""
        found = {
            "study": self.project_name,
            "runs": str(self.directory),
            "keep_models": KEPT_MODELS,
            "seed": self._given_seed(),
            **options_of(self.oracle),
            **self._tuner_options(),
            **self._options,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _given_seed(self) -> int | None:
        """Return the seed that the user gave; KerasTuner's oracles draw one if there is none."""
        return int(self.oracle.seed)

    def _tuner_options(self) -> dict[str, Any]:
        """Return the options that the arguments of this kind of tuner make, beside those of the oracle."""
        return {}

    # The study ------------------------------------------------------------------------------------------------------

    @property
    def project_dir(self) -> str:
        """The study's folder."""
        return str(self._paths.folder)

    def get_trial_dir(self, trial_id: str) -> str:
        """Return the folder of the trial `trial_id`, which exists."""
        folder = self._paths.trial(number_of(trial_id)).folder
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _get_tuner_fname(self) -> str:
        """Return the file whose existence says that there is a project to go on with; none if it is overwritten."""
        return "" if self._overwrite else str(self._paths.journal)

    @property
    def results(self) -> StudyResults:
        """The study and its results.

        Raises:
            StudyError: there has been no search.
        """
        if self._results is None:
            with as_kerastuner(), python_arguments(_ARGUMENT_NAMES):
                if self._overwrite:
                    raise StudyError(f"{self.project_name} is to be overwritten: call the tuner's search before")
                self._results = load_study(self.project_name, str(self.directory))
        return self._results

    def _has_study(self) -> bool:
        journal = self._paths.journal
        exists = journal.exists() and journal.stat().st_size > 0
        return self._results is not None or (not self._overwrite and exists)

    def save(self) -> None:
        """Do nothing: the study's journal has everything at each moment."""

    def reload(self) -> None:
        """Read the study again. It is also called when the tuner is made, if the project exists."""
        self._results, self._trials = None, {}
        if not self._has_own_oracle:
            self.oracle.reload()
        elif not self.oracle.trials:
            self.oracle.trials = self.study_trials()

    def study_trials(self) -> dict[str, Any]:
        """Return the study's trials by KerasTuner's ids."""
        if not self._trials and self._has_study() and self.results.study.trials:
            self._note_study()
        return self._trials

    def _note_study(self) -> None:
        """Let the oracle show the study as it was read last."""
        study, oracle = self.results.study, self.oracle
        hyperband = isinstance(oracle, original.oracles.HyperbandOracle)
        self._trials = trials_of(study, oracle.max_trials, hyperband=hyperband)
        oracle.start_order = list(self._trials)
        display = oracle._display  # scripts print the numbers
        display.trial_number = {key: place for place, key in enumerate(self._trials, 1)}
        oracle.end_order = [key for key, trial in self._trials.items() if trial.status != "RUNNING"]
        if oracle.objective.name != study.objective.name or oracle.objective.direction is None:
            oracle.objective = original.objective.Objective(study.objective.name, study.objective.direction)

    # The space ------------------------------------------------------------------------------------------------------

    def _populate_initial_space(self) -> None:
        """Fill an own oracle's space. Else do nothing yet: somebody may look at the space, and a build takes time."""
        if self._has_own_oracle:
            super()._populate_initial_space()

    def fill_space(self) -> None:
        """Add the hyperparameters known so far to the oracle: those of the trials, or those of a first build."""
        if self._space_filled or running() is not None:
            return
        self._space_filled = True  # the calls below look at the space
        if self._has_study() and self.study_trials():
            for trial in self._trials.values():
                self._update_space(trial.hyperparameters)
        elif self.hypermodel is not None:
            config = in_a_fork(self._first_space)
            space = self._first_space() if config is None else config
            self._update_space(original.hyperparameters.HyperParameters.from_config(space))

    def _first_space(self) -> dict[str, Any]:
        """Return the space as the first builds show it."""
        with contextlib.suppress(original.errors.FailedTrialError):  # of the default values
            super()._populate_initial_space()
        config: dict[str, Any] = self.oracle.hyperparameters.get_config()
        return config

    def _update_space(self, hyperparameters: Any) -> None:
        with contextlib.suppress(RuntimeError):  # new entries that are not allowed failed their trial
            self.oracle.update_space(hyperparameters)

    # The search -----------------------------------------------------------------------------------------------------

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Search, or go on if the project exists.

        Takes the arguments of `Model.fit`; a `run_trial` or a `fit` of one's own may take any others, or none.

        Args:
            fit_args, fit_kwargs: `x`, `y`, `epochs` (1 by default; Hyperband decides them itself), `validation_data`,
                `callbacks` (deep-copied for every trial), …; `verbose=0` shows no progress.

        Raises:
            OptionError: an argument is unknown, or there are no data. So for all other wrong input: `UserError`. Each
                is also a ValueError, a TypeError or a RuntimeError, as KerasTuner's.
            SpaceError: also if a trial raised a FatalError of KerasTuner's.
            NoResult: no trial has an objective.
            SearchError: too many trials failed in a row, and others have results.
            KeyboardInterrupt: the search was stopped; the same call resumes it.
        """
        with as_kerastuner(), python_arguments(_ARGUMENT_NAMES):
            check_overrides(self)  # a method may have been assigned since
            factory, data, parts, options = self._prepare(fit_args, fit_kwargs)
            self.on_search_begin()
            if own_methods(self) & HOOKS_OF_TRIALS:
                options["follow"] = (*self._options.get("follow", ()), FOLLOWER)
            with TrialHooks.calling(self), self._oracle_in_charge(options):
                self._results = run(
                    factory,
                    data,
                    **parts,
                    resume=not self._overwrite,
                    overwrite=self._overwrite,
                    progress=fit_kwargs.get("verbose", "auto") != 0,
                    accept_changes=self._accept_changes,
                    take_over=self._take_over,
                    **{**self._search_options(), **options},
                )
        self._overwrite = self._space_filled = False
        self._trials = {}
        if not self._has_own_oracle:
            self.oracle.reload()
        self._take_attributes()
        self.on_search_end()

    @contextlib.contextmanager
    def _oracle_in_charge(self, options: dict[str, Any]) -> Iterator[None]:
        """Let an oracle of the user's own decide what to try, by one of the `options`."""
        if not self._has_own_oracle:
            yield
            return
        with oracle_in_use(self.oracle) as options["backend"]:
            yield

    def _prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
        """Return the factory, its data, its further parts, and options, for a call of `search`."""
        if self._runs_trials() or not (args or "x" in kwargs):
            return self._prepare_runs(args, kwargs)
        factory, changed = self._declared_factory(), self._compile_arguments()
        parts: dict[str, Any] = {"compile_model": make_compile_model(changed) if changed else None}
        if "fit" in hypermodel_parts(self.hypermodel):
            factory = with_checked_results(factory, self.oracle.objective)
            given = dict(kwargs)
            epochs, callbacks = given.pop("epochs", None), given.pop("callbacks", None)
            given.pop("verbose", None)
            most = epochs
            if epochs is None and self.search_sets_epochs:
                factory, most = with_default_epochs(factory), OWN_FIT_MAX_EPOCHS
            data: Any = FitArguments(args, given)
        else:
            given = bind_arguments(args, kwargs)
            most, callbacks = given.pop("epochs", None) or 1, given.pop("callbacks", None)
            data = take_data(given)
            options_of_fit = {name: value for name, value in given.items() if value is not None and name != "verbose"}
            parts["fit_options"] = make_fit_options(options_of_fit)
        parts["callbacks"] = self._make_callbacks(callbacks)
        return factory, data, parts, {"max_epochs": most} if self.search_sets_epochs else {}

    def _declared_factory(self) -> Any:
        """Return the user's hypermodel or function, with the hyperparameters that the tuner was given."""
        if self.given_hyperparameters is None:
            return self._factory
        oracle = self.oracle
        return with_hyperparameters(
            self._factory, self.given_hyperparameters, oracle.tune_new_entries, oracle.allow_new_entries
        )

    def _make_callbacks(self, callbacks: Any) -> Any:
        """Return the `callbacks` of a space; None if there are none."""
        several = isinstance(self.oracle.objective, original.objective.MultiObjective)
        objective = self.oracle.objective if several else None
        return make_callbacks(callbacks, objective) if callbacks or several else None

    def _compile_arguments(self) -> dict[str, Any]:
        """Return the arguments that replace those of the model's own compilation."""
        return {}

    def _runs_trials(self) -> bool:
        """Return whether `run_trial` runs a trial, rather than the search alone."""
        return True

    def _prepare_runs(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
        given = {name: value for name, value in kwargs.items() if name not in ("callbacks", "epochs")}
        epochs, callbacks = kwargs.get("epochs"), kwargs.get("callbacks")
        own_run = "run_trial" in own_methods(self) or not hasattr(self, "executions_per_trial")
        through = not own_run or calls_super(self)
        runs = TrialRuns(self, given=kwargs, seen_by_probe=through)
        options: dict[str, Any] = {}
        if self.search_sets_epochs:
            options["max_epochs"] = epochs or OWN_FIT_MAX_EPOCHS
        if keeps_state(self) and "gpus" not in self._options:
            options["workers"] = self._options.get("workers", 1)
        if not through:
            options["executions_per_trial"] = 1  # as KerasTuner, whose own run_trial has the loop over them
        parts = {"callbacks": self._make_callbacks(callbacks)}
        return runs, FitArguments(args, given), parts, options

    def own_attributes(self) -> dict[str, Any]:
        """Return the attributes that the user's classes have given to this tuner."""
        known = _attributes_of_tuners(self)
        return {name: value for name, value in vars(self).items() if name not in known}

    def _take_attributes(self) -> None:
        """Take the attributes that `run_trial` has changed in workers, as if it had run here."""
        files = sorted(self._paths.trials.glob(f"*/{ATTRIBUTES_FILE}"), key=lambda file: file.stat().st_mtime_ns)
        changed = pickle.loads(files[-1].read_bytes()) if files else {}
        if changed.pop(UPDATES_TRIAL, False):
            warnings.warn(
                "run_trial calls oracle.update_trial, which is deprecated. Please remove the call, and return the "
                "metrics",
                DeprecationWarning,
                stacklevel=3,
            )
        for name, data in changed.items():
            setattr(self, name, pickle.loads(data))

    def pre_create_trial(self) -> None:
        """Do nothing; a subclass may override it. It is called when a trial begins."""

    def on_trial_end(self, trial: Any) -> None:
        """Do nothing; a subclass may override it. It is called in this process when `trial` has ended."""

    def load_model(self, trial: Any) -> Any:
        """Return the model of `trial` with the weights of its best epoch."""
        found = self.results.study.trials[number_of(trial.trial_id)]
        with as_kerastuner():
            (model,) = self.results.load_models([found])
        return model

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Return the models of the `num_models` best trials with the weights of their best epochs, best first."""
        if "load_model" in own_methods(self):
            return [self.load_model(trial) for trial in self.oracle.get_best_trials(num_models)]
        with as_kerastuner():
            return self.results.get_best_models(num_models)


def _check_unknown(tuner: str, names: Collection[str]) -> None:
    if names:
        hint = "".join(nearest(name, _OPTIONS) for name in sorted(names)[:1])
        raise OptionError(f"Unrecognized arguments {', '.join(sorted(names))} of {tuner}: leave them out.{hint}")


def _attributes_of_tuners(tuner: Any) -> set[str]:
    """Return the names of the attributes that KerasTuner's classes and ours set themselves."""
    known = {name for name in vars(tuner) if name.startswith("_")}
    return known | {
        "cv",
        "directory",
        "distribution_strategy",
        "executions_per_trial",
        "given_hyperparameters",
        "hypermodel",
        "logger",
        "loss",
        "max_model_size",
        "metrics",
        "optimizer",
        "oracle",
        "project_name",
        "scoring",
        "seed",
        "tuner_id",
    }


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
    "data[0][0]": "x",
    "data[0][1]": "y",
    "data[0][2]": "sample_weight",
    "data[0]": "x",
    "data[1]": "validation_data",
}
"""The tuner's argument for each flag whose name it does not have; see `search.display.python_messages`."""
