"""The report at the end of a search: the reason for the end, the best trials, and the commands to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search.display.grid import print_whole
from search.display.tables import leaderboard
from search.errors import UNFINISHED, NoResult, SpaceError
from search.space.error_text import escape_controls

if TYPE_CHECKING:
    from search.driver.prepared import Result

REPORTED_TRIALS = 5
"""The number of best trials in a report."""


def print_report(result: Result, console: Console, say: Callable[[str], None]) -> None:
    """Print the report of a search.

    Args:
        console: prints the best trials and the next commands.
        say: prints a line for people only; the command line gives one that writes to stderr.

    Raises:
        SpaceError: the search ended because its space cannot be searched.
        NoResult: no trial has an objective.
    """
    study, end, folder = result.study, result.end, result.paths.folder.parent
    if end.exit_code == 2:
        raise SpaceError(end.reason)
    say(f"ended: {end.reason}")
    if study.best is not None:
        print_whole(console, leaderboard(study, REPORTED_TRIALS))
    if not result.synced:
        say(f"MLflow has not all of it yet: send the rest with: {command_line(f'sync {study.name}', folder)}")
    if end.exit_code in (UNFINISHED, 130):
        say(f"go on with: {command_line(f'resume {study.name}', folder)}")
    elif end.exit_code == 1:
        raise NoResult(f"no trial has an objective: see {command_line(f'trials {study.name}', folder)}")
    else:
        _print_commands([*_next_commands(result)], console)


def _print_commands(commands: Sequence[tuple[str, str]], console: Console) -> None:
    """Print commands, each with its purpose beside it, or below it in a terminal that is too narrow."""
    width = max(len(command) for command, _ in commands)
    beside = not console.is_terminal or width + 4 + max(len(purpose) for _, purpose in commands) <= console.width
    for command, purpose in commands:
        lines = [f"  {command:<{width}}  {purpose}"] if beside else [f"  {command}", f"      {purpose}"]
        for line in lines:
            console.print(escape_controls(line), markup=False, soft_wrap=True)


def command_line(command: str, folder: Path) -> str:
    """Return a command of this program as the user can type it here, for the studies in `folder`."""
    found, running = shutil.which("search"), Path(sys.argv[0])
    on_path = running.name != "search" or (found is not None and Path(found).resolve() == running.resolve())
    program = "search" if on_path else min(str(running), os.path.relpath(running), key=len)
    runs = "" if folder == Path("runs").absolute() else f" --runs {shlex.quote(os.path.relpath(folder))}"
    return f"{program} {command}{runs}"


def _next_commands(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the commands that use the result of a search, each with its purpose."""
    study, folder = result.study, result.paths.folder.parent
    yield command_line(f"best {study.name}", folder), "the best trials"
    yield command_line(f"show {study.name} {study.ranked()[0].number}", folder), "one trial: values, curve, log"
    yield command_line(f"ui {study.name}", folder), "compare the trials in MLflow"
    if result.paths.report.exists():
        yield os.path.relpath(result.paths.report), "the report, to open in a browser"
    yield command_line(f"export {study.name} --to model.keras", folder), "the best model as a file"
    if result.paths.tensorboard.exists():
        logs = shlex.quote(os.path.relpath(result.paths.tensorboard))
        yield f"tensorboard --logdir {logs}", "compare the trials in TensorBoard"
