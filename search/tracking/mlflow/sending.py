"""The transfer of a study to MLflow without a search: by a command, or by a process that goes on after a script."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

from search import options
from search.errors import JournalError
from search.study.lock import Lock, is_held
from search.study.paths import StudyPaths
from search.study.study import Study, read_study
from search.tracking.mlflow import late, store
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer

__all__ = ["send_if_behind", "send_study", "send_waiting"]


def send_study(paths: StudyPaths, study: Study, uri: str, *, yields: bool = False, warn: Callable[[str], None]) -> str:
    """Send MLflow the records of a study that it lacks.

    Args:
        paths, study: the study's files, and the study.
        uri: the tracking address, as `store.resolve_uri` gave it.
        yields: let another process that works on the study end this one; False by default.
        warn: shows the user one line.

    Returns:
        What MLflow does not take, in words; "" if it has all.

    Raises:
        JournalError: a process runs the study, or the journal cannot be read.
        TrackingRefused, Unavailable, OptionError: as `store.connect`.
    """
    opts = options.last_options(study)
    syncer = Syncer(
        paths,
        uri,
        keep_models=opts.keep_models,
        experiment=opts.experiment,
        register=opts.register,
        log_report=opts.log_report,
        warn=warn,
    )
    # A running search sends its own records: two senders at once would make a run twice.
    lock = Lock(paths.lock, yields=yields)
    try:
        syncer.drain(dead=True)
    finally:
        lock.release()
    return syncer.left_out


def send_if_behind(paths: StudyPaths, uri: str, warn: Callable[[str], None]) -> None:
    """Send a study to a local store that has not all of it yet, unless a process runs the study and sends it itself.

    Args:
        paths, uri, warn: as for `send_study`. Nothing happens for a server.
    """
    if store.local_database(uri) is None or not _is_behind(paths, uri) or is_held(paths.lock):
        return
    with suppress(JournalError):  # a process has begun to run it, or its journal is damaged: MLflow has what it has
        send_study(paths, read_study(paths.journal), uri, warn=warn)


def send_waiting(uri: str) -> None:
    """Send the studies of this process that wait for its end to a local store: the process itself looks there now.

    Args:
        uri: the store's address. Studies of other stores go on waiting.

    Raises:
        JournalError, TrackingRefused, Unavailable, OptionError: as for `send_study`.
    """
    for paths in late.take_waiting(uri):
        send_study(paths, read_study(paths.journal), uri, warn=warnings.warn)


def _is_behind(paths: StudyPaths, uri: str) -> bool:
    """Return whether the store lacks records. A store that was moved is not behind."""
    position = Position.load(paths.tracking)
    sent_here = position.uri == store.redact(uri)
    return position.uri == "" or (sent_here and position.offset < paths.journal.stat().st_size)
