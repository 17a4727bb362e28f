"""The command line: `search …`. Reads words, calls the library, prints; decides nothing itself."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import shlex
import shutil
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
from search.errors import JournalError, NoResult, OptionError, SearchError, SpaceError, StudyError
from search.study import paths

if TYPE_CHECKING:
    from search.driver.launch import Result
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
_METAVARS |= {"try_first": "JSON|FILE", "warm_start": "STUDY"}

Runs = Annotated[str, typer.Option("--runs", metavar="DIR", help="The folder that studies live in.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
Accept = Annotated[bool, typer.Option("--accept-changes", help="Go on though the space file has changed.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Go on though a process of another machine has not ended in order.")
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Plain lines in place of the live view.")]


def _takes_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of a search, as `search.options` describes them."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "given"]
    names = [name for name in options.FIELDS if not (name == "study" and any(p.name == "name" for p in own))]
    parameters = [_parameter(name) for name in names]

    @functools.wraps(function)
    def command(**words: Any) -> None:
        given = {name: words.pop(name) for name in names}
        given = {name: None if value == [] else value for name, value in given.items()}
        if given.get("workers") == "auto":
            given["workers"] = None
        try:
            with _stopped_by_signals():
                function(given=given, **words)
        except KeyboardInterrupt:
            raise typer.Exit(
                _fail("stopped; nothing journaled is lost: go on with the same command and --resume", 130)
            ) from None

    command.__signature__ = inspect.Signature(own + parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + parameters}
    return command


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP do what Ctrl-C does, also before the search begins and after its end."""
    stops = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in stops:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in stops:
            signal.signal(number, signal.SIG_DFL)


def _parameter(name: str) -> inspect.Parameter:
    """An option of a search as a parameter of a command. Its value stays text: `search.options` reads it."""
    field = options.FIELDS[name]
    kind = inspect.Parameter.KEYWORD_ONLY
    text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}."
    if isinstance(field.default, bool):
        # Both ways: a resumed study keeps what it was told, and may be told the contrary.
        words = name.replace("_", "-")
        flag = typer.Option(f"--{words}/--no-{words}", help=f"{text} [default: {'on' if field.default else 'off'}]")
        return inspect.Parameter(name, kind, default=None, annotation=Annotated[bool | None, flag])
    if "choices" in field.metadata:
        metavar = "|".join(field.metadata["choices"])
    elif field.metadata.get("time"):
        metavar = "TIME"
    else:
        metavar = _METAVARS.get(name, "NAME" if str(field.type).startswith("str") else "N")
    default = "" if field.default in (None, ()) else f" [default: {field.default}]"
    option = typer.Option(options.flag(name), metavar=metavar, help=text + default)
    if field.metadata.get("many"):
        return inspect.Parameter(name, kind, default=None, annotation=Annotated[list[str] | None, option])
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


# Searching ------------------------------------------------------------------------------------------------------------


@app.command("run")
@_takes_options
def run_command(
    *,
    space: Annotated[Path, typer.Argument(metavar="SPACE.py", help="The space file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study where it exists.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where the study exists.")] = False,
    accept_changes: Accept = False,
    take_over: TakeOver = False,
    no_progress: NoProgress = False,
    given: dict[str, Any],
) -> None:
    """Search a space file."""
    from search.driver import launch

    result = launch.run(
        launch.Source(path=space),
        given,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
        take_over=take_over,
        make_view=_make_view(no_progress),
        say=_say,
    )
    _conclude(result)


@app.command("resume")
@_takes_options
def resume_command(
    *,
    name: StudyName,
    accept_changes: Accept = False,
    take_over: TakeOver = False,
    no_progress: NoProgress = False,
    given: dict[str, Any],
) -> None:
    """Go on with a study where it stopped, whatever stopped it; workers, budget and back end may change."""
    from search.driver import launch

    result = launch.resume(
        name,
        given,
        accept_changes=accept_changes,
        take_over=take_over,
        make_view=_make_view(no_progress),
        say=_say,
    )
    _conclude(result)


@app.command("check")
def check_command(
    space: Annotated[Path, typer.Argument(metavar="SPACE.py", help="The space file.")],
    keras_backend: Annotated[str | None, typer.Option("--keras-backend", metavar="NAME")] = None,
) -> None:
    """Build once, train one step, print the space and the model's size; no search."""
    from search.display import tables
    from search.driver import launch

    probed = launch.check(launch.Source(path=space), keras_backend)
    out.print(tables.show_space(probed))


def _make_view(no_progress: bool) -> Any:
    from search.display import live as progress

    def make(study: Any, opts: Any, labels: tuple[str, ...]) -> Any:
        live = err.is_terminal and not no_progress
        return progress.make(study, opts, labels, live=live, console=err)

    return make


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)


def _typed(command: str, folder: Path) -> str:
    """A command of this program on a study in `folder`, as the user can type it here."""
    found, self_ = shutil.which("search"), Path(sys.argv[0])
    known = self_.name != "search" or (found is not None and Path(found).resolve() == self_.resolve())
    program = "search" if known else min(str(self_), os.path.relpath(self_), key=len)
    where = "" if folder == Path("runs").absolute() else f" --runs {shlex.quote(os.path.relpath(folder))}"
    return f"{program} {command}{where}"


def _conclude(result: Result) -> None:
    """Print how a search ended: why, the leaderboard, what to do next."""
    from search.display import tables

    study, end, folder = result.study, result.end, result.paths.folder.parent
    if end.exit_code == 2:
        raise SpaceError(end.reason)
    _say(f"ended: {end.reason}")
    if study.best is not None:
        out.print(tables.leaderboard(study, 5))
    if not result.synced:
        _say(f"MLflow has not all of it yet: send the rest with: {_typed(f'sync {study.name}', folder)}")
    if end.exit_code == 130:
        _say(f"go on with: {_typed(f'resume {study.name}', folder)}")
    elif end.exit_code == 1:
        raise NoResult(f"no trial has an objective: see {_typed(f'trials {study.name}', folder)}")
    else:
        for command, what in (
            (f"best {study.name}", "the best trials"),
            (f"show {study.name} {study.ranked()[0].number}", "one trial: values, curve, log"),
            (f"ui {study.name}", "compare the trials in MLflow"),
            (f"export {study.name} --to model.keras", "the best model as a file"),
        ):
            out.print(f"  {_typed(command, folder):<46}  {what}", markup=False, soft_wrap=True)
        if result.paths.tensorboard.exists():
            command = f"tensorboard --logdir {shlex.quote(os.path.relpath(result.paths.tensorboard))}"
            out.print(f"  {command:<46}  compare the trials in TensorBoard", markup=False, soft_wrap=True)
    raise typer.Exit(end.exit_code)


# Looking --------------------------------------------------------------------------------------------------------------


def _load(name: str, runs: str) -> tuple[StudyResults, bool, dict[int, str]]:
    """A study, whether its driver is alive, and its trials' MLflow runs."""
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
    from search.display import tables

    found, alive, run_ids = _load(name, runs)
    if as_json and as_csv:
        raise OptionError("--json and --csv exclude each other: give one of them")
    if as_json:
        _print_json([tables.trial_json(t, found.study, run_ids.get(t.number), alive=alive) for t in found.trials])
    elif as_csv:
        print(tables.trials_csv(found.study, found.trials, run_ids, alive=alive), end="")
    else:
        out.print(tables.trials_table(found.study, found.trials, alive=alive))


@app.command("best")
def best_command(
    name: StudyName,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """List a study's best trials, best first."""
    from search.display import tables

    found, alive, run_ids = _load(name, runs)
    best = found.best_trials(count)
    if as_json:
        _print_json([tables.trial_json(t, found.study, run_ids.get(t.number), alive=alive) for t in best])
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
    """Show a trial: its values, curve, worker, traceback and the log's tail."""
    from search.display import tables

    found, alive, _ = _load(name, runs)
    if trial not in found.study.trials:
        raise StudyError(f"study {name!r} has no trial {trial}: it has {len(found.trials)}, numbered from 0")
    files = found.paths.trial(trial)
    shown = tables.show_trial(
        found.study, found.study.trials[trial], _tail(files.traceback, 40), _tail(files.log, 15), alive=alive
    )
    out.print(shown)


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@app.command("status")
def status_command(
    name: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="All studies by default.")] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Say how far studies have come."""
    from search.display import tables

    names = [name] if name else paths.studies(runs)
    if not names:
        raise StudyError(f"there is no study in {Path(runs).absolute()}: begin one with search run SPACE.py")
    now = time.time()
    loaded = []
    for each in names:
        try:
            loaded.append(_load(each, runs))
        except JournalError as error:
            if name:
                raise
            _say(f"search: {each}: {error}")  # one that cannot be read does not hide the others
    if as_json:
        documents = [tables.status_json(found.study, alive=alive, now=now) for found, alive, _ in loaded]
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
        typer.Option("--to", metavar="PATH", help="model.keras, model.weights.h5, model.onnx; model: a SavedModel."),
    ],
    rank: Annotated[int, typer.Option("--rank", min=1, help="1 is the best trial.")] = 1,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="keras|weights|onnx|savedmodel", help="By default as the path ends."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    keras_backend: Annotated[
        str | None, typer.Option("--keras-backend", metavar="NAME", help="What Keras makes it with.")
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Write a trained model to a file, or a SavedModel to a folder."""
    from search.results import export
    from search.results.study_results import load_study
    from search.worker.process import quietly

    planned = export.plan(load_study(name, runs), rank, to, format=format, keras_backend=keras_backend, force=force)
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = planned.keras_backend
    with quietly(Path(os.devnull)):
        import search.worker.segment  # noqa: F401
    with warnings.catch_warnings(record=True) as noticed:
        (model,) = planned.study.load_models([planned.trial])
    for warning in noticed:
        _say(f"note: {warning.message}")
    with quietly(Path(os.devnull)), warnings.catch_warnings(action="ignore"):
        needs = export.write(model, planned.to, planned.format)
    trial = planned.trial
    words = f"{to}: trial {trial.number}, weights of epoch {trial.best_epoch}" + (f"; {needs}" if needs else "")
    out.print(words, markup=False, soft_wrap=True)


# Around it ------------------------------------------------------------------------------------------------------------


@app.command("sync")
def sync_command(
    name: StudyName,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", metavar="URI")] = None,
    runs: Runs = "runs",
) -> None:
    """Send to MLflow what is missing there."""
    from search.driver import launch
    from search.study.lock import Lock
    from search.tracking.mlflow import store
    from search.tracking.mlflow.syncer import Syncer

    found, _, _ = _load(name, runs)
    opts = launch.options_of(found.study)
    uri = store.resolve_uri(tracking_uri or opts.tracking_uri, runs)
    syncer = Syncer(
        found.paths,
        uri,
        keep_models=opts.keep_models,
        experiment=opts.experiment,
        register=opts.register,
        warn=_say,
    )
    # A running search sends its own: two at once would make a run twice.
    lock = Lock(found.paths.lock)
    try:
        syncer.drain(dead=True)
    finally:
        lock.release()
    out.print(f"study {name} is in MLflow at {store.redact(uri)}", markup=False, soft_wrap=True)


@app.command("ui")
def ui_command(
    name: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="The newest study by default.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", metavar="URI")] = None,
    runs: Runs = "runs",
) -> None:
    """Open the MLflow UI on this project's store."""
    from search.driver import launch
    from search.results.study_results import load_study
    from search.tracking.mlflow import ui

    if name is not None and paths.StudyPaths.of(runs, name).journal.exists():
        study = load_study(name, runs).study
        name, tracking_uri = study.uid, tracking_uri or launch.options_of(study).tracking_uri
    ui.serve(name, runs=runs, tracking_uri=tracking_uri, port=port, say=lambda line: _say(line))


@app.command("devices")
def devices_command(
    gpus: Annotated[str, typer.Option("--gpus", metavar="GPUS")] = "auto",
    workers: Annotated[str | None, typer.Option("--workers", metavar="N")] = None,
    gpus_per_trial: Annotated[str, typer.Option("--gpus-per-trial", metavar="N")] = "1",
) -> None:
    """List the GPUs found, and the slots they would make."""
    from search.devices.gpus import choose_gpus, find_gpus
    from search.devices.slots import available_cpus, core_ids, make_slots
    from search.display import tables

    found = find_gpus()
    given = {"gpus": gpus, "workers": None if workers == "auto" else workers, "gpus_per_trial": gpus_per_trial}
    opts = options.resolve(given)
    slots = make_slots(
        choose_gpus(found, opts.gpus),
        available_cpus(),
        core_ids(),
        opts.workers,
        opts.gpus_per_trial,
    )
    out.print(tables.show_devices(found, slots, available_cpus()))


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
    """Run the command line. Returns the exit code: 0 done, 1 no trial has an objective, 2 wrong input, 130 stopped."""
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
        # What the command line's parser raises has no public base class.
        message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if message is None:
            raise
        return _fail(f"{message()} See {context.command_path if context else 'search'} --help", 2)


def _fail(message: str, code: int) -> int:
    err.print(f"search: {' '.join(message.split())}", markup=False, soft_wrap=True)
    return code
