"""The study that a process begins or resumes, and the first records of the process.

The journal is read once. Its fold is left to the controller, which replays it: here only single records are looked up.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from search import options
from search.backends.registry import internals_off
from search.driver import checks, named_parts
from search.driver.source_commit import find_commit
from search.errors import SearchError, StudyError
from search.messages import Probed
from search.options import Options
from search.scheduler.initial import InitialConfigurations
from search.space.domain import Parameter, Value
from search.storage.urls import drop_credentials
from search.study import journal
from search.study.journal import DamagedLine, Entry
from search.study.paths import StudyPaths
from search.study.records import (
    FORMAT,
    BackendChanged,
    DataLoaded,
    Header,
    LimitsChanged,
    Record,
    SearchEnded,
    SearchStarted,
    SegmentRequested,
    SpaceChanged,
    TrialImported,
)
from search.study.transitions import UnfitRecord
from search.study.trial import Objective

__all__ = ["SpaceHasChanged", "StudyHandle"]

R = TypeVar("R", bound=Record)


class SpaceHasChanged(StudyError):
    """The space is not the one that a study has searched so far."""


class StudyHandle:
    """The files of a study, and its journal if it has one.

    Args:
        paths: the study's files.
        overwrite: do not read the journal. It is to be replaced, and may be damaged.

    Attributes:
        entries: the journal so far; empty for a new study.

    Raises:
        JournalError: the journal cannot be read.
    """

    def __init__(self, paths: StudyPaths, *, overwrite: bool = False) -> None:
        self.paths = paths
        self._seen = _stamp(paths.journal)
        self.entries: Sequence[Entry] = [] if overwrite or self._seen is None else journal.read_all(paths.journal)

    @property
    def is_current(self) -> bool:
        """True if the journal has not changed since it was read."""
        return _stamp(self.paths.journal) == self._seen

    @property
    def exists(self) -> bool:
        """True if the study has begun."""
        return bool(self.entries)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.paths.folder.name

    def damaged_line(self, index: int, error: UnfitRecord) -> DamagedLine:
        """Return the error that names the line of the entry `index`, which does not fit those before it."""
        return DamagedLine(self.paths.journal, self.entries[index - 1].end if index else 0, str(error))

    @property
    def header(self) -> Header:
        """The first record of a study that exists."""
        header = self.entries[0].record
        assert isinstance(header, Header)
        return header

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the last process by name, as changed while it ran; empty if there was none."""
        changed: dict[str, Any] = {}
        for entry in reversed(self.entries):
            match entry.record:
                case LimitsChanged():
                    changed = {**entry.record.options, **changed}
                case SearchStarted():
                    return {**entry.record.options, **changed}
        return {}

    @property
    def versions(self) -> Mapping[str, str]:
        """The libraries of the last process, by name."""
        start = self._last(SearchStarted)
        return (start.versions if start is not None else {}) or self.header.versions

    @property
    def end(self) -> SearchEnded | None:
        """The end of the last process; None if it did not end in order, or still runs."""
        last = next(
            (e.record for e in reversed(self.entries) if isinstance(e.record, (SearchEnded, SearchStarted))), None
        )
        return last if isinstance(last, SearchEnded) else None

    @property
    def space(self) -> Header | SpaceChanged:
        """The record with the digest and the parameters of the space as it was last searched."""
        return self._last(SpaceChanged) or self.header

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the space as it was last searched."""
        return self.space.parameters

    @property
    def data_keys(self) -> frozenset[str]:
        """The `DataLoaded.key` of each set of data that is known."""
        records = (entry.record for entry in self.entries)
        return frozenset(record.key for record in records if isinstance(record, DataLoaded))

    @property
    def imported(self) -> frozenset[tuple[str, int]]:
        """The imported trials, as (uid of their study, number there)."""
        records = (entry.record for entry in self.entries)
        return frozenset((r.source, r.number) for r in records if isinstance(r, TrialImported))

    def untried(self, try_first: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
        """Return the initial configurations that no trial has tried."""
        initial = InitialConfigurations(try_first)
        for entry in self.entries:
            initial.apply(entry.record)
        return list(initial.untried())

    def _last(self, kind: type[R]) -> R | None:
        return next((entry.record for entry in reversed(self.entries) if isinstance(entry.record, kind)), None)

    # The first records of a process ---------------------------------------------------------------------------------

    def change_of_space(self, probed: Probed, *, accepted: bool, label: str) -> SpaceChanged | None:
        """Return the record to journal if the space file has changed, else None.

        Args:
            probed: the space as it is now.
            accepted: the user accepts a change.
            label: the name of the space file in messages.

        Raises:
            SpaceHasChanged: the space file has changed, and the user has not accepted that.
        """
        if not self.exists or self.space.digest == probed.digest:
            return None
        if not accepted:
            differences = checks.describe_differences(self.parameters, probed.parameters)
            raise SpaceHasChanged(
                f"{label} has changed since study {self.name!r} began: {differences}. Go on with it with "
                "--accept-changes, begin anew with --overwrite, or give another name with --study"
            )
        return SpaceChanged(probed.digest, probed.parameters)

    def first_records(
        self,
        opts: Options,
        objective: Objective,
        probed: Probed,
        change: SpaceChanged | None,
        imported: Sequence[TrialImported],
        space: Path | None,
        seed: int,
    ) -> list[Record]:
        """Return the records that this process begins with.

        Args:
            change: the change of the space, if any.
            imported: trials of another study to learn from.
            space: the space file; None if a factory is searched.
            seed: the seed of a new study.
        """
        records: list[Record] = []
        kept = {name: value for name, value in opts.to_json().items() if name not in options.PASSING}
        kept["keras_backend"] = probed.versions["keras_backend"]
        kept["tracking_uri"] = _without_credentials(opts.tracking_uri)
        kept["storage"] = opts.storage and drop_credentials(opts.storage)
        kept |= commit.as_options() if (commit := find_commit(space)) is not None else {}
        if not self.exists:
            records.append(self._header(objective, probed, space, seed))
        elif change is not None:
            records.append(change)
        versions = {**probed.versions, **named_parts.package_versions(opts)}
        backend = BackendChanged(opts.backend_name, opts.backend_options())
        # A sampler for other parameters is of no use. New code alone is no reason to begin a new phase.
        other_parameters = change is not None and self.parameters != probed.parameters
        if other_parameters or self._last(BackendChanged) != backend:
            records.append(backend)
        started = SearchStarted(socket.gethostname(), os.getpid(), kept, versions, internals_off())
        records += [*imported, started]
        if probed.data is not None and probed.data.key not in self.data_keys:
            records.append(probed.data)
        return records

    def count_earlier_trials(self, records: Sequence[Record]) -> int:
        """Return the number of trials of earlier back end phases, which the plan of the present one does not count.

        Args:
            records: the records that this process begins with.
        """
        earlier, present = set[int](), set[int]()
        for record in (*(entry.record for entry in self.entries), *records):
            if isinstance(record, BackendChanged):
                earlier |= present
                present.clear()
            elif isinstance(record, SegmentRequested) and record.trial not in earlier:
                present.add(record.trial)
        return len(earlier)

    def _header(self, objective: Objective, probed: Probed, space: Path | None, seed: int) -> Header:
        return Header(
            format=FORMAT,
            uid=secrets.token_hex(8),
            study=self.name,
            seed=seed,
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
    """Return numbers that change when the file changes; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _without_credentials(uri: str | None) -> str | None:
    from search.tracking.mlflow import store

    return uri and store.without_credentials(uri)


def _uid_of(paths: StudyPaths) -> str:
    """Return the uid of the study whose journal is at `paths`; "" if there is none, or it cannot be read."""
    with suppress(SearchError, StopIteration):
        first = next(journal.read(paths.journal)).record
        return first.uid if isinstance(first, Header) else ""
    return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
