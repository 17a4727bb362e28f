"""The commands that search: `run`, `resume` and `check`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.arguments import Accept, KerasBackend, NoProgress, SpaceFile, StudyName, TakeOver, takes_options
from search.cli.output import err, out, say, show
from search.errors import FallsShort

if TYPE_CHECKING:
    from search.driver.prepared import MakeView, Result


@takes_options()
def run_command(
    *,
    space: SpaceFile,
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
        say=say,
    )
    _report_and_exit(result)


@takes_options()
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
        say=say,
    )
    _report_and_exit(result)


def check_command(
    space: SpaceFile,
    keras_backend: KerasBackend = None,
) -> None:
    """Build the model, train one step, build five random models, and print the space and the model; search nothing."""
    from search.display import space_page
    from search.driver import launch
    from search.driver.source import Source

    probed = launch.check_space(Source(path=space), keras_backend)
    show(space_page.space_details(probed))


def _view_maker(no_progress: bool) -> MakeView:
    from search.display.live import make_view

    return functools.partial(make_view, live=err.is_terminal and not no_progress, console=err)


def _report_and_exit(result: Result) -> None:
    from search.display.report import print_report
    from search.driver.prepared import SearchStopped

    try:
        print_report(result, out, say)
    except KeyboardInterrupt as error:
        raise SearchStopped(result.paths) from error
    if result.shortfall:
        raise FallsShort(result.shortfall)
    raise typer.Exit(result.end.exit_code)
