"""The commands that read studies: `trials`, `best`, `show`, `status` and `export`."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.arguments import Json, KerasBackend, MeantStudy, Runs, complete_study
from search.cli.output import print_json, say, show, tell
from search.cli.selection import find_name
from search.errors import JournalError, NoResult, OptionError, StudyError
from search.study import clock, paths
from search.study.tail import last_lines
from search.wording import pluralize

if TYPE_CHECKING:
    from search.results.export import Export
    from search.results.study_results import StudyResults
    from search.study.trials import Trial


def load_results(name: str, runs: str) -> tuple[StudyResults, bool, dict[int, str]]:
    """Return a study's results, the liveness of its driver, and the MLflow run of each trial."""
    from search.results.study_results import find_results
    from search.study import lock
    from search.tracking.mlflow.position import Position

    found = find_results(name, runs)
    return found, lock.is_held(found.paths.lock), Position.load(found.paths.tracking).trials


def trials_command(
    name: MeantStudy = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    runs: Runs = "runs",
) -> None:
    """List a study's trials."""
    from search.display import rows, tables

    if as_json and as_csv:
        raise OptionError("--json and --csv exclude each other: give one of them")
    found, alive, run_ids = load_results(find_name(name, runs), runs)
    if as_json:
        print_json([rows.trial_fields(t, found.study, run_ids.get(t.number), alive=alive) for t in found.trials])
    elif as_csv:
        print(rows.trials_csv(found.study, found.trials, run_ids, alive=alive), end="")
    else:
        show(tables.trials_table(found.study, found.trials, alive=alive))


def best_command(
    name: MeantStudy = None,
    count: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many trials.")] = 10,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """List a study's best trials, best first."""
    from search.display import rows, tables

    found, alive, run_ids = load_results(find_name(name, runs), runs)
    best = found.best_trials(count)
    if as_json:
        print_json([rows.trial_fields(t, found.study, run_ids.get(t.number), alive=alive) for t in best])
    elif best:
        show(tables.leaderboard(found.study, count))
    if not best:
        raise NoResult(f"study {found.name!r} has no trial with an objective: see search trials {found.name}")


def show_command(
    name: MeantStudy = None,
    trial: Annotated[
        str | None,
        typer.Argument(metavar="TRIAL", help="The trial's number; the best trial by default.", show_default=False),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Print all epochs of all executions.")] = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show a trial: its values, curve, worker, traceback and the end of its log.

    A number alone is a trial of the newest study.
    """
    from search.display import rows, trial_page

    if name is not None and trial is None and name.isdecimal():
        name, trial = None, name
    found, alive, run_ids = load_results(find_name(name, runs), runs)
    chosen = _find_trial(found, trial)
    files = found.paths.trial(chosen.number)
    if as_json:
        fields = rows.trial_fields(chosen, found.study, run_ids.get(chosen.number), alive=alive)
        print_json(trial_page.trial_document(chosen, fields, last_lines(files.traceback)))
        return
    lines = last_lines(files.traceback, 40), last_lines(files.log, 15)
    show(trial_page.trial_details(found.study, chosen, *lines, alive=alive, whole_curve=curve))


def _find_trial(found: StudyResults, number: str | None) -> Trial:
    """Return the trial that the user means: that of a number, or the best one. StudyError if there is none."""
    if number is None:
        best = found.study.best
        if best is None:
            raise StudyError(f"study {found.name!r} has no best trial yet: give the number of one of its trials")
        say(f"trial {best.number}, the best of {found.name}")
        return best
    known = found.study.trials
    if not number.isdecimal() or int(number) not in known:
        there = f"it has {len(known)}, numbered from 0" if known else "it has none yet"
        raise StudyError(f"study {found.name!r} has no trial {number}: {there}")
    return known[int(number)]


def status_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="The study's name, or a space file for its newest study; all studies by default.",
            show_default=False,
            autocompletion=complete_study,
        ),
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show the progress of studies."""
    from search.display import tables

    names = [find_name(name, runs)] if name else paths.study_names(runs)
    for folder in () if name else paths.misnamed_folders(runs):
        say(f"search: the folder {folder!r} in {runs} has a journal, but no study can have this name: rename it")
    if not names:
        raise StudyError(f"there is no study in {Path(runs).absolute()}: begin one with search run SPACE.py")
    loaded = []
    for each in names:
        try:
            loaded.append(load_results(each, runs))
        except JournalError as error:
            if name:
                raise
            say(f"search: {each}: {error}")  # an unreadable study does not hide the others
    if as_json:
        documents = [tables.status_fields(found.study, alive=alive, now=_now(found)) for found, alive, _ in loaded]
        print_json(documents[0] if name else documents)
        return
    for found, alive, _ in loaded:
        for line in tables.status_lines(found.study, alive=alive, now=_now(found)):
            tell(line)


def _now(found: StudyResults) -> float:
    """Return the present by the clock of the search that runs the study."""
    return clock.present(found.paths.journal, found.study.last_at)


def export_command(
    *,
    name: MeantStudy = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="PATH",
            help="The file, such as model.keras, model.weights.h5 or model.onnx; a folder for a SavedModel.",
        ),
    ] = None,
    optuna: Annotated[
        str | None,
        typer.Option(
            "--optuna",
            metavar="URL",
            help="A database for the whole study as one of Optuna's, such as sqlite:///x.db, in place of --to.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, metavar="N", help="The rank of the trial; 1 is the best.")] = 1,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="keras|weights|onnx|savedmodel",
            help="By default as the path ends.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file or folder if it exists.")] = False,
    keras_backend: KerasBackend = None,
    runs: Runs = "runs",
) -> None:
    """Write a trained model to a file, or a SavedModel to a folder; or the study for Optuna."""
    if (to is None) == (optuna is None):
        raise OptionError(
            "export needs one of --to PATH, for a model, and --optuna URL, for the study as one of Optuna's"
        )
    if to is None:
        if rank != 1 or format is not None or force or keras_backend is not None:
            raise OptionError("--optuna writes the whole study: leave out the options that choose or write a model")
        _export_to_optuna(find_name(name, runs), str(optuna), runs)
        return
    from search.results import export
    from search.results.study_results import find_results

    planned = export.plan_export(
        find_results(find_name(name, runs), runs), rank, to, format=format, keras_backend=keras_backend, force=force
    )
    _export_model(planned)


def _export_model(planned: Export) -> None:
    from search.results import export, export_check
    from search.worker.process import quietly

    if "keras" not in sys.modules:
        os.environ.update(export_check.NO_GPU, KERAS_BACKEND=planned.keras_backend)
    with quietly(Path(os.devnull)):
        import search.worker.segment  # noqa: F401
    # TensorFlow writes of missing GPUs when the first variable is made.
    with quietly(Path(os.devnull)), warnings.catch_warnings(record=True) as caught:
        (model,) = planned.study.load_models([planned.trial])
    for warning in caught:
        say(f"note: {warning.message}")
    with quietly(Path(os.devnull)), warnings.catch_warnings(action="ignore"):
        check = functools.partial(export_check.check_in_fresh_process, planned)
        needs = export.write_export(model, planned.to, planned.format, check)
    trial = planned.trial
    weights = "" if trial.best_epoch is None else f", weights of epoch {trial.best_epoch}"
    line = f"{planned.to}: trial {trial.number}{weights}" + (f"; {needs}" if needs else "")
    tell(line)


def _export_to_optuna(name: str, url: str, runs: str) -> None:
    from search.backends.optuna_study import without_password
    from search.results.study_results import find_results

    found = find_results(name, runs)
    found.to_optuna(url)
    trials = pluralize(len(found.trials), "trial")
    tell(f"{without_password(url)}: study {found.name} with {trials}")
