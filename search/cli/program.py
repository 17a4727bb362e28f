"""The program `search`: its commands, and the exit code of each error."""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from search import __version__
from search.cli import devices, importing, reading, removal, repairing, reports, searching, steering, tracking
from search.cli.help import Command, Group
from search.cli.output import fail
from search.errors import FALLS_SHORT, FallsShort, NoResult, SearchError

COMMANDS: dict[str, Callable[..., None]] = {
    function.__name__.removesuffix("_command"): function
    for function in (
        searching.run_command,
        searching.resume_command,
        searching.check_command,
        reading.trials_command,
        reading.best_command,
        reading.show_command,
        reading.status_command,
        reading.export_command,
        steering.add_command,
        steering.stop_command,
        steering.pause_command,
        steering.continue_command,
        steering.set_command,
        reports.report_command,
        tracking.sync_command,
        tracking.ui_command,
        importing.import_command,
        repairing.repair_command,
        removal.rm_command,
        devices.devices_command,
    )
}
"""The commands by name, in the order of the help."""


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the program with the commands `names`. Typer takes some milliseconds for each option of each command."""
    app = typer.Typer(
        name="search",
        cls=Group,
        help="Hyperparameter search for Keras: write a factory that takes hp, run it, go for coffee.",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        app.command(name, cls=Command)(_stoppable(COMMANDS[name]))
    app.callback(invoke_without_command=True)(_root)
    return app


def _stoppable(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command that says that it was stopped: Typer ends it without a word."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise typer.Exit(fail(str(error) or "stopped", 130)) from None

    return command


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
        The exit code: 0 done, 1 no trial has an objective, 2 wrong input, 3 the best trial does not fulfil `--require`,
        75 stopped before the job's end, 130 stopped.
    """
    # The memory goes with the process. Else the collector would look through all that MLflow has imported, for half a
    # second after the last line.
    atexit.register(gc.freeze)
    given = sys.argv[1:] if arguments is None else arguments
    app = make_app([given[0]] if given[:1] and given[0] in COMMANDS else COMMANDS)
    try:
        code = typer.main.get_command(app).main(given, prog_name="search", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except NoResult as error:
        return fail(str(error), 1)
    except FallsShort as error:
        return fail(str(error), FALLS_SHORT)
    except SearchError as error:
        return fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort) as error:
        return fail(str(error) or "stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _is_current_folder_gone():
            return fail("the current folder was deleted: change to one that exists, such as with: cd", 2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return fail(f"the disk is full ({error.filename or 'no file is named'}): make room, and try again", 2)
    except Exception as error:
        # The exceptions of the command line's parser have no public base class.
        message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if message is None:
            raise
        text = str(message())
        stop = "" if text.endswith((".", "?")) else "."
        return fail(f"{text}{stop} See {context.command_path if context else 'search'} --help", 2)


def _is_current_folder_gone() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False
