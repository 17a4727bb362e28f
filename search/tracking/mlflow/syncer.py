"""The syncer, which follows a study's journal and sends MLflow what the records mean. Training never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from search.errors import SearchError, TrackingRefused, Unavailable
from search.study import journal
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.tracking.mlflow import database, internals, refusals, store
from search.tracking.mlflow.changes import Change
from search.tracking.mlflow.feed import JournalFeed
from search.tracking.mlflow.layout import Projection, RunKey
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.refusals import Refusals
from search.tracking.mlflow.shipper import Shipper
from search.tracking.mlflow.store import Rejected

MIN_PAUSE = 0.5
"""Seconds between two batches, at least. All changes of a run in between cost one request."""

PROCESSOR_SHARE = 0.1
"""MLflow's share of a processor's time while a search trains, unless pauses would be longer than `MAX_PAUSE`."""

MAX_PAUSE = 10.0
"""Seconds from the end of a batch to the next one, at most, whatever a batch takes."""

MODELS_INTERVAL = 5.0
"""Seconds between two updates of the best trials' weights in MLflow: the best trials change fast during a search."""

MAX_RECORDS = 5000
"""Records in one batch."""

LAST_TRIES = 3
"""Attempts to reach a server that is away, once the search has ended."""

STOP_SECONDS = 5.0
"""The longest time that `stop` waits for the current request, in seconds."""

RETRY_SECONDS = (1.0, 30.0)
"""Shortest and longest time between two attempts to reach a server that is away. The time doubles in between."""


def pause_seconds(used: float) -> float:
    """Return the seconds to wait after a batch that took `used` seconds of a processor."""
    return min(max(MIN_PAUSE, used / PROCESSOR_SHARE), MAX_PAUSE)


class Syncer:
    """The transfer of one study's journal to MLflow.

    During a search it is a follower of the driver. It works in a thread between `start` and `finish` or `stop`, and
    takes its entries from `take`. It reads the journal's file to catch up: at the start, and after an outage in which
    too many entries came. Without a search, `drain` ships the whole file at once.

    Args:
        paths: the study's files; its journal must have a header when the first batch is shipped.
        uri: the tracking address, as `store.resolve_uri` gave it.
        keep_models: how many of the best trials have their weights in MLflow.
        experiment: the experiment's name that the user gave; None for the study's name.
        register: the registered model's name that the user gave; see `WinnerShipper`.
        log_report: send the report to a server. A local store gets it in any case.
        rest: seconds after `start` in which the thread sends nothing, 0 by default. If the search ends within them, all
            is left to the caller; see `left`.
        warn: shows the user one line; called from the syncer's thread.
    """

    protocol = 1

    def __init__(
        self,
        paths: StudyPaths,
        uri: str,
        *,
        keep_models: int = 3,
        experiment: str | None = None,
        register: str | None = None,
        log_report: bool = False,
        rest: float = 0.0,
        warn: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self._uri = uri
        self._keep_models = keep_models
        self._experiment = experiment
        self._register = register
        self._ships_report = log_report or store.local_database(uri) is not None
        self._before_last: Callable[[], None] | None = None
        self._rest = rest
        self._warn = warn
        self._warned: set[str] = set()
        self._feed = JournalFeed(paths.journal)
        self._shipper: Shipper | None = None
        self._projection = Projection()
        self._position = Position()
        self._refusals = Refusals(self._position)
        self._saved_refused: dict[int, int] = {}
        self._files_left_out: list[str] = []
        self._offset = 0
        self._pending: dict[RunKey, Change] = {}
        self._models_due = True
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._hurry = threading.Event()
        self._stopped = threading.Event()
        self._complete = False
        self._left = False

    # In a thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow the journal in a thread that dies with the process. Entries are taken from now on."""
        self._feed.open()
        self._thread = threading.Thread(target=self._follow, name="mlflow-syncer", daemon=True)
        self._thread.start()

    def take(self, entries: Sequence[Entry]) -> None:
        """Queue entries that have just been journaled, for the thread. Return at once."""
        self._feed.put(entries)
        self._news.set()

    def flushed(self) -> None:
        """Do nothing: MLflow may have entries before the disk has them."""

    def finish(self, timeout: float, before_last: Callable[[], None] | None = None) -> bool:
        """Ship the remaining entries and end the thread. Return whether all were shipped.

        Args:
            timeout: seconds after which the thread is stopped as by `stop`.
            before_last: called in the thread when all else is shipped. It returns when the report is written.
        """
        self._before_last = before_last
        self._hurry.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout)
        self.stop()
        return self._complete

    def stop(self) -> None:
        """End the thread after the current run's request. Wait `STOP_SECONDS` at most, as MLflow may hang."""
        self._stopped.set()
        self._hurry.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    @property
    def left(self) -> bool:
        """True if the thread has ended within its rest: MLflow is not even imported."""
        return self._left

    def _follow(self) -> None:
        try:
            self._left = self._rest > 0 and self._hurry.wait(self._rest)
            if not self._left:
                self._ship_until_stopped()
        finally:
            self._feed.close()

    def _ship_until_stopped(self) -> None:
        outage = 0.0
        models_at = 0.0
        last_tries = LAST_TRIES
        while not self._stopped.is_set():
            self._news.clear()
            finishing = self._hurry.is_set()
            used = time.thread_time()
            models = finishing or time.monotonic() - models_at >= MODELS_INTERVAL
            try:
                whole = self.sync_once(models=models)
            except Unavailable as error:
                if not outage:
                    self._warn(f"{error}: the search goes on, and MLflow is told when it is back")
                outage = min(max(RETRY_SECONDS[0], 2 * outage), RETRY_SECONDS[1])
                if finishing and not (last_tries := last_tries - 1):
                    return  # the end of a search does not wait for a server that is away
                self._stopped.wait(1.0) if finishing else self._hurry.wait(outage)
                continue
            except Exception as error:
                self._warn(self._describe_end(error))
                return
            outage = 0.0
            models_at = time.monotonic() if models else models_at
            if whole and finishing and self._before_last is not None:
                before_last, self._before_last = self._before_last, None
                before_last()
                self._models_due = True  # once more, for the report
            elif whole and finishing and self._refusals.tries_left:
                self._stopped.wait(refusals.REFUSED_SECONDS)
            elif whole and finishing:
                self._complete = not self._position.refused
                return
            elif whole:
                self._hurry.wait(pause_seconds(time.thread_time() - used))
                self._news.wait(MODELS_INTERVAL)

    def _describe_end(self, error: Exception) -> str:
        what = str(error) if isinstance(error, SearchError) else f"MLflow: {type(error).__name__}: {error}"
        what = store.redact(" ".join(what.split()))
        return f"{what}: the search goes on without MLflow; send what is missing with `search sync {self._name}`"

    @property
    def _name(self) -> str:
        return self._paths.folder.name

    # At once --------------------------------------------------------------------------------------------------------

    def drain(self, *, dead: bool = False) -> None:
        """Ship every entry of the journal's file that MLflow does not have yet.

        Args:
            dead: no process runs the study: if the last one was killed, end the runs that it left RUNNING.

        Raises:
            TrackingRefused, Unavailable: see `store.connect`. Entries shipped before the error are not shipped again.
            JournalError: the journal cannot be read.
        """
        self._drain()
        if dead:
            self._pending = dict(self._projection.abandoned())
            self._ship_pending(self._connected())
            self._drain()

    def _drain(self) -> None:
        while not self.sync_once() or self._refusals.tries_left:
            if self._refusals.tries_left:
                time.sleep(refusals.REFUSED_SECONDS)

    @property
    def left_out(self) -> str:
        """The values that MLflow refuses and the files that it does not take, in words; "" if it has all."""
        return ", ".join(filter(None, (self._refusals.describe(), *self._files_left_out)))

    def sync_once(self, *, models: bool = True) -> bool:
        """Ship one batch of records. Return whether nothing is left.

        Changes that could not be shipped are shipped first the next time.

        Args:
            models: ship the best trials' weights, too.

        Raises:
            TrackingRefused, Unavailable, JournalError: as `drain`.
        """
        shipper = self._connected()
        whole = not self._pending and self._take_next()
        if self._pending:
            self._ship_pending(shipper)
            self._models_due = True
        if self._pending:
            return False  # `stop` was called
        self._ship_refused(shipper)
        if self._position.offset != self._offset or self._position.refused != self._saved_refused:
            self._saved_refused = dict(self._position.refused)
            self._position.uid, self._position.offset = self._projection.study.uid, self._offset
            self._position.save(self._paths.tracking)
        if whole and models and self._models_due and not self._stopped.is_set():
            self._ship_files(shipper)
        return whole

    def _take_next(self) -> bool:
        """Take in the next entries. Return whether no more are left."""
        entries, has_more = self._feed.next(self._offset, MAX_RECORDS)
        for entry in entries:
            self._offset = entry.end
            _merge(self._pending, self._projection.take(entry))
        return not has_more

    def _ship_pending(self, shipper: Shipper) -> None:
        while self._pending and not self._stopped.is_set():
            run = next(iter(self._pending))
            self._refusals.outdate(run, self._pending[run])
            refusal = shipper.ship(run, self._pending[run])
            if refusal is not None and refusal.deleted:
                what = "the study's run" if run is None else f"trial {run}'s run"
                self._warn_once("run", f"{what} was deleted in MLflow: it is told no more of it")
            elif refusal is not None:
                self._refusals.add(run, refusal)
            del self._pending[run]

    def _ship_refused(self, shipper: Shipper) -> None:
        for run, change, last in self._refusals.due():
            if self._stopped.is_set():
                return
            line = self._refusals.settle(run, shipper.ship(run, change, apart=last))
            if line:
                self._warn_once("run", f"{line}: left out; `search sync {self._name}` sends it again")

    def _ship_files(self, shipper: Shipper) -> None:
        whole = True
        try:
            self._ship_page(shipper)
            try:
                shipper.delete_duplicates()
                shipper.ship_space()
                whole = shipper.ship_models(self._keep_models)
            except Rejected as error:
                shipper.check_reachable()  # a proxy may have refused in MLflow's place
                self._leave_out("the files of the best trials")
                self._warn_once(
                    "files", f"MLflow's artifact store does not take files ({error}): weights stay in {self._name} only"
                )
            self._ship_winner(shipper)
            self._ship_report(shipper)
        finally:
            self._position.save(self._paths.tracking)
            self._warn_of_internals()
        self._models_due = not whole

    def _ship_page(self, shipper: Shipper) -> None:
        try:
            shipper.ship_page()
        except Rejected:
            shipper.check_reachable()
        except TrackingRefused:
            pass  # `search ui` works without the page

    def _ship_winner(self, shipper: Shipper) -> None:
        try:
            shipper.ship_winner()
        except (Rejected, TrackingRefused) as error:
            shipper.check_reachable()
            self._leave_out("the best model")
            self._warn_once("winner", f"MLflow does not take the best model ({error}): it is {self._paths.model}")

    def _ship_report(self, shipper: Shipper) -> None:
        try:
            if self._ships_report:
                shipper.ship_report()
        except (Rejected, TrackingRefused) as error:
            shipper.check_reachable()
            self._leave_out("the report")
            self._warn_once("report", f"MLflow does not take the report ({error}): it is {self._paths.report}")

    def _leave_out(self, what: str) -> None:
        if what not in self._files_left_out:
            self._files_left_out.append(what)

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(message)

    def _warn_of_internals(self) -> None:
        for line in internals.capabilities_off():
            self._warn_once(line, line)

    # The beginning --------------------------------------------------------------------------------------------------

    def _connected(self) -> Shipper:
        """Return the shipper, which the first call connects to MLflow. Raise what `store.connect` raises."""
        if self._shipper is None:
            self._shipper = self._open()
        return self._shipper

    def _open(self) -> Shipper:
        """Connect to MLflow, and go on from the saved position if the store still has the study."""
        file = store.local_database(self._uri)
        if file is not None:
            store.configure_mlflow()
            internals.import_whole()
            note = database.initialise(file)
            if note is not None:
                self._warn_once("note", note)
            database.relocate(file, store.artifact_root(file))
        client = store.connect(self._uri)
        self._warn_of_internals()
        position = Position.load(self._paths.tracking)
        pending: dict[RunKey, Change] = {}
        projection = self._project(position, pending)
        if projection is not None:
            shipper = self._shipper_of(client, projection, position)
            if shipper.has_study():
                self._projection, self._position, self._offset = projection, position, position.offset
                # What earlier processes could not send is sent again.
                self._saved_refused, position.refused = position.refused, {}
                self._refusals = Refusals(position)
                self._pending = pending
                return shipper
        self._projection, self._offset = Projection(), 0
        self._position = Position(uri=store.redact(self._uri))
        self._refusals = Refusals(self._position)
        return self._shipper_of(client, self._projection, self._position)

    def _shipper_of(self, client: Any, projection: Projection, position: Position) -> Shipper:
        return Shipper(client, self._paths, projection, position, self._experiment, self._register)

    def _project(self, position: Position, pending: dict[RunKey, Change]) -> Projection | None:
        """Return the projection of the journal up to `position`.

        Return None if the position belongs to another journal or another store.

        Args:
            pending: is filled with the changes of the runs of which MLflow has refused something.
        """
        again = refusals.refused_runs(position)
        if position.uri != store.redact(self._uri):
            return None
        projection, end = Projection(), 0
        for entry in journal.read(self._paths.journal):
            if entry.end > position.offset:
                break
            _merge(pending, ((run, change) for run, change in projection.take(entry) if run in again))
            end = entry.end
        if end == 0 or end != position.offset or projection.study.uid != position.uid:
            return None
        return projection


def _merge(pending: dict[RunKey, Change], changes: Iterable[tuple[RunKey, Change]]) -> None:
    for run, change in changes:
        if run in pending:
            pending[run].merge(change)
        else:
            pending[run] = change
