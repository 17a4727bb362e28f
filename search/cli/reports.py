"""The command `report`."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from search.cli.arguments import Runs
from search.cli.output import tell
from search.cli.selection import find_name
from search.errors import OptionError
from search.study.paths import find_study


def report_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]…",
            help="The studies' names, or space files; several are compared. By default the newest study.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="PATH", help="The file to write; by default report.html in the study's folder."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    runs: Runs = "runs",
) -> None:
    """Write one HTML file with a study's best configuration, figures, trials and errors; or a comparison of studies."""
    from search.report.imports import import_plots
    from search.report.writing import write_report

    given: list[str | None] = [*names] if names else [None]
    studies = [find_study(find_name(name, runs), runs) for name in given]
    if show and not _has_display():
        raise OptionError("--open needs a display: leave it out, and open the file that is printed elsewhere")
    import_plots()
    path = write_report(studies, output)
    tell(_shortest(path))
    if show:
        webbrowser.open(path.absolute().as_uri())


def _shortest(path: Path) -> str:
    return min(str(path), os.path.relpath(path), key=len)


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
