"""The syncer: follows a study's journal and ships what follows from it to MLflow. Training never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from search.errors import SearchError, TrackingRefused, Unavailable
from search.study import journal
from search.study.paths import StudyPaths
from search.tracking.mlflow import database, store
from search.tracking.mlflow.layout import Change, Projection, Run
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.shipper import Shipper
from search.tracking.mlflow.store import Rejected

INTERVAL = 0.5
"""Seconds between two batches, at least: what happens to a run in between costs one request."""

SHARE = 0.1
"""Of a processor's time MLflow gets while a search trains, unless that makes it later than `LATEST`."""

LATEST = 10.0
"""Seconds from one batch's end to the next one, at most, whatever they take."""

MODELS_INTERVAL = 5.0
"""Seconds between two looks at whose weights MLflow holds: while a search runs, the best change fast."""

LIMIT = 5000
"""Records in one batch."""

LAST_TRIES = 3
"""How often a server that is away is tried again when the search has ended."""

LEAVE_SECONDS = 5.0

_PATIENCE = (1.0, 30.0)


def pause(used: float) -> float:
    """Seconds from a batch that took `used` seconds of a processor to the next one."""
    return min(max(INTERVAL, used / SHARE), LATEST)


class Syncer:
    """Ships one study's journal, in a thread (`start`, `wake`, `finish`, `stop`) or at once (`drain`).

    Args:
        paths: the study's files; its journal must have a header when the first batch is shipped.
        uri: the tracking address, as `store.resolve_uri` gave it.
        keep_models: how many of the best trials hold their weights in MLflow.
        experiment: the experiment's name that the user gave; None for the study's name.
        register: the registered model's name that the user gave; see `WinnerShipper`.
        warn: is told, in one line, what the user should know; called from the syncer's thread.
    """

    def __init__(
        self,
        paths: StudyPaths,
        uri: str,
        *,
        keep_models: int = 3,
        experiment: str | None = None,
        register: str | None = None,
        warn: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self._uri = uri
        self._keep_models = keep_models
        self._experiment = experiment
        self._register = register
        self._warn = warn
        self._warned: set[str] = set()
        self._shipper: Shipper | None = None
        self._projection = Projection()
        self._position = Position()
        self._offset = 0
        self._pending: dict[Run, Change] = {}
        self._models_due = True
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._hurry = threading.Event()
        self._stopped = threading.Event()
        self._complete = False

    # In a thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow the journal, in a thread that dies with the process."""
        self._thread = threading.Thread(target=self._follow, name="mlflow-syncer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There are new records."""
        self._news.set()

    def finish(self, timeout: float) -> bool:
        """Ship what is left and end the thread; False where it is not all shipped after `timeout` seconds.

        A request that is out by then is waited for as `stop` does.
        """
        self._hurry.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout)
        self.stop()
        return self._complete

    def stop(self) -> None:
        """End the thread where it stands, after the run that it tells, or after `LEAVE_SECONDS`: MLflow may hang."""
        self._stopped.set()
        self._hurry.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(LEAVE_SECONDS)

    def _follow(self) -> None:
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
                outage = min(max(_PATIENCE[0], 2 * outage), _PATIENCE[1])
                if finishing and not (last_tries := last_tries - 1):
                    return  # nobody waits at the end of a search for a server that is away
                self._stopped.wait(1.0) if finishing else self._hurry.wait(outage)
                continue
            except Exception as error:
                self._warn(self._lament(error))
                return
            outage = 0.0
            models_at = time.monotonic() if models else models_at
            if whole and finishing:
                self._complete = True
                return
            if whole:
                self._hurry.wait(pause(time.thread_time() - used))
                self._news.wait(MODELS_INTERVAL)

    def _lament(self, error: Exception) -> str:
        what = str(error) if isinstance(error, SearchError) else f"MLflow: {type(error).__name__}: {error}"
        what = store.redact(" ".join(what.split()))
        return f"{what}: the search goes on without MLflow; send what is missing with `search sync {self._name}`"

    @property
    def _name(self) -> str:
        return self._paths.folder.name

    # At once --------------------------------------------------------------------------------------------------------

    def drain(self, *, dead: bool = False) -> None:
        """Ship all that is missing, here and now.

        Args:
            dead: no process runs the study: if the last one was killed, end the runs it left RUNNING.

        Raises:
            TrackingRefused, Unavailable: see `store.connect`. What has been shipped until then need not be again.
            JournalError: the journal cannot be read.
        """
        while not self.sync_once():
            pass
        if dead:
            self._pending = dict(self._projection.abandoned())
            self._ship_pending(self._connected())

    def sync_once(self, *, models: bool = True) -> bool:
        """Ship one batch of records, and with `models` the best trials' weights; whether nothing is left.

        Raises what `drain` raises. What could not be shipped is shipped first the next time.
        """
        shipper = self._connected()
        whole = not self._pending and self._take() < LIMIT
        if self._pending:
            self._ship_pending(shipper)
            self._models_due = True
        if self._pending:
            return False  # told to stop
        if self._position.offset != self._offset:
            self._position.uid, self._position.offset = self._projection.study.uid, self._offset
            self._position.save(self._paths.tracking)
        if whole and models and self._models_due and not self._stopped.is_set():
            self._ship_files(shipper)
        return whole

    def _take(self) -> int:
        """Read the next records; how many there were."""
        count = 0
        for entry in islice(journal.read(self._paths.journal, self._offset), LIMIT):
            self._offset = entry.end
            count += 1
            for run, change in self._projection.take(entry):
                if run in self._pending:
                    self._pending[run].merge(change)
                else:
                    self._pending[run] = change
        return count

    def _ship_pending(self, shipper: Shipper) -> None:
        while self._pending and not self._stopped.is_set():
            run = next(iter(self._pending))
            try:
                shipper.ship(run, self._pending[run])
            except Rejected as error:
                who = "the study" if run is None else f"trial {run}"
                self._warn_once("run", f"MLflow does not take what it is told of {who} ({error}): left out")
            del self._pending[run]

    def _ship_files(self, shipper: Shipper) -> None:
        try:
            self._ship_page(shipper)
            try:
                shipper.settle()
                shipper.ship_space()
                shipper.ship_models(self._keep_models)
            except Rejected as error:
                shipper.reach()  # else a proxy said so
                self._warn_once(
                    "files", f"MLflow's artifact store does not take files ({error}): weights stay in {self._name} only"
                )
            self._ship_winner(shipper)
        finally:
            self._position.save(self._paths.tracking)
        self._models_due = False

    def _ship_page(self, shipper: Shipper) -> None:
        try:
            shipper.ship_page()
        except Rejected:
            shipper.reach()
        except TrackingRefused:
            pass  # `search ui` does without

    def _ship_winner(self, shipper: Shipper) -> None:
        try:
            shipper.ship_winner()
        except (Rejected, TrackingRefused) as error:
            shipper.reach()
            self._warn_once("winner", f"MLflow does not take the best model ({error}): it is {self._paths.model}")

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(message)

    # The beginning --------------------------------------------------------------------------------------------------

    def _connected(self) -> Shipper:
        """The way to MLflow, opened at the first call; TrackingRefused or Unavailable where there is none."""
        if self._shipper is None:
            self._shipper = self._open()
        return self._shipper

    def _open(self) -> Shipper:
        file = store.local_database(self._uri)
        if file is not None:
            store.prepare()
            note = database.initialise(file)
            if note is not None:
                self._warn_once("note", note)
            database.relocate(file, store.artifact_root(file))
        client = store.connect(self._uri)
        position = Position.load(self._paths.tracking)
        projection = self._fold(position)
        if projection is not None:
            shipper = self._shipper_of(client, projection, position)
            if shipper.holds():
                self._projection, self._position, self._offset = projection, position, position.offset
                return shipper
        self._projection, self._offset = Projection(), 0
        self._position = Position(uri=store.redact(self._uri))
        return self._shipper_of(client, self._projection, self._position)

    def _shipper_of(self, client: Any, projection: Projection, position: Position) -> Shipper:
        return Shipper(client, self._paths, projection, position, self._experiment, self._register)

    def _fold(self, position: Position) -> Projection | None:
        """The study up to `position`; None where that is not of this journal, or of another store."""
        if position.uri != store.redact(self._uri):
            return None
        projection, end = Projection(), 0
        for entry in journal.read(self._paths.journal):
            if entry.end > position.offset:
                break
            projection.take(entry)
            end = entry.end
        if end == 0 or end != position.offset or projection.study.uid != position.uid:
            return None
        return projection
