"""The commands that steer a running search: `add`, `stop`, `pause`, `continue` and `set`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.arguments import Runs, StudyName, takes_options
from search.cli.output import tell
from search.cli.selection import find_name
from search.study.requests import STEERED_LIMITS

if TYPE_CHECKING:
    from search.results.running_search import RunningSearch


def add_command(
    name: StudyName,
    configuration: Annotated[
        str, typer.Argument(metavar="JSON|FILE", help='What to try next, such as {"lr": 0.01}, or a .json file.')
    ],
    runs: Runs = "runs",
) -> None:
    """Have a running search try a configuration next."""
    _tell(_find(name, runs).add(configuration))


def stop_command(
    name: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")],
    runs: Runs = "runs",
) -> None:
    """Train a trial of a running search no further; it keeps its best value and its place."""
    _tell(_find(name, runs).stop(trial))


def pause_command(name: StudyName, runs: Runs = "runs") -> None:
    """Pause a running search: running epochs end, no work begins, and the workers free their memory."""
    _tell(_find(name, runs).pause())


def continue_command(name: StudyName, runs: Runs = "runs") -> None:
    """Let a paused search go on."""
    _tell(_find(name, runs).go_on())


@takes_options(*STEERED_LIMITS, "runs")
def set_command(*, name: StudyName, given: dict[str, Any]) -> None:
    """Give a running search other limits; they hold after a resume, too."""
    runs = given.pop("runs") or "runs"
    _tell(_find(name, runs).set(given))


def _find(name: str, runs: str) -> RunningSearch:
    from search.results.running_search import RunningSearch
    from search.results.study_results import find_results

    study = find_results(find_name(name, runs), runs)
    return RunningSearch(study.paths, study.study.uid)


def _tell(line: str) -> None:
    tell(line)
