"""The option `--storage`: its checks, and the files of a study that it stands for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from search.driver.kept_files import KeptFiles
from search.driver.retention import Retention
from search.driver.study_files import StudyFiles, UrlFiles
from search.driver.study_handle import StudyHandle
from search.errors import OptionError, SearchError, StudyError, Unavailable
from search.messages import DRIVER
from search.options import FOLDER, STORAGES, Options
from search.plugins.loading import EXECUTORS
from search.storage.urls import (
    describe,
    drop_credentials,
    join_url,
    needs_folders,
    open_url,
    protocol_of,
    storage_errors,
)
from search.study import journal
from search.study.paths import StudyPaths
from search.study.records import Header, Record, SearchStarted
from search.study.study import Study
from search.tracking.followers import Follower
from search.wording import format_time

__all__ = [
    "check_storage",
    "delete_files",
    "delete_replaced",
    "is_url",
    "kept_storage",
    "make_files",
    "make_followers",
    "written_url",
]

ANSWER_SECONDS = 60.0
"""The longest time for a storage to take, give back and delete a small object."""


def is_url(storage: str | None) -> bool:
    """Return whether trials' files lie behind a URL, and not in the study's folder."""
    return storage is not None and storage not in STORAGES


def kept_storage(given: str | None, written: str | None, handle: StudyHandle) -> str | None:
    """Return the storage to search with: a study keeps its own, as its files are there.

    Args:
        given: by the user; may have credentials that the journal lacks.
        written: in the space file.

    Raises:
        StudyError: a study that exists is given another one.
    """
    if not handle.exists:
        return given or written
    kept = handle.options.get("storage") or FOLDER
    if given is None:
        # One that the space file names by now is not taken.
        return kept if is_url(kept) or written else handle.options.get("storage")
    if (is_url(given) or is_url(kept)) and drop_credentials(given) != kept:
        where = kept if is_url(kept) else "its own folder"
        raise StudyError(
            f"study {handle.name!r} has its files in {where}: a resumed study keeps that, leave --storage out; or "
            "begin another with --study"
        )
    return given


def check_storage(storage: str | None, executor: str) -> None:
    """Write, read and delete a small object. OptionError if that is not possible.

    Args:
        executor: the option with the executor's name.
    """
    if storage is None or not is_url(storage):
        return
    shown = drop_credentials(storage)
    if protocol_of(storage) == "memory" and not getattr(EXECUTORS.load(executor).cls, "in_process", False):
        raise OptionError(f"--storage {shown} is the memory of one process: it goes with --executor inline only")
    errors: list[Exception] = []
    # Some file systems wait for hours.
    thread = threading.Thread(target=_try, args=(storage, errors), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if thread.is_alive():
        raise OptionError(
            f"--storage {shown} does not answer within {format_time(ANSWER_SECONDS)}: see that it can be reached"
        )
    for error in errors:
        if isinstance(error, OptionError):
            raise error
        reason = describe(error, storage)
        raise OptionError(
            f"--storage {shown} cannot be written ({reason}): give one that can; credentials come from the environment"
        )


def _try(storage: str, errors: list[Exception]) -> None:
    """Write, read and delete an object. Note the exception if that fails."""
    content = secrets.token_hex(8).encode()
    try:
        fs, root = open_url(storage)
        path = f"{root.rstrip('/')}/.probe-{secrets.token_hex(4)}"
        if needs_folders(storage):
            fs.makedirs(root, exist_ok=True)
        fs.pipe_file(path, content)
        if fs.cat_file(path) != content:
            raise OSError("it gives back another content than it was given")
        fs.rm_file(path)
    except Exception as error:
        errors.append(error)


def make_files(storage: str | None, handle: StudyHandle, records: Sequence[Record]) -> StudyFiles:
    """Return the files of a study's trials.

    Args:
        records: the first records of this process, with the header if the study is new.
    """
    if storage is None or not is_url(storage):
        return StudyFiles(through_driver=storage == DRIVER)
    header = records[0] if isinstance(records[0], Header) else handle.header
    return UrlFiles(study_url(storage, handle.name, header.uid))


def make_followers(opts: Options, study: Study, paths: StudyPaths, files: StudyFiles) -> list[Follower]:
    """Return the followers that keep the trials' files in order."""
    followers: list[Follower] = [Retention(study, paths, opts.keep_models, files)]
    if is_url(opts.storage):
        followers.append(KeptFiles(study, paths, opts.keep_models, files))
    return followers


def study_url(storage: str, name: str, uid: str) -> str:
    """Return the URL of a study's own folder. Studies of one name may share a storage."""
    return join_url(storage, f"{name}-{uid[:6]}")


def delete_replaced(paths: StudyPaths, say: Callable[[str], None]) -> None:
    """Delete the files behind a URL of the study that another one replaces, as far as its journal can be read."""
    url = written_url(paths)
    try:
        if url is not None:
            delete_files(url)
    except (OptionError, Unavailable) as error:
        say(f"the files of the study that is replaced stay: {error}")


def written_url(paths: StudyPaths) -> str | None:
    """Return the URL of a study's own files, as its journal has it; None if they lie in its folder.

    A damaged journal is read as far as possible.
    """
    uid, options = "", dict[str, Any]()
    with suppress(SearchError, OSError):
        for entry in journal.read(paths.journal):
            if isinstance(entry.record, Header):
                uid = entry.record.uid
            elif isinstance(entry.record, SearchStarted):
                options = dict(entry.record.options)
    storage = options.get("storage")
    if not uid or storage is None or not is_url(storage):
        return None
    return study_url(storage, paths.folder.name, uid)


def delete_files(url: str) -> None:
    """Delete all files of one study behind `url`; none need exist.

    Raises:
        OptionError: the storage cannot be used.
        Unavailable: the storage does not answer.
    """
    fs, root = open_url(url)
    with storage_errors(url), suppress(FileNotFoundError):
        fs.rm(root, recursive=True)
