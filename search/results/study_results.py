"""The results of a search: best trials, hyperparameters and trained models, from `runs/` or from MLflow alone.

A model comes back in two steps: the factory is called again with the trial's values, and the weights of the best epoch
are loaded. That runs the study's code. Code of this machine is trusted. Code of a server is run only with
`trust_code=True`; else the caller gives a space file of their own.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import NoResult, SpaceError, StudyError
from search.options import python_arguments
from search.results.plots import Plots
from search.space.domain import Parameter, Value
from search.space.file import Space, SpaceRef, describe_error, without_arguments
from search.study.paths import StudyPaths, find_study
from search.study.study import Study, read_study
from search.study.trial import Objective
from search.study.trials import Trial
from search.study.versions import changed_versions
from search.wording import pluralize

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.storages import BaseStorage
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class _Model:
    """A trial's model on disk.

    Attributes:
        params: the hyperparameters, by name.
        weights: the file of its weights.
        reference: the file with a batch and the model's outputs for it, if the search has stored one.
        seed: the training seed of the weights' execution.
        epoch: the epoch that the weights should be of.
    """

    trial: int
    params: Mapping[str, Value]
    weights: Path
    seed: int
    epoch: int | None
    reference: Path | None = None


class StudyResults(Plots):
    """A study in `runs/`, for reading.

    Args:
        paths: the study's files.
        study: the study, if it is known already; by default it is read from its journal.

    Raises:
        JournalError: the journal cannot be read.
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
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return sorted(self.study.trials.values(), key=lambda trial: trial.number)

    def best_trials(self, num_trials: int | None = None) -> list[Trial]:
        """Return the trials that have an objective and did not fail, best first; at most `num_trials`."""
        return self.study.ranked()[:num_trials]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[dict[str, Value]]:
        """Return the hyperparameters of the best trials, best first; with a warning if there are fewer."""
        return [dict(trial.params) for trial in _at_most(self.best_trials(), num_trials, "trials")]

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Return the best trials' models with the weights of their best epochs, best first.

        If fewer trials have weights, fewer models come back, with a warning.

        Raises:
            NoResult: no trial has an objective.
        """
        ranked = self.best_trials()
        if not ranked:
            raise NoResult(f"study {self.name!r} has no trial with an objective: see search trials {self.name}")
        found = [trial for trial in ranked if self.weights(trial).exists()]
        if not found:
            raise NoResult(f"study {self.name!r} has no weights in {self.paths.trials}: MLflow may have them")
        return self.load_models(_at_most(found, num_models, "models"))

    def load_models(self, trials: Sequence[Trial]) -> list[Any]:
        """Return the models of `trials`, each with the weights of its best epoch, which must be on disk."""
        return _build(self.space_ref, [self._model(trial) for trial in trials], self.study.versions)

    def _model(self, trial: Trial) -> _Model:
        seed = self.study.training_seed(trial.number, trial.best.execution)
        weights, epoch = self.weights(trial), trial.best_execution.best_epoch
        return _Model(trial.number, trial.params, weights, seed, epoch, self.reference(trial))

    def reference(self, trial: Trial) -> Path | None:
        """Return the file with a batch and the best model's outputs for it; None if the search has stored none."""
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
        """Print the best trials, best first, with their hyperparameters."""
        from search.display import tables

        objective = self.objective
        _print(f"{self.name} in {self.paths.folder}: {objective.name}, {objective.direction}")
        _print(tables.leaderboard(self.study, num_trials))

    def search_space_summary(self) -> None:
        """Print the hyperparameters that a build with default values asks for, and further ones that trials met."""
        seen = {parameter.key: parameter for trial in self.trials for parameter in trial.parameters}
        first = {parameter.key: parameter for parameter in self.study.parameters}
        print_parameters([*(first | seen).values()])

    def trials_dataframe(self) -> pd.DataFrame:
        """Return one row for each trial, by number, with the columns of `search trials --csv`.

        These are `trial`, `state`, `epochs`, `objective`, `best_epoch`, `error`, `seed`, `mlflow_run_id`, `trained`,
        `executions`, `objective_std`, `test`, `bracket`, `rung`, `runner`, `seconds`, `parameters` (the weight count),
        `unused_initial_values`, `parent` (the trial that it continues) and `backend`. Then comes `params_NAME` for each
        hyperparameter NAME, with NaN for trials that did not use it.
        """
        from search.display import rows
        from search.study import lock
        from search.tracking.mlflow.position import Position

        run_ids, alive = Position.load(self.paths.tracking).trials, lock.is_held(self.paths.lock)
        return _to_frame(*rows.flat_rows(self.study, self.trials, run_ids, alive=alive))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the study's report, one HTML file, and return its path.

        Args:
            path: the file to write; by default `report.html` in the study's folder.

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


def _to_frame(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a DataFrame of rows that may lack columns.

    pandas chooses each column's type. It would change some values of hyperparameters: beside a missing value, None
    becomes NaN and a large whole number is rounded. Such a column holds Python's own objects.
    """
    import pandas as pd

    from search.display.rows import PARAMS_PREFIX

    frame = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if not name.startswith(PARAMS_PREFIX):
            continue
        if any(name in row and row[name] != found for row, found in zip(rows, frame[name], strict=True)):
            frame[name] = pd.Series([row.get(name, math.nan) for row in rows], dtype=object)
    return frame


def print_parameters(parameters: Sequence[Parameter]) -> None:
    """Print hyperparameters: their defaults, their domains, and the conditions under which they are active."""
    from search.display import tables

    _print(tables.parameters_table(parameters) if parameters else "no hyperparameters")


def _print(content: RenderableType) -> None:
    from rich.console import Console

    # Outside a terminal, lines may be as long as they are.
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, width=width).print(content, markup=False, soft_wrap=isinstance(content, str))


def load_study(name: str, runs: str | Path = "runs") -> StudyResults:
    """Return the study `name` in the folder `runs`. StudyError if there is none."""
    return StudyResults(find_study(name, runs))


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
        num_models: the number of models; if there are fewer, a warning says so.
        runs: the folder of the studies.
        tracking_uri: MLflow's address; by default MLFLOW_TRACKING_URI, else the local store in `runs`.
        space: a space file of your own, to be used in place of the study's.
        trust_code: run the study's code even if it comes from a server.

    Raises:
        StudyError: no such study, or code from a server that was not trusted.
        NoResult: no trial has an objective.
    """
    paths = StudyPaths.of(runs, study)
    if tracking_uri is None and space is None and paths.journal.exists():
        return StudyResults(paths).get_best_models(num_models)
    from search.tracking.mlflow import retrieve, store

    found = retrieve.find_remote_study(store.connect(store.resolve_uri(tracking_uri, runs), create=False), study)
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
            chosen.append(_Model(trial.number, of_trial["params"], weights, of_trial["seed"], trial.model_epoch))
        return _build(ref, chosen, described.get("versions", {}))


def _at_most(found: Sequence[Any], count: int, what: str) -> Sequence[Any]:
    if count < 1:
        raise ValueError(f"num_{what} is {count}: it must be at least 1")
    if len(found) < count:
        hint = f": a search keeps {count} with keep_models={count}" if what == "models" else ""
        asked = f"{pluralize(count, what[:-1])} {'was' if count == 1 else 'were'} asked for"
        there = f"there {'is' if len(found) == 1 else 'are'} {len(found)}"
        warnings.warn(f"{asked}, and {there}{hint}", stacklevel=3)
    return found[:count]


def _build(ref: SpaceRef, chosen: Sequence[_Model], versions: Mapping[str, str]) -> list[Any]:
    """Call the factory with each trial's values, and load its weights.

    The layers have the names that they had in training. A model whose own name this process has used gets another, so
    that several can be parts of one model.

    Args:
        versions: the libraries that the study ran with. A warning names those whose versions have changed.
    """
    _choose_keras(versions)
    from search.worker.keras_session import import_space, settings_of_a_worker

    if difference := _difference(versions):
        warnings.warn(difference, stacklevel=3)
    try:
        with without_arguments(ref), settings_of_a_worker():
            space = import_space(ref)
            return [_build_one(space, item) for item in chosen]
    except (Exception, SystemExit) as error:
        path = Path(ref.path) if ref.path else None
        raise SpaceError(describe_error(error, path, elsewhere=ref.label)) from error


def _build_one(space: Space, item: _Model) -> Any:
    from search.worker.data.arrays import spec_from_json
    from search.worker.evaluate_best import rebuild_model
    from search.worker.keras_internals import give_unused_name, used_names
    from search.worker.keras_session import names_after, seeded
    from search.worker.rebuilt_check import check_reference

    used = used_names()
    with seeded(item.seed), names_after(space.names):
        model, weights = rebuild_model(space, item.params, item.weights)
    give_unused_name(model, used)
    if weights.epoch != item.epoch:
        # Its process was killed between the epoch's end and the next checkpoint.
        warnings.warn(
            f"trial {item.trial}: the weights are of epoch {weights.epoch} ({weights.value:.4g}), the best was "
            f"{item.epoch}",
            stacklevel=_USERS_CALL,
        )
    difference = ""
    if item.reference is not None and weights.inputs is not None:
        difference = check_reference(item.reference, model, spec_from_json(weights.inputs))
    if difference:
        warnings.warn(f"trial {item.trial}: {difference}", stacklevel=_USERS_CALL)
    return model


_USERS_CALL = 5 if sys.version_info < (3, 12) else 4  # before Python 3.12 a comprehension has a frame of its own


def _choose_keras(versions: Mapping[str, str]) -> None:
    """Choose the study's Keras back end, if this process has not chosen one."""
    backend = versions.get("keras_backend")
    chosen = "keras" in sys.modules or "KERAS_BACKEND" in os.environ
    if backend and not chosen and importlib.util.find_spec(backend) is not None:
        os.environ["KERAS_BACKEND"] = backend


def _difference(versions: Mapping[str, str]) -> str:
    """Return the difference between this process's libraries and the study's, in words; "" if there is none."""
    from search.worker import probe

    now = probe.installed_versions()
    backend = now["keras_backend"]
    if versions.get("keras_backend", backend) != backend:
        return (
            f"the study ran with Keras on {versions['keras_backend']}, this process runs it on {backend}: the weights "
            "are the same, predictions may differ in their last digits"
        )
    computes = {name: versions[name] for name in ("keras", backend) if name in versions}
    changed = changed_versions(computes, now)
    return f"the study last ran with {changed}: predictions may differ" if changed else ""
