"""A study as a process finds it, and the records that its run of it begins with."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from search import options
from search.driver import checks
from search.errors import SearchError, StudyError
from search.messages import Probed
from search.options import Options
from search.study import journal, study
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import FORMAT, BackendChanged, Header, Record, SearchStarted, SpaceChanged, TrialImported
from search.study.study import Study
from search.study.trial import Objective

__all__ = ["StudyHandle"]


class StudyHandle:
    """A study's place, and what its journal says where it has one.

    Args:
        paths: its files.
        anew: not to read the journal: it is to be overwritten, and may be damaged.

    Raises:
        JournalError: the journal cannot be read.
    """

    def __init__(self, paths: StudyPaths, *, anew: bool = False) -> None:
        self.paths = paths
        self._seen = _stamp(paths.journal)
        self.entries: Sequence[Entry] = [] if anew or self._seen is None else journal.read_all(paths.journal)

    @property
    def is_current(self) -> bool:
        """Whether the journal is as it was read."""
        return _stamp(self.paths.journal) == self._seen

    @property
    def exists(self) -> bool:
        return bool(self.entries)

    @cached_property
    def study(self) -> Study:
        """The fold of the journal; not to be changed."""
        return study.fold(self.entries)

    @property
    def header(self) -> Header:
        header = self.entries[0].record
        assert isinstance(header, Header)
        return header

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """What the last process was told."""
        said = [entry.record.options for entry in self.entries if isinstance(entry.record, SearchStarted)]
        return said[-1] if said else {}

    # The first records of a process ---------------------------------------------------------------------------------

    def changes(self, probed: Probed, *, accepted: bool, label: str) -> SpaceChanged | None:
        """What to journal where the space file, called `label`, is not what it was. StudyError where that is not
        accepted."""
        if not self.exists or self.study.digest == probed.digest:
            return None
        if not accepted:
            differences = checks.differences(self.study.parameters, probed.parameters)
            raise StudyError(
                f"{label} has changed since study {self.study.name!r} began: {differences}. Go on with it with "
                "--accept-changes, begin anew with --overwrite, or give another name with --study"
            )
        return SpaceChanged(probed.digest, probed.parameters)

    def records(
        self,
        opts: Options,
        objective: Objective,
        probed: Probed,
        changes: SpaceChanged | None,
        imported: Sequence[TrialImported],
        space: Path | None,
    ) -> list[Record]:
        """The first records of this process.

        Args:
            changes, learnt: what is to be among them.
            space: the space file, where it is not a factory that is searched.
        """
        records: list[Record] = []
        said = {name: value for name, value in opts.to_json().items() if name not in options.SESSION}
        said["keras_backend"] = probed.versions["keras_backend"]
        said["tracking_uri"] = _without_password(opts.tracking_uri)
        if not self.exists:
            records.append(self._header(opts, objective, probed, space))
        elif changes is not None:
            records.append(changes)
        phase = BackendChanged(opts.backend, opts.backend_options())
        # A sampler made for other parameters is of no use; what is new of the code alone is no reason to begin anew.
        other_parameters = changes is not None and self.study.parameters != probed.parameters
        if not self.exists or not self.study.phases or self.study.phases[-1] != phase or other_parameters:
            records.append(phase)
        return [*records, *imported, SearchStarted(socket.gethostname(), os.getpid(), said, probed.versions)]

    def _header(self, opts: Options, objective: Objective, probed: Probed, space: Path | None) -> Header:
        return Header(
            format=FORMAT,
            uid=secrets.token_hex(8),
            study=self.paths.folder.name,
            seed=opts.seed if opts.seed is not None else secrets.randbelow(options.LARGEST_SEED),
            objectives=(objective,),
            source=str(space.absolute()) if space is not None else "",
            digest=probed.digest,
            parameters=probed.parameters,
            versions=probed.versions,
            metrics=probed.metrics,
            user=_user(),
            replaces=_uid_of(self.paths),
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _without_password(uri: str | None) -> str | None:
    """An address as it may be written down: a resume takes the credentials from the environment, or is told again."""
    from search.tracking.mlflow import store

    return uri and store.redact(uri).replace("://***@", "://")


def _uid_of(paths: StudyPaths) -> str:
    """The uid of the study whose journal is at `paths`, as far as it can be read; "" where there is none."""
    with suppress(SearchError, StopIteration):
        first = next(journal.read(paths.journal)).record
        return first.uid if isinstance(first, Header) else ""
    return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
