"""The command `rm`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from search.cli.arguments import Runs, StudyName, TakeOver, TrackingUri
from search.cli.output import say, tell
from search.cli.selection import find_name
from search.errors import OptionError
from search.study.paths import find_study


def rm_command(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without a question.")] = False,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Leave its runs in MLflow.")] = False,
    take_over: TakeOver = False,
    tracking_uri: TrackingUri = None,
    runs: Runs = "runs",
) -> None:
    """Remove a study: its journal, its files, and its runs in MLflow."""
    from search.results import removal

    name = find_name(name, runs)
    if removal.finish_removal(name, runs):
        tell(f"study {name} is removed")
        return
    find_study(name, runs)
    if not (yes or sys.stdin.isatty()):
        raise OptionError(f"nobody can be asked whether study {name!r} is to be removed: give --yes")
    planned = removal.plan_removal(name, runs, tracking_uri=tracking_uri, keep_mlflow=keep_mlflow, take_over=take_over)
    with closing(planned):
        if not yes:
            for line in planned.describe():
                say(line)
            if not typer.confirm("Remove all of this for good?", err=True):
                say("nothing was removed")
                raise typer.Exit(130)
        planned.carry_out(say)
    removed = "; ".join(planned.describe())
    tell(f"removed {removed}")
    if planned.runs is not None and planned.runs.run_ids:
        say(f"MLflow only marks runs as deleted: mlflow gc --backend-store-uri {planned.runs.uri} frees their files")
