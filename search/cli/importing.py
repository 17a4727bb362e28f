"""The command `import`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from search.cli.arguments import Runs
from search.cli.output import say, tell
from search.wording import pluralize


def import_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The project's folder: directory/project_name.")],
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="The study's name; by default the project's.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", metavar="NAME", help="The project's objective; by default the one its scores show."
        ),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option("--direction", metavar="min|max", help="Its better direction; by default the metric's."),
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Import a finished KerasTuner project: its trials become a study."""
    from search.compat.projects.importing import import_project
    from search.display.report import command_line
    from search.display.text import format_objective, printable

    found = import_project(folder, runs, study=study, objective=objective, direction=direction)
    name, best = shlex.quote(found.study.name), found.study.best
    line = f"study {found.study.name} has {pluralize(len(found.study.trials), 'trial')} of {folder}"
    if best is not None and best.objective is not None:
        line += f"; best {found.study.objective.name} {format_objective(best.objective)}, trial {best.number}"
    tell(printable(line))
    if found.left_out:
        say(f"left out: {pluralize(found.left_out, 'trial')} that had not ended")
    if found.best_weights is not None:
        say(
            "weights are not imported: build the model with the values of the best trial, and load "
            f"{found.best_weights}"
        )
    trials = command_line(f"trials {name}", found.paths.folder.parent)
    warm = command_line(f"run SPACE.py --sampler tpe --warm-start {name}", found.paths.folder.parent)
    say(f"look at it with: {trials}; learn from it with: {warm}")
