"""The first contact with MLflow, before anything is written, and MLflow's slow imports."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from search.errors import OptionError, SearchError, Unavailable
from search.options import Options
from search.tracking.mlflow import database, internals, store
from search.tracking.mlflow.position import Position


def check_parent_run(uri: str, run_id: str) -> str | None:
    """Check that the user's run exists. Return the name of its experiment; None if that belongs to a study.

    Raises:
        OptionError: there is no such run, or it is deleted.
        Unavailable, TrackingRefused: MLflow does not answer.
    """
    from search.tracking.mlflow.layout import STUDY_UID_TAG

    file = store.local_database(uri)
    where = f"MLflow at {store.redact(uri)}"
    if file is not None and not file.exists():
        raise OptionError(f"--parent-run {run_id}: there is no {where}: check --tracking-uri and --runs")
    client = store.connect(uri, create=False)
    try:
        with store.translate_errors(uri, core=True):
            run = client.get_run(run_id)
            experiment = client.get_experiment(run.info.experiment_id)
    except store.Rejected:
        raise OptionError(f"--parent-run {run_id}: {where} has no such run: give the id of a run there") from None
    if run.info.lifecycle_stage != "active":
        raise OptionError(f"--parent-run {run_id}: that run is deleted: give another")
    return None if STUDY_UID_TAG in experiment.tags else str(experiment.name)


def describe_other_store(position: Path, uri: str) -> list[str]:
    """Return a line for people if a resumed study was logged to another MLflow store so far, else none.

    An address may come from `MLFLOW_TRACKING_URI`, which the study does not remember.

    Args:
        position: the file of the syncer's `Position`.
        uri: the tracking address of the search that begins.
    """
    before, now = (address.replace("***@", "") for address in (Position.load(position).uri, store.redact(uri)))
    file = store.local_database(before)
    if before in ("", now) or (file is not None and not file.exists()):
        return []  # a local store that is no longer there was moved with its study
    return [f"MLflow was {before} so far, and is {now} now, which gets the whole study: --tracking-uri chooses it"]


class Admission:
    """A check, in a thread, that the tracking server accepts our credentials.

    For a local store, the thread imports MLflow, and makes a fresh database if there is none. It runs while the
    framework is imported: no worker trains yet, so none has to share its processor. If the framework is imported
    already, nothing is gained by that: the syncer's thread does so when it has something to send.

    Args:
        opts: the options known so far.
        later: leave a local store to the syncer; by default it is made ready now.
    """

    def __init__(self, opts: Options, *, later: bool = False) -> None:
        self._later = later
        self._uri = store.resolve_uri(opts.tracking_uri, opts.runs)
        self._error: SearchError | None = None
        self._thread = threading.Thread(target=self._connect, daemon=True)
        self._thread.start()

    def result(self, opts: Options) -> str:
        """Return the tracking address for `opts`, once the server has answered.

        If the server is out of reach, nothing is raised: the syncer warns.

        Raises:
            TrackingRefused: the server refuses our credentials.
            OptionError: the address cannot be used.
        """
        if store.local_database(self._uri) is None:
            self._thread.join()
        if store.resolve_uri(opts.tracking_uri, opts.runs) != self._uri:
            return Admission(opts, later=self._later).result(opts)
        if self._error is not None and not isinstance(self._error, Unavailable):
            raise self._error
        return self._uri

    def _connect(self) -> None:
        file = store.local_database(self._uri)
        if self._later and file is not None:
            return
        with suppress(Exception):  # those who need MLflow report its errors
            store.configure_mlflow()
            internals.import_whole()
        if file is not None:
            # Nothing is written before all is checked: the syncer puts the database into its place, and reports errors.
            with suppress(Exception):
                if file.exists():
                    database.warm_up()
                else:
                    database.make_fresh_database()
            return
        try:
            store.connect(self._uri)
        except SearchError as error:
            self._error = error
