"""The import of a KerasTuner project from its folder. It reads JSON only, and so imports no framework.

my_dir/project_name/oracle.json             the search
                    tuner0.json             nothing that is needed
                    trial_0/trial.json      a trial, beside its checkpoints
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from search.compat.projects.as_records import Timed, records_of, spans_of
from search.compat.projects.saved_space import SavedSpace, read_space
from search.compat.projects.saved_trials import SavedTrial, best_value, choose_objective, in_order, read_trial
from search.driver import checks
from search.errors import StudyError
from search.space.error_text import as_one_line
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.study import Study
from search.study.trial import Objective

__all__ = ["Imported", "import_project"]

ORACLE = "oracle.json"

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions of code that reads JSON of an unexpected form."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Imported:
    """A project that was imported.

    Attributes:
        study: its study.
        paths: the study's files.
        left_out: the number of trials that have not ended.
        best_weights: the checkpoint of the best trial, or None if there is none.
    """

    study: Study
    paths: StudyPaths
    left_out: int
    best_weights: Path | None


@dataclass(frozen=True, slots=True)
class _Project:
    """The content of a project's files.

    Attributes:
        state: of `oracle.json`.
        space: the hyperparameters of the search.
        trials: all trials, in the order of their begin.
    """

    state: Mapping[str, Any]
    space: SavedSpace
    trials: Sequence[SavedTrial]


def import_project(
    folder: Path,
    runs: str | Path,
    *,
    study: str | None = None,
    objective: str | None = None,
    direction: str | None = None,
) -> Imported:
    """Import the KerasTuner project in `folder` as a study in `runs`.

    Args:
        study: the study's name, by default the folder's.
        objective, direction: of the search, if the files do not show them.

    Raises:
        StudyError: there is no project, a file is damaged, no trial has ended, or the study exists.
        OptionError: the name or the objective cannot be used.
    """
    _check_folder(folder)
    paths = StudyPaths.of(runs, study or folder.resolve().name)
    if paths.journal.exists():
        raise StudyError(
            f"study {paths.folder.name!r} exists in {runs}: give another name with --study, or remove it with search rm"
        )
    project = _read_project(folder)
    ended = [trial for trial in project.trials if trial.state != "open"]
    if not ended:
        raise StudyError(f"none of the {len(project.trials)} trials of {folder} has ended: there is nothing to import")
    chosen = choose_objective(ended, objective, direction)
    records = _records(project, ended, chosen, paths.folder.name, folder)
    result = _write(paths, records)
    return Imported(result, paths, len(project.trials) - len(ended), _weights_of_best(folder, ended, chosen))


# Reading --------------------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    """Raise StudyError if `folder` is not that of one project."""
    if (folder / ORACLE).is_file():
        return
    if not folder.is_dir():
        raise StudyError(f"there is no folder {folder}: give that of a KerasTuner project, which has an {ORACLE}")
    names = sorted(path.parent.name for path in folder.glob(f"*/{ORACLE}"))
    if not names:
        raise StudyError(f"{folder} is no KerasTuner project: it has no {ORACLE}")
    shown = ", ".join(str(folder / name) for name in names[:20])
    raise StudyError(
        f"{folder} is no KerasTuner project, it has {'one' if len(names) == 1 else 'several'}: give {shown}"
    )


def _read_project(folder: Path) -> _Project:
    state = _read(folder / ORACLE, dict)
    space = _read(folder / ORACLE, lambda data: read_space(data["hyperparameters"]))
    started = _read(folder / ORACLE, lambda data: [str(id) for id in data.get("start_order", ())])
    retried = _read(folder / ORACLE, lambda data: [str(id) for id in data.get("retry_queue", ())])
    trials = [
        _read(file, partial(read_trial, ended=file.stat().st_mtime, retried=retried))
        for file in sorted(folder.glob("trial_*/trial.json"))
    ]
    if not trials:
        raise StudyError(f"{folder} has no trial_*/trial.json: there is nothing to import")
    return _Project(state, space, in_order(trials, started))


def _read(file: Path, convert: Callable[[Any], T]) -> T:
    """Return the content of a JSON file, as `convert` gives it. StudyError if the file is damaged."""
    try:
        return convert(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise StudyError(f"{file} cannot be read ({error.strerror}): mend that, and import again") from None
    except _DAMAGE as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        rest = "" if file.name == ORACLE else f", or move {file.parent} away to import the other trials"
        raise StudyError(f"{file} is damaged ({as_one_line(what)}): put a copy in its place{rest}") from None


# Writing --------------------------------------------------------------------------------------------------------------


def _records(
    project: _Project, ended: Sequence[SavedTrial], objective: Objective, name: str, folder: Path
) -> Sequence[Timed]:
    state = project.state
    overlap = state.get("start_order") != state.get("end_order")
    max_epochs = state.get("max_epochs")
    return records_of(
        ended,
        spans_of(ended, _started(state), overlap=overlap),
        uid=secrets.token_hex(8),
        study=name,
        objective=objective,
        parameters=project.space.parameters,
        max_epochs=max_epochs if isinstance(max_epochs, int) else None,
        folder=str(folder.resolve()),
    )


def _started(state: Mapping[str, Any]) -> dict[str, float]:
    """Return the begin of each trial by its id, as far as KerasTuner's display has noted it in local time."""
    display = state.get("display")
    noted = display.get("trial_start") if isinstance(display, dict) else None
    found: dict[str, float] = {}
    for id, text in (noted if isinstance(noted, dict) else {}).items():
        try:
            found[id] = datetime.fromisoformat(text).timestamp()
        except (TypeError, ValueError):
            continue  # a time is no reason to refuse a project
    return found


def _write(paths: StudyPaths, records: Sequence[Timed]) -> Study:
    """Write a journal of `records` as a whole, and return its study."""
    study = Study()
    for time, record in records:
        study.apply(record, time)
    checks.make_folder(paths.folder)
    lock = Lock(paths.lock)
    try:
        work = paths.journal.with_name(f".{paths.journal.name}.import")
        work.unlink(missing_ok=True)
        journal = Journal(work)
        try:
            for time, record in records:
                journal.append([record], time)
        finally:
            journal.close()
        work.rename(paths.journal)
    finally:
        lock.release()
    return study


def _weights_of_best(folder: Path, trials: Sequence[SavedTrial], objective: Objective) -> Path | None:
    """Return the checkpoint of the best trial. Its name depends on KerasTuner's version."""
    scored = [trial for trial in trials if trial.state == "finished"]
    best = min(scored, key=lambda trial: objective.cost(best_value(trial, objective)), default=None)
    return None if best is None else next(iter(sorted((folder / f"trial_{best.id}").glob("checkpoint*"))), None)
