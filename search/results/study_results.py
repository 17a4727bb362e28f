"""The results of a search: best trials, hyperparameters and trained models, from `runs/` or from MLflow alone.

A model comes back in two steps: the factory is called again with the trial's values, and the weights of the best epoch
are loaded. That runs the study's code. Code of this machine is trusted. Code of a server is run only with
`trust_code=True`; else the caller gives a space file of their own.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.display.python_messages import name_arguments, python_arguments
from search.errors import NoResult, StudyError
from search.results.frames import curves_frame, to_frame
from search.results.models import SavedModel, build_models, describe_no_weights
from search.results.plots import Plots
from search.results.running_search import RunningSearch
from search.results.trial_list import TrialList
from search.space.domain import Parameter, Value
from search.space.file import SpaceRef
from search.study import clock, journal, lock
from search.study.paths import StudyPaths, find_study
from search.study.study import Study, read_study
from search.study.trial import Objective
from search.study.trials import Trial
from search.wording import pluralize

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.storages import BaseStorage
    from rich.console import RenderableType


class StudyResults(Plots):
    """A study in `runs/`: its trials, its best models and its figures. `search.run` and `load_study` return one.

    It is read once: later trials of a running search are in the next `load_study`. A notebook shows it as a table.

    Args:
        paths: the study's files.
        study: the study, if it is known already; by default it is read from its journal.

    Attributes:
        paths: the study's files.
        study: all that the journal tells; see `search.plugins.Study`.

    Raises:
        JournalError: the journal cannot be read.

    Example:
        ::

            import search

            study = search.load_study("space")
            study.best_value, study.best_params         # a number, and the values by name
            [trial.number for trial in study.best_trials(3)]
            model, = study.get_best_models()
            study.trials_dataframe().groupby("state")["epochs"].sum()
            study.plot_curves("val_loss").write_html("curves.html")
    """

    def __init__(self, paths: StudyPaths, study: Study | None = None) -> None:
        self.paths = paths
        self.study = study if study is not None else read_study(paths.journal)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def objective(self) -> Objective:
        """The metric that trials are compared by."""
        return self.study.objective

    @property
    def trials(self) -> TrialList:
        """All trials, by number."""
        found = sorted(self.study.trials.values(), key=lambda trial: trial.number)
        return TrialList(found, self.study, alive=self._alive)

    @property
    def best_trial(self) -> Trial:
        """The trial with the best objective.

        Raises:
            NoResult: no trial has an objective.
        """
        if self.study.best is None:
            raise self._no_result()
        return self.study.best

    @property
    def best_value(self) -> float:
        """The best objective, the mean over its trial's executions.

        Raises:
            NoResult: no trial has an objective.
        """
        value = self.best_trial.objective
        assert value is not None
        return value

    @property
    def best_params(self) -> dict[str, Value]:
        """The hyperparameters of the best trial, by name.

        Raises:
            NoResult: no trial has an objective.
        """
        return dict(self.best_trial.params)

    def best_trials(self, num_trials: int | None = None) -> TrialList:
        """Return the trials that have an objective and did not fail, best first.

        Args:
            num_trials: the most trials to return; all by default.
        """
        return TrialList(self.study.ranked()[:num_trials], self.study, alive=self._alive)

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.study.trials)

    def __bool__(self) -> bool:
        """Return True: a study without trials is a study, too."""
        return True

    def __repr__(self) -> str:
        from search.display import lines

        best = lines.best_line(self.study) or "no trial has an objective"
        return f"<study {self.name!r} in {self.paths.folder}: {lines.counts_line(self.study, self._alive)}; {best}>"

    def _repr_html_(self) -> str:
        from search.display import html

        now = clock.present(self.paths.journal, self.study.last_at)
        return html.study_html(self.study, alive=self._alive, now=now)

    @property
    def _alive(self) -> bool:
        return lock.is_held(self.paths.lock)

    def _no_result(self) -> NoResult:
        return NoResult(f"study {self.name!r} has no trial with an objective: see load_study({self.name!r}).trials")

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[dict[str, Value]]:
        """Return the hyperparameters of the best trials, best first.

        Args:
            num_trials: the number of trials; if there are fewer, a warning says so.

        Returns:
            For each trial, its values by name.

        Raises:
            ValueError: `num_trials` is less than 1.
        """
        return [dict(trial.params) for trial in _at_most(self.best_trials(), num_trials, "trials")]

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Return the best trials' models with the weights of their best epochs, best first.

        The factory is called again with each trial's values, which runs the study's code.

        Args:
            num_models: the number of models; if fewer trials have weights, fewer come back, with a warning.

        Returns:
            Keras models, compiled as in the search.

        Raises:
            NoResult: no trial has an objective, or no weights are on this machine's disk.
            SpaceError: the study's code raises an exception.
            ValueError: `num_models` is less than 1.
        """
        ranked = self.best_trials()
        if not ranked:
            raise self._no_result()
        found = [trial for trial in ranked if self.weights(trial).exists()]
        if not found:
            raise NoResult(describe_no_weights(self.study, self.paths.trials))
        return self.load_models(_at_most(found, num_models, "models"))

    def load_models(self, trials: Sequence[Trial]) -> list[Any]:
        """Return the models of `trials`, each with the weights of its best epoch, which must be on disk.

        Raises:
            SpaceError: the study's code raises an exception.
        """
        return build_models(self.space_ref, [self._model(trial) for trial in trials], self.study.versions)

    def _model(self, trial: Trial) -> SavedModel:
        seed = self.study.training_seed(trial.number, trial.best.execution)
        weights, epoch = self.weights(trial), trial.best_execution.best_epoch
        return SavedModel(trial.number, trial.params, weights, seed, epoch, self.reference(trial))

    def reference(self, trial: Trial) -> Path | None:
        """Return the file with a batch and the outputs of the best model of `trial`; None if none was stored."""
        path = self.paths.trial(trial.number).reference(trial.best.execution)
        return path if path.exists() else None

    def weights(self, trial: Trial) -> Path:
        """Return the file of the best weights of `trial`."""
        return self.paths.trial(trial.number).best(trial.best.execution)

    @property
    def space_ref(self) -> SpaceRef:
        """The study's own copy of the code that was searched."""
        header = self.study.header
        assert header is not None
        if not header.source:
            return SpaceRef(pickle=str(self.paths.pickle), seed=header.seed)
        return SpaceRef(path=str(self.paths.space / Path(header.source).name), seed=header.seed)

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials, best first, with their hyperparameters; at most `num_trials`."""
        from search.display import tables

        objective = self.objective
        _print(f"{self.name} in {self.paths.folder}: {objective.name}, {objective.direction}")
        _print(tables.leaderboard(self.study, num_trials))

    def search_space_summary(self) -> None:
        """Print the hyperparameters that a build with default values asks for, and further ones that trials met."""
        seen = {parameter.key: parameter for trial in self.trials for parameter in trial.parameters}
        first = {parameter.key: parameter for parameter in self.study.parameters}
        print_parameters([*(first | seen).values()])

    # Steering the search while another process runs it ---------------------------------------------------------------

    @python_arguments()
    def add(self, configurations: Any) -> str:
        """Have the running search try a configuration next.

        Args:
            configurations: values by name, such as `{"lr": 0.01}`, or a list of these. A value that one lacks is drawn.

        Returns:
            A line that says what was done, and when it takes effect. So do the methods below.

        Raises:
            OptionError: the configurations cannot be read.
            StudyError: the search does not run, or refuses. Nothing has changed.
            Unavailable: the search does not reply in five seconds; the message says what became of the request.
        """
        return name_arguments(self._running.add(configurations))

    @python_arguments()
    def stop(self, trial: int) -> str:
        """Train a trial of the running search no further. It keeps its best value and its place.

        Args:
            trial: the trial's number.

        Returns:
            A line that says what was done. For errors see `add`.
        """
        return name_arguments(self._running.stop(trial))

    @python_arguments()
    def pause(self) -> str:
        """Pause the running search: running epochs end, no work begins, workers free their memory.

        Returns:
            A line that says what was done. For errors see `add`.
        """
        return name_arguments(self._running.pause())

    @python_arguments()
    def continue_(self) -> str:
        """Let the paused search go on.

        Returns:
            A line that says what was done. For errors see `add`.
        """
        return name_arguments(self._running.go_on())

    @python_arguments()
    def set(
        self,
        *,
        max_trials: int | None = None,
        timeout: float | str | None = None,
        max_total_epochs: int | None = None,
        target: float | None = None,
    ) -> str:
        """Give the running search other limits, which hold after a resume, too. None leaves a limit as it is.

        Args:
            max_trials: the most configurations.
            timeout: the most time over all resumes, in seconds, or a text such as "2h".
            max_total_epochs: the most epochs over all trials.
            target: the objective at which the search ends.

        Returns:
            A line that says what was done. For errors see `add`.
        """
        limits = {"max_trials": max_trials, "timeout": timeout, "max_total_epochs": max_total_epochs, "target": target}
        return name_arguments(self._running.set(limits))

    @property
    def _running(self) -> RunningSearch:
        return RunningSearch(self.paths, self.study.uid)

    def trials_dataframe(self) -> pd.DataFrame:
        """Return one row for each trial, by number, with the columns of `search trials --csv`.

        These are `trial`, `state`, `epochs`, `objective`, `best_epoch`, `error`, `seed`, `mlflow_run_id`, `trained`,
        `executions`, `objective_std`, `test`, `bracket`, `rung`, `runner`, `seconds`, `seconds_per_epoch`,
        `peak_device_memory` (bytes), `parameters` (the weight count), `unused_initial_values`, `parent` (the trial that
        it continues) and `backend`. Then comes `params_NAME` for each hyperparameter NAME, with NaN for trials that did
        not use it.
        """
        from search.display import rows
        from search.tracking.mlflow.position import Position

        run_ids = Position.load(self.paths.tracking).trials
        return to_frame(*rows.flat_rows(self.study, self.trials, run_ids, alive=self._alive))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the study's report, one HTML file.

        Args:
            path: the file to write; by default `report.html` in the study's folder.

        Returns:
            The path of the written file.

        Raises:
            JournalError: the journal cannot be read.
            OptionError: plotly is not installed, or the file cannot be written.
        """
        from search.report.writing import write_report

        return write_report([self.paths], None if path is None else Path(path))

    def to_optuna(self, storage: str | BaseStorage | None = None) -> optuna.Study:
        """Return the study as one of Optuna's: for `optuna.visualization`, `optuna.importance` and its dashboard.

        Args:
            storage: a database's address such as `sqlite:///x.db`, or a storage of Optuna's; by default memory.

        Raises:
            NoResult: the study has no trial.
            OptionError: the storage cannot be used.
            StudyError: the storage has a study of this name.
        """
        from search.backends.optuna_study import to_optuna
        from search.tracking.mlflow.position import Position

        return to_optuna(self.study, storage, Position.load(self.paths.tracking).trials)

    def curves_dataframe(self) -> pd.DataFrame:
        """Return the learning curves, one row for each epoch of each execution of each trial.

        The columns are `trial`, `execution` (from 0), `epoch` (from 1), `rung` if the back end has rungs, one for each
        metric under its own name, such as `val_accuracy`, and `seconds`, of the epoch's training and validation. A
        metric that is called like another column has the prefix `logs_`. Values that an epoch did not log are NaN. If
        a `fit` of the user's shows no epochs, a row stands for the epochs up to `epoch`.

        Raises:
            JournalError: the journal, which has the rungs, cannot be read.
        """
        return curves_frame(self.trials, journal.read(self.paths.journal))


def print_parameters(parameters: Sequence[Parameter]) -> None:
    """Print hyperparameters: their defaults, their domains, and the conditions under which they are active."""
    from search.display import space_page

    _print(space_page.parameters_table(parameters) if parameters else "no hyperparameters")


def _print(content: RenderableType) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # Outside a terminal, lines are as long as they are.
    console.print(content, markup=False, soft_wrap=isinstance(content, str) or not console.is_terminal)


def find_results(name: str, runs: str | Path = "runs") -> StudyResults:
    """Return what `load_study` does. Errors are in the words of the command line."""
    return StudyResults(find_study(name, runs))


@python_arguments()
def load_study(name: str, runs: str | Path = "runs") -> StudyResults:
    """Return a study that was searched, as it is now.

    Args:
        name: the study's name.
        runs: the folder that holds the studies.

    Raises:
        JournalError: the study's journal cannot be read.
        StudyError: there is no study of this name; the message lists those that there are.

    Example:
        ::

            import search

            study = search.load_study("space")
            print(study)
    """
    return find_results(name, runs)


@python_arguments()
def get_best_models(
    study: str,
    num_models: int = 1,
    *,
    runs: str | Path = "runs",
    tracking_uri: str | None = None,
    space: str | Path | None = None,
    trust_code: bool = False,
) -> list[Any]:
    """Return the best models of a study, best first, with the weights of their best epochs.

    They come from the folder `runs` if the study is there and no `tracking_uri` is given. Else they come from MLflow
    alone, which has the weights of the best `keep_models` trials, the space file and its local modules.

    Args:
        study: the study's name, or its uid.
        num_models: the number of models, 1 by default; if there are fewer, a warning says so.
        runs: the folder that holds the studies.
        tracking_uri: MLflow's address; by default MLFLOW_TRACKING_URI, else the local store in `runs`.
        space: a space file of your own, to be used in place of the study's; by default the study's.
        trust_code: run the study's code even if it comes from a server; False by default.

    Returns:
        Keras models, compiled as in the search.

    Raises:
        StudyError: no such study, or code from a server that was not trusted.
        NoResult: no trial has an objective.
        SpaceError: the study's code raises an exception.
        Unavailable: the MLflow server is out of reach.

    Example:
        From the folder `runs`, and from the MLflow store alone::

            import search

            model, = search.get_best_models("space")
            model, = search.get_best_models("space", tracking_uri="sqlite:///runs/mlflow.db")
    """
    paths = StudyPaths.of(runs, study)
    if tracking_uri is None and space is None and paths.journal.exists():
        return StudyResults(paths).get_best_models(num_models)
    from search.tracking.mlflow import retrieve, store
    from search.tracking.mlflow.sending import send_waiting

    uri = store.resolve_uri(tracking_uri, runs)
    send_waiting(uri)
    found = retrieve.find_remote_study(store.connect(uri, create=False), study)
    if space is None and not (found.is_local or trust_code):
        raise StudyError(
            f"the code of study {study!r} comes from {found.uri}: pass trust_code=True to run it, or "
            "space='my_space.py' to use your own"
        )
    kept = [trial for trial in retrieve.rank_remote_trials(found) if trial.model_epoch is not None]
    if not kept:
        raise NoResult(f"MLflow holds no model of study {study!r}: no trial has an objective")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="search-")))
        # MLflow has a factory's pickle in the place of a space file.
        code = Path(space) if space is not None else retrieve.download_space(found, folder / "space")
        described = retrieve.describe_remote_study(found)
        form = "pickle" if code.suffix == ".pkl" else "path"
        ref = SpaceRef(**{form: str(code)}, seed=described["seed"])
        chosen = []
        for trial in _at_most(kept, num_models, "models"):
            weights, of_trial = retrieve.download_weights(found, trial, folder / f"trial-{trial.number}")
            chosen.append(SavedModel(trial.number, of_trial["params"], weights, of_trial["seed"], trial.model_epoch))
        return build_models(ref, chosen, described.get("versions", {}))


def _at_most(found: Sequence[Any], count: int, what: str) -> Sequence[Any]:
    if count < 1:
        raise ValueError(f"num_{what} is {count}: it must be at least 1")
    if len(found) < count:
        hint = f": a search keeps {count} with keep_models={count}" if what == "models" else ""
        asked = f"{pluralize(count, what[:-1])} {'was' if count == 1 else 'were'} asked for"
        there = f"there {'is' if len(found) == 1 else 'are'} {len(found)}"
        warnings.warn(f"{asked}, and {there}{hint}", stacklevel=3)
    return found[:count]
