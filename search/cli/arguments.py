"""The arguments and options that commands share. Options of a search come from `search.options`."""

from __future__ import annotations

import functools
import inspect
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from search import options
from search.cli.output import fail
from search.study import paths
from search.wording import format_time


def complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the studies that begin with `incomplete`, for a shell."""
    return [name for name in paths.study_names(ctx.params.get("runs") or "runs") if name.startswith(incomplete)]


def complete_space(incomplete: str) -> list[str]:
    """Return the Python files and the folders that begin with `incomplete`, for a shell."""
    folder, slash, begun = incomplete.rpartition("/")
    try:
        entries = sorted(Path(folder or slash or ".").iterdir())
    except OSError:
        return []
    shown = [path for path in entries if path.name.startswith(begun) and (begun or not path.name.startswith("."))]
    names = {path.name: path.is_dir() for path in shown if path.is_dir() or path.suffix == ".py"}
    return [f"{folder}{slash}{name}{'/' if is_folder else ''}" for name, is_folder in names.items()]


def _completer_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


_METAVARS = {"runs": "DIR", "tracking_uri": "URI", "gpus": "GPUS", "objective": "NAME"}
_METAVARS |= {"tag": "KEY=VALUE", "require": "METRIC>=N", "parent_run": "ID"}
_METAVARS |= {"try_first": "JSON|FILE", "warm_start": "STUDY", "storage": "URL|folder|driver"}

Runs = Annotated[str, typer.Option("--runs", metavar="DIR", help="The folder that holds the studies.")]
SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.py", help="The space file.", autocompletion=complete_space)]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.", autocompletion=complete_study)]
MeantStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="The study's name, or a space file for its newest study; the newest study of all by default.",
        show_default=False,
        autocompletion=complete_study,
    ),
]
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


def takes_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
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
            with interrupted_by_signals():
                function(given=given, **arguments)
        except KeyboardInterrupt as error:
            raise typer.Exit(fail(_describe_stop(error), 130)) from None

    command.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + added}
    return command


def _describe_stop(error: KeyboardInterrupt) -> str:
    """Return a line about a search that was stopped at once, with a command that goes on."""
    from search.display.report import command_line
    from search.driver.prepared import SearchStopped

    if not isinstance(error, SearchStopped):
        return str(error) or "stopped before the search began: give the same command again"
    folder = error.paths.folder
    resume = command_line(f"resume {shlex.quote(folder.name)}", folder.parent)
    return f"stopped; nothing journaled is lost: go on with: {resume}"


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
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
    number: Any = field.default
    if isinstance(number, float):
        number = format_time(number) if field.metadata.get("time") else f"{number:g}"
    default = "" if field.default in (None, ()) else f" [default: {number}]"
    choices: tuple[str, ...] = field.metadata.get("choices", ())
    option = typer.Option(
        options.option_flag(name), metavar=metavar, help=text + default, autocompletion=_completer_of(choices)
    )
    if field.metadata.get("many"):
        return inspect.Parameter(name, kind, default=None, annotation=Annotated[list[str] | None, option])
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])
