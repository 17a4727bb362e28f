"""The program `search`: its commands, and the exit code of each error."""

from __future__ import annotations

import atexit
import errno
import gc
import sys
from typing import Annotated

import typer

from search import __version__
from search.cli import devices, reading, reports, searching, tracking
from search.cli.output import fail
from search.errors import NoResult, SearchError

app = typer.Typer(
    name="search",
    help="Hyperparameter search for Keras: write a factory that takes hp, run it, go for coffee.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    searching.run_command,
    searching.resume_command,
    searching.check_command,
    reading.trials_command,
    reading.best_command,
    reading.show_command,
    reading.status_command,
    reading.export_command,
    reports.report_command,
    tracking.sync_command,
    tracking.ui_command,
    devices.devices_command,
):
    app.command(_command.__name__.removesuffix("_command"))(_command)


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
        return fail(str(error), 1)
    except SearchError as error:
        return fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return fail(f"the disk is full ({error.filename or 'no file is named'}): make room, and try again", 2)
    except Exception as error:
        # The exceptions of the command line's parser have no public base class.
        message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if message is None:
            raise
        return fail(f"{message()} See {context.command_path if context else 'search'} --help", 2)
