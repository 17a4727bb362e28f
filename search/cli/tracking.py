"""The commands for MLflow: `sync` and `ui`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from search import options
from search.cli.arguments import MeantStudy, Runs, TrackingUri, complete_study, interrupted_by_signals
from search.cli.output import err, say, tell
from search.cli.reading import load_results
from search.cli.selection import find_name
from search.errors import OptionError, SearchError
from search.study.paths import StudyPaths, study_names


def sync_command(name: MeantStudy = None, tracking_uri: TrackingUri = None, runs: Runs = "runs") -> None:
    """Send MLflow the records of a study that it lacks."""
    from search.tracking.mlflow import store
    from search.tracking.mlflow.sending import send_study

    found, _, _ = load_results(find_name(name, runs), runs)
    opts = options.last_options(found.study)
    uri = store.resolve_uri(tracking_uri or opts.tracking_uri, runs)
    left_out = send_study(found.paths, found.study, uri, warn=say)
    if left_out:
        raise SearchError(
            f"MLflow at {store.redact(uri)} has study {found.name} but for {left_out}: the same command sends "
            "that when MLflow takes it"
        )
    tell(f"study {found.name} is in MLflow at {store.redact(uri)}")


def ui_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY …",
            help="A study, or a space file for its newest; several are compared; by default the newest.",
            autocompletion=complete_study,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="The port of the UI.")] = 5000,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
    tracking_uri: TrackingUri = None,
    runs: Runs = "runs",
) -> None:
    """Open the MLflow UI on this project's store; with several studies, compare them."""
    from search.tracking.mlflow import store, ui
    from search.tracking.mlflow.sending import send_if_behind

    uids, tracking_uri = _find_studies(names or [], tracking_uri, runs)
    for name in uids.values():
        paths = StudyPaths.of(runs, name)
        if paths.journal.exists():
            send_if_behind(paths, store.resolve_uri(tracking_uri, runs), say)
    browse = not no_browser and err.is_terminal and ui.has_display(os.environ, sys.platform)
    with interrupted_by_signals():
        ui.serve_ui(uids, runs=runs, tracking_uri=tracking_uri, port=port, say=say, browse=browse)


def _find_studies(names: list[str], tracking_uri: str | None, runs: str) -> tuple[dict[str, str], str | None]:
    """Return the studies' names by their uids, and the store that has them.

    A name that is not in `runs` stays as it is: MLflow may have a study of that name.
    """
    from search.results.study_results import find_results

    if not names and tracking_uri is None and study_names(runs):
        names = [find_name(None, runs)]
    uids, stores = dict[str, str](), dict[str | None, str]()
    for name in names:
        name = find_name(name, runs)
        if not StudyPaths.of(runs, name).journal.exists():
            uids[name] = name
            continue
        study = find_results(name, runs).study
        uids[study.uid] = name
        stores.setdefault(options.last_options(study).tracking_uri, name)
    if tracking_uri is None and len(stores) > 1:
        listed = ", ".join(f"{name} in {uri or 'the store in the runs folder'}" for uri, name in stores.items())
        raise OptionError(f"the studies are in several MLflow stores ({listed}): send them to one with search sync")
    return uids, tracking_uri or next(iter(stores), None)
