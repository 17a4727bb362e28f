"""The commands for MLflow: `sync` and `ui`."""

from __future__ import annotations

from typing import Annotated

import typer

from search import options
from search.cli.arguments import Runs, StudyName, TrackingUri
from search.cli.output import out, say
from search.cli.reading import load_results
from search.study import paths


def sync_command(name: StudyName, tracking_uri: TrackingUri = None, runs: Runs = "runs") -> None:
    """Send MLflow the records of a study that it lacks."""
    from search.study.lock import Lock
    from search.tracking.mlflow import store
    from search.tracking.mlflow.syncer import Syncer

    found, _, _ = load_results(name, runs)
    opts = options.last_options(found.study)
    uri = store.resolve_uri(tracking_uri or opts.tracking_uri, runs)
    syncer = Syncer(
        found.paths,
        uri,
        keep_models=opts.keep_models,
        experiment=opts.experiment,
        register=opts.register,
        log_report=opts.log_report,
        warn=say,
    )
    # A running search sends its own records: two senders at once would make a run twice.
    lock = Lock(found.paths.lock)
    try:
        syncer.drain(dead=True)
    finally:
        lock.release()
    out.print(f"study {name} is in MLflow at {store.redact(uri)}", markup=False, soft_wrap=True)


def ui_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study's name; the newest study by default.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="The port of the UI.")] = 5000,
    tracking_uri: TrackingUri = None,
    runs: Runs = "runs",
) -> None:
    """Open the MLflow UI on this project's store."""
    from search.results.study_results import load_study
    from search.tracking.mlflow import ui

    if name is not None and paths.StudyPaths.of(runs, name).journal.exists():
        study = load_study(name, runs).study
        name, tracking_uri = study.uid, tracking_uri or options.last_options(study).tracking_uri
    ui.serve_ui(name, runs=runs, tracking_uri=tracking_uri, port=port, say=say)
