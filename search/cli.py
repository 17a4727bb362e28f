"""The command line, `search …`: it reads arguments, calls the library and prints. It decides nothing itself."""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import inspect
import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from search import __version__, options
from search.errors import JournalError, NoResult, OptionError, SearchError, StudyError
from search.study import paths

if TYPE_CHECKING:
    from search.driver.prepared import MakeView, Result
    from search.results.study_results import StudyResults

app = typer.Typer(
    name="search",
    help="Hyperparameter search for Keras: write a factory that takes hp, run it, go for coffee.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)

_METAVARS = {"runs": "DIR", "tracking_uri": "URI", "gpus": "GPUS", "objective": "NAME"}
_METAVARS |= {"try_first": "JSON|FILE", "warm_start": "STUDY", "storage": "URL|folder|driver"}

Runs = Annotated[str, typer.Option("--runs", metavar="DIR", help="The folder that holds the studies.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Accept = Annotated[bool, typer.Option("--accept-changes", help="Go on although the space file has changed.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Go on although a process on another machine has not ended in order.")
]
KerasBackend = Annotated[
    str | None, typer.Option("--keras-backend", metavar="NAME", help="The back end of Keras: tensorflow, jax or torch.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="The MLflow server; by default the study's or the store."),
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Print plain lines instead of the live view.")]


def _takes_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds options of `search.options` to a command, which gets them as `given`.

    Args:
        names: the options; none stand for all.
    """
    return functools.partial(_with_options, names)


def _with_options(only: tuple[str, ...], function: Callable[..., None]) -> Callable[..., None]:
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "given"]
    named = any(p.name == "name" for p in own)
    shown = [name for name, field in options.FIELDS.items() if not field.metadata.get("hidden")]
    names = list(only) or [name for name in shown if not (name == "study" and named)]
    added = [_option_parameter(name) for name in names]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in names}
        given = {name: None if value == [] else value for name, value in given.items()}
        if given.get("workers") == "auto":
            given["workers"] = None
        try:
            with _interrupted_by_signals():
                function(given=given, **arguments)
        except KeyboardInterrupt as error:
            raise typer.Exit(_fail(_describe_stop(error), 130)) from None

    command.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + added}
    return command


def _describe_stop(error: KeyboardInterrupt) -> str:
    """Return a line about a search that was stopped at once, with a command that goes on."""
    from search.display.report import command_line
    from search.driver.prepared import SearchStopped

    if not isinstance(error, SearchStopped):
        return "stopped before the search began: give the same command again"
    folder = error.paths.folder
    resume = command_line(f"resume {shlex.quote(folder.name)}", folder.parent)
    return f"stopped; nothing journaled is lost: go on with: {resume}"


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP act as Ctrl-C, also before the search begins and after its end."""
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _option_parameter(name: str) -> inspect.Parameter:
    """Return an option of a search as a parameter of a command. Its value stays text, for `search.options` to read."""
    field = options.FIELDS[name]
    kind = inspect.Parameter.KEYWORD_ONLY
    text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}."
    if isinstance(field.default, bool):
        # A resumed study keeps its setting, so both flags are needed to change it.
        flag = name.replace("_", "-")
        switch = typer.Option(f"--{flag}/--no-{flag}", help=f"{text} [default: {'on' if field.default else 'off'}]")
        return inspect.Parameter(name, kind, default=None, annotation=Annotated[bool | None, switch])
    if "registry" in field.metadata and field.metadata.get("many"):
        metavar = "NAME"
    elif "choices" in field.metadata:
        metavar = "|".join([*field.metadata["choices"], *(["NAME"] if "registry" in field.metadata else [])])
    elif field.metadata.get("time"):
        metavar = "TIME"
    elif field.metadata.get("size"):
        metavar = "SIZE"
    else:
        metavar = _METAVARS.get(name, "NAME" if str(field.type).startswith("str") else "N")
    number = f"{field.default:g}" if isinstance(field.default, float) else field.default
    default = "" if field.default in (None, ()) else f" [default: {number}]"
    option = typer.Option(options.option_flag(name), metavar=metavar, help=text + default)
    if field.metadata.get("many"):
        return inspect.Parameter(name, kind, default=None, annotation=Annotated[list[str] | None, option])
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


# Searching ------------------------------------------------------------------------------------------------------------


@app.command("run")
@_takes_options()
def run_command(
    *,
    space: Annotated[Path, typer.Argument(metavar="SPACE.py", help="The space file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study if it exists.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew if the study exists; its trials are deleted.")
    ] = False,
    accept_changes: Accept = False,
    take_over: TakeOver = False,
    no_progress: NoProgress = False,
    given: dict[str, Any],
) -> None:
    """Search the space of a space file."""
    from search.driver import launch
    from search.driver.source import Source

    result = launch.run_search(
        Source(path=space),
        given,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
        take_over=take_over,
        make_view=_view_maker(no_progress),
        say=_say,
    )
    _report_and_exit(result)


@app.command("resume")
@_takes_options()
def resume_command(
    *,
    name: StudyName,
    accept_changes: Accept = False,
    take_over: TakeOver = False,
    no_progress: NoProgress = False,
    given: dict[str, Any],
) -> None:
    """Go on with a study, whatever stopped it; workers, budget and back end may change."""
    from search.driver import launch

    result = launch.resume_search(
        name,
        given,
        accept_changes=accept_changes,
        take_over=take_over,
        make_view=_view_maker(no_progress),
        say=_say,
    )
    _report_and_exit(result)


@app.command("check")
def check_command(
    space: Annotated[Path, typer.Argument(metavar="SPACE.py", help="The space file.")],
    keras_backend: KerasBackend = None,
) -> None:
    """Build the model, train one step, build five random models, and print the space and the model; search nothing."""
    from search.display import tables
    from search.driver import launch
    from search.driver.source import Source

    probed = launch.check_space(Source(path=space), keras_backend)
    out.print(tables.space_details(probed))


def _view_maker(no_progress: bool) -> MakeView:
    from search.display.live import make_view

    return functools.partial(make_view, live=err.is_terminal and not no_progress, console=err)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)


def _report_and_exit(result: Result) -> None:
    from search.display.report import print_report
    from search.driver.prepared import SearchStopped

    try:
        print_report(result, out, _say)
    except KeyboardInterrupt as error:
        raise SearchStopped(result.paths) from error
    raise typer.Exit(result.end.exit_code)


# Reading studies ------------------------------------------------------------------------------------------------------


def _load_results(name: str, runs: str) -> tuple[StudyResults, bool, dict[int, str]]:
    """Return a study's results, the liveness of its driver, and the MLflow run of each trial."""
    from search.results.study_results import load_study
    from search.study import lock
    from search.tracking.mlflow.position import Position

    found = load_study(name, runs)
    return found, lock.is_held(found.paths.lock), Position.load(found.paths.tracking).trials


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))


@app.command("trials")
def trials_command(
    name: StudyName,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    runs: Runs = "runs",
) -> None:
    """List a study's trials."""
    from search.display import rows, tables

    found, alive, run_ids = _load_results(name, runs)
    if as_json and as_csv:
        raise OptionError("--json and --csv exclude each other: give one of them")
    if as_json:
        _print_json([rows.trial_fields(t, found.study, run_ids.get(t.number), alive=alive) for t in found.trials])
    elif as_csv:
        print(rows.trials_csv(found.study, found.trials, run_ids, alive=alive), end="")
    else:
        out.print(tables.trials_table(found.study, found.trials, alive=alive))


@app.command("best")
def best_command(
    name: StudyName,
    count: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many trials.")] = 10,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """List a study's best trials, best first."""
    from search.display import rows, tables

    found, alive, run_ids = _load_results(name, runs)
    best = found.best_trials(count)
    if as_json:
        _print_json([rows.trial_fields(t, found.study, run_ids.get(t.number), alive=alive) for t in best])
    elif best:
        out.print(tables.leaderboard(found.study, count))
    if not best:
        raise NoResult(f"study {name!r} has no trial with an objective: see search trials {name}")


@app.command("show")
def show_command(
    name: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")],
    runs: Runs = "runs",
) -> None:
    """Show a trial: its values, curve, worker, traceback and the end of its log."""
    from search.display import tables

    found, alive, _ = _load_results(name, runs)
    if trial not in found.study.trials:
        raise StudyError(f"study {name!r} has no trial {trial}: it has {len(found.trials)}, numbered from 0")
    files = found.paths.trial(trial)
    shown = tables.trial_details(
        found.study,
        found.study.trials[trial],
        _last_lines(files.traceback, 40),
        _last_lines(files.log, 15),
        alive=alive,
    )
    out.print(shown)


def _last_lines(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@app.command("status")
def status_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study's name; all studies by default.")
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show the progress of studies."""
    from search.display import tables

    names = [name] if name else paths.study_names(runs)
    if not names:
        raise StudyError(f"there is no study in {Path(runs).absolute()}: begin one with search run SPACE.py")
    now = time.time()
    loaded = []
    for each in names:
        try:
            loaded.append(_load_results(each, runs))
        except JournalError as error:
            if name:
                raise
            _say(f"search: {each}: {error}")  # an unreadable study does not hide the others
    if as_json:
        documents = [tables.status_fields(found.study, alive=alive, now=now) for found, alive, _ in loaded]
        _print_json(documents[0] if name else documents)
        return
    for found, alive, _ in loaded:
        for line in tables.status_lines(found.study, alive=alive, now=now):
            out.print(line, soft_wrap=True)


@app.command("export")
def export_command(
    name: StudyName,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="PATH",
            help="The file, such as model.keras, model.weights.h5 or model.onnx; a folder for a SavedModel.",
        ),
    ],
    rank: Annotated[int, typer.Option("--rank", min=1, help="The rank of the trial; 1 is the best.")] = 1,
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
    """Write a trained model to a file, or a SavedModel to a folder."""
    from search.results import export, export_check
    from search.results.study_results import load_study
    from search.worker.process import quietly

    planned = export.plan_export(
        load_study(name, runs), rank, to, format=format, keras_backend=keras_backend, force=force
    )
    if "keras" not in sys.modules:
        os.environ.update(export_check.NO_GPU, KERAS_BACKEND=planned.keras_backend)
    with quietly(Path(os.devnull)):
        import search.worker.segment  # noqa: F401
    # TensorFlow writes of missing GPUs when the first variable is made.
    with quietly(Path(os.devnull)), warnings.catch_warnings(record=True) as caught:
        (model,) = planned.study.load_models([planned.trial])
    for warning in caught:
        _say(f"note: {warning.message}")
    with quietly(Path(os.devnull)), warnings.catch_warnings(action="ignore"):
        check = functools.partial(export_check.check_in_fresh_process, planned)
        needs = export.write_export(model, planned.to, planned.format, check)
    trial = planned.trial
    weights = "" if trial.best_epoch is None else f", weights of epoch {trial.best_epoch}"
    line = f"{to}: trial {trial.number}{weights}" + (f"; {needs}" if needs else "")
    out.print(line, markup=False, soft_wrap=True)


# MLflow and devices ---------------------------------------------------------------------------------------------------


@app.command("sync")
def sync_command(name: StudyName, tracking_uri: TrackingUri = None, runs: Runs = "runs") -> None:
    """Send MLflow the records of a study that it lacks."""
    from search.study.lock import Lock
    from search.tracking.mlflow import store
    from search.tracking.mlflow.syncer import Syncer

    found, _, _ = _load_results(name, runs)
    opts = options.last_options(found.study)
    uri = store.resolve_uri(tracking_uri or opts.tracking_uri, runs)
    syncer = Syncer(
        found.paths,
        uri,
        keep_models=opts.keep_models,
        experiment=opts.experiment,
        register=opts.register,
        warn=_say,
    )
    # A running search sends its own records: two senders at once would make a run twice.
    lock = Lock(found.paths.lock)
    try:
        syncer.drain(dead=True)
    finally:
        lock.release()
    out.print(f"study {name} is in MLflow at {store.redact(uri)}", markup=False, soft_wrap=True)


@app.command("ui")
def ui_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study's name; the newest study by default.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="The port of the UI.")] = 5000,
    tracking_uri: TrackingUri = None,
    runs: Runs = "runs",
) -> None:
    """Open the MLflow UI on this project's store."""
    from search.results.study_results import load_study
    from search.tracking.mlflow import ui

    if name is not None and paths.StudyPaths.of(runs, name).journal.exists():
        study = load_study(name, runs).study
        name, tracking_uri = study.uid, tracking_uri or options.last_options(study).tracking_uri
    ui.serve_ui(name, runs=runs, tracking_uri=tracking_uri, port=port, say=_say)


@app.command("devices")
@_takes_options("gpus", "workers", "gpus_per_trial", "logical_devices", "executor", "ray_address", "keras_backend")
def devices_command(*, as_json: Json = False, given: dict[str, Any]) -> None:
    """Show the GPUs, their use by others, and the slots that a search would have."""
    from search.devices.plan import error_of, notes_of
    from search.display import devices_view
    from search.driver.devices import plan_devices

    plans = plan_devices(given)
    notes, error = notes_of(plans), error_of(plans)
    if as_json:
        _print_json(devices_view.devices_fields(plans, [*notes, *([error] if error else [])]))
    else:
        out.print(devices_view.devices_tables(plans))
        for line in ("", *notes) if notes else ():
            out.print(line, markup=False, soft_wrap=True)
    if error:
        raise OptionError(error)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"search {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 done, 1 no trial has an objective, 2 wrong input, 75 stopped before the job's end, 130 stopped.
    """
    # The memory goes with the process. Else the collector would look through all that MLflow has imported, for half a
    # second after the last line.
    atexit.register(gc.freeze)
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="search", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except NoResult as error:
        return _fail(str(error), 1)
    except SearchError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _fail(f"the disk is full ({error.filename or 'no file is named'}): make room, and try again", 2)
    except Exception as error:
        # The exceptions of the command line's parser have no public base class.
        message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if message is None:
            raise
        return _fail(f"{message()} See {context.command_path if context else 'search'} --help", 2)


def _fail(message: str, code: int) -> int:
    err.print(f"search: {' '.join(message.split())}", markup=False, soft_wrap=True)
    return code
