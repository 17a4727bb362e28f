"""A study: the fold of its journal.

Only `Study.apply` changes a study or a trial. The driver applies each record when it journals the record. A reader of
the journal applies the same records, and so has the same study.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from search.errors import JournalError
from search.space.domain import Parameter, Value
from search.study import journal
from search.study.history import Begun, Best, History
from search.study.records import (
    BackendChanged,
    Built,
    CheckpointDropped,
    Checkpointed,
    ConfigurationAdded,
    DataLoaded,
    EpochDone,
    Exported,
    Header,
    Judged,
    LimitsChanged,
    Outcome,
    ParameterSet,
    Record,
    ResultTold,
    SearchContinued,
    SearchEnded,
    SearchPaused,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    Tested,
    TimedOut,
    TrialEnded,
    TrialImported,
    TrialStopRequested,
)
from search.study.transitions import Event, UnfitRecord, next_status
from search.study.trial import Objective, Parent, derive_seed
from search.study.trials import Execution, Trial, Values


class Study:
    """The header, the trials and the processes of one search, as its journal tells.

    Attributes:
        header: the journal's first record; None before it is applied.
        digest, parameters: those of the space, as of its last change.
        phases: the back ends that took over, in order, with their options.
        trials: by number.
        data: the fingerprints of the data that the study began with, by `DataLoaded.key`.
        imported: trials of other studies, by (uid, number) there; only back ends see them, to learn from them.
        added: the configurations that the user added to a running search, in order; see `search.scheduler.initial`.
        start, end: the last process's; `end` is None while that process runs, or if it was killed.
        changed_limits: the options that the user changed while that process ran, by name.
        paused: the user paused the search, and has not let it go on.
        epochs: epochs over all executions, each counted once.
        trained: epochs actually trained, those that were trained again included.
        best: the best trial that did not fail, or None.
        history: its segments, and the changes of its best value, by time.
        exported: the winner's file, or None.

    Example:
        The study of a journal, as a follower or a stop rule sees it::

            >>> from search.plugins import Objective, Study, records
            >>> study = Study()
            >>> objective = Objective("val_loss", "min")
            >>> study.apply(records.Header(8, "uid", "digits", 0, (objective,), "", "", (), {}), time=1.0)
            >>> study.name, study.objective.name, len(study.trials)
            ('digits', 'val_loss', 0)
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.digest = ""
        self.parameters: tuple[Parameter, ...] = ()
        self.objective = Objective("", "min")
        self.phases: list[BackendChanged] = []
        self.trials: dict[int, Trial] = {}
        self.data: dict[str, Mapping[str, Mapping[str, str]]] = {}
        self.imported: dict[tuple[str, int], Trial] = {}
        self.added: list[Mapping[str, Value]] = []
        self.start: SearchStarted | None = None
        self.end: SearchEnded | None = None
        self.changed_limits: dict[str, Any] = {}
        self.paused = False
        self.epochs = 0
        self.trained = 0
        self.best: Trial | None = None
        self.history = History()
        self.exported: Exported | None = None
        self._seconds_before = 0.0
        self._started_at: float | None = None
        self._last_at = 0.0
        self._paused_before = 0.0
        self._paused_at: float | None = None

    # Reading --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The study's name."""
        return self._header.study

    @property
    def uid(self) -> str:
        """The study's unique id."""
        return self._header.uid

    @property
    def seed(self) -> int:
        """The seed that all randomness of the study follows from."""
        return self._header.seed

    @property
    def versions(self) -> Mapping[str, str]:
        """The libraries of the last process by name; "keras_backend" is among them."""
        return (self.start.versions if self.start is not None else {}) or self._header.versions

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the last process by name, with the limits that were changed since; empty before the first."""
        return {**(self.start.options if self.start is not None else {}), **self.changed_limits}

    @property
    def last_at(self) -> float:
        """The time of the last record, in seconds since the epoch; 0 before the first."""
        return self._last_at

    @property
    def phase(self) -> int:
        """The number of the current back end phase, -1 before the first."""
        return len(self.phases) - 1

    @property
    def _header(self) -> Header:
        if self.header is None:
            raise JournalError("no header was journaled yet")
        return self.header

    @property
    def is_imported(self) -> bool:
        """True if another tool has run the search; see `Header.is_imported`."""
        return self.header is not None and self.header.is_imported

    @property
    def known_epochs(self) -> int | None:
        """`epochs`, or None if those of a trial are unknown."""
        return None if any(trial.black_box for trial in self.trials.values()) else self.epochs

    def seconds(self, now: float | None = None) -> float:
        """Return the seconds that the search ran over all its processes, up to `now` or else to the last record.

        The time in which it was paused is not counted.
        """
        if self._started_at is None:
            return self._seconds_before
        return self._seconds_before + max(0.0, (self._last_at if now is None else now) - self._started_at)

    def paused_seconds(self, now: float) -> float:
        """Return the seconds in which the search was paused up to `now`."""
        return self._paused_before + (0.0 if self._paused_at is None else max(0.0, now - self._paused_at))

    def training_seed(self, trial: int, execution: int) -> int:
        """Return the training seed of the execution `execution` of `trial`, both given by number."""
        return self.trials[trial].seed if execution == 0 else derive_seed(self.seed, "train", trial, execution)

    def ranked(self, count: int | None = None) -> list[Trial]:
        """Return the trials that have an objective and did not fail, best first; of two equals the older one first.

        Args:
            count: the most trials to return; all by default.
        """
        found = [trial for trial in self.trials.values() if trial.objective is not None and trial.state != "failed"]
        return heapq.nsmallest(
            len(found) if count is None else count,
            found,
            key=lambda trial: (self.objective.cost(trial.objective), trial.number),
        )

    # The fold -------------------------------------------------------------------------------------------------------

    def apply(self, record: Record, time: float) -> None:
        """Apply one `record`, which was written at `time` (seconds since the epoch).

        Raises:
            JournalError: it cannot follow the records before it. The study is of no use any more.
        """
        previous, self._last_at = self._last_at, time
        try:
            self._apply(record, time, previous)
        except KeyError:
            raise UnfitRecord(f"trial {getattr(record, 'trial', None)} has not begun") from None

    def _apply(self, record: Record, time: float, previous: float) -> None:
        match record:
            case EpochDone():
                self._epoch(record)
            case ParameterSet():
                trial = self.trials[record.trial]
                trial.values.used[record.parameter.name] = record.value
                trial.values.parameters.append(record.parameter)
            case SegmentRequested():
                self._requested(record, time)
            case SegmentStarted():
                trial = self._move(record.trial, "started")
                trial.resources.slot, trial.resources.started_at = record.slot, time
                self.history.running[record.trial] = Begun(
                    record.trial,
                    record.execution,
                    record.slot,
                    self.seconds(time),
                    trial.progress.bracket,
                    trial.progress.rung,
                )
                trial.progress.segments += 1
                trial.begin_execution(record.execution)
            case Built():
                self.trials[record.trial].model = record
            case Checkpointed():
                execution = self.trials[record.trial].execution(record.execution)
                execution.save(record.epoch)
                execution.saved_epoch = record.best_epoch
                execution.exhausted |= record.stopped_by_callback
            case CheckpointDropped():
                for execution in self.trials[record.trial].executions:
                    execution.drop()
            case SegmentEnded():
                self._segment_ended(record, time)
            case TimedOut():
                self._move(record.trial, "out of time").end.error = record.reason
            case ResultTold():
                self._result_told(record)
            case TrialEnded():
                self._ended(record, time)
            case Judged():
                trial = self._move(record.trial, "told to stop") if record.stop else self.trials[record.trial]
            case Tested():
                trial = self.trials[record.trial]
                trial.execution(record.execution)
                trial.best.tested = record
            case Exported():
                self.trials[record.trial].execution(record.execution)
                self.exported = record
            case SpaceChanged() | BackendChanged() | TrialImported():
                # A process begins with these. If the process before was killed, it ran until its own last record.
                self._last_at = previous
                self._apply_rare(record, time, previous)
            case _:
                self._apply_rare(record, time, previous)

    def _apply_rare(self, record: Record, time: float, previous: float) -> None:
        match record:
            case Header():
                if self.header is not None:
                    raise UnfitRecord("the study has begun already")
                self.header, self.digest, self.parameters = record, record.digest, record.parameters
                self.objective = record.objective
            case SpaceChanged():
                self.digest, self.parameters = record.digest, record.parameters
            case BackendChanged():
                self.phases.append(record)
            case DataLoaded():
                self.data.setdefault(record.key, record.fingerprint)
            case TrialImported():
                self.imported[record.source, record.number] = self._imported(record)
            case SearchStarted():
                # A killed process ran until its last record.
                self._seconds_before, self._started_at = self.seconds(previous), None if self.paused else time
                self.start, self.end, self.changed_limits = record, None, {}
                self.history.starts.append(self._seconds_before)
                for trial in self.trials.values():
                    if trial.resources.slot is not None:
                        self._leave_slot(self._move(trial.number, "abandoned"), previous)
                        self.history.end(trial.number, self._seconds_before, self.epochs, None)
            case SearchEnded():
                self.end = record
                self._seconds_before, self._started_at = self.seconds(), None
            case _:
                self._apply_steering(record, time)

    def _apply_steering(self, record: Record, time: float) -> None:
        """Apply a record of the user's steering; ignore any other."""
        match record:
            case ConfigurationAdded():
                self.added.append(record.values)
            case TrialStopRequested():
                self.trials[record.trial].progress.stop_requested = True
            case SearchPaused():
                self.paused, self._paused_at = True, time
                self._seconds_before, self._started_at = self.seconds(), None
            case SearchContinued():
                self._paused_before, self._paused_at = self.paused_seconds(time), None
                self.paused, self._started_at = False, time
            case LimitsChanged():
                self.changed_limits |= record.options

    def _move(self, number: int, event: Event) -> Trial:
        """Move a trial to its status after `event`, and return the trial. UnfitRecord if that cannot happen."""
        trial = self.trials[number]
        trial.status = next_status(number, trial.status, event)
        return trial

    def _imported(self, record: TrialImported) -> Trial:
        """Return the trial of another study that `record` describes."""
        trial = Trial(record.number, seed=0, phase=-1)
        trial.status = "paused" if record.state in ("running", "paused") else record.state
        trial.values = Values(dict(record.params), list(record.parameters))
        name = self.objective.name
        execution = trial.executions[0]
        execution.begins_after = record.begins_after
        execution.curve = [
            EpochDone(record.number, 0, epoch, {name: value}, 0.0)
            for epoch, value in enumerate(record.curve, record.begins_after + 1)
        ]
        execution.objective = trial.best.objective = self.objective.best(record.curve)
        execution.exhausted = record.stopped_by_callback
        return trial

    def _requested(self, record: SegmentRequested, time: float) -> None:
        trial = self.trials.get(record.trial)
        if trial is None:
            if record.trial != len(self.trials):
                raise UnfitRecord(f"trial {record.trial} begins, and trial {len(self.trials)} has not begun")
            trial = Trial(record.trial, record.seed, self.phase, began_at=time)
            trial.values.initial, trial.extra = record.initial_values, record.extra
            if record.parent is not None:
                parent = self.trials.get(record.parent)
                if parent is None:
                    raise UnfitRecord(f"trial {record.parent} has not begun")
                epochs = tuple(execution.epochs for execution in parent.executions)
                trial.parent = Parent(record.parent, epochs, record.values)
                trial.progress.executions = [Execution.after(trial.parent.epoch(0))]
            self.trials[record.trial] = trial
        else:
            self._move(record.trial, "requested")
        progress = trial.progress
        progress.from_epoch, progress.to_epoch, progress.result = record.from_epoch, record.to_epoch, None
        progress.bracket, progress.rung, progress.judged = record.bracket, record.rung, record.judged
        progress.planned = max(record.executions, len(progress.executions))

    def _epoch(self, record: EpochDone) -> None:
        trial = self.trials[record.trial]
        trial.progress.trained += record.trained
        self.trained += record.trained
        execution = trial.execution(record.execution)
        if record.epoch <= execution.epochs:
            return  # trained again, as its state was lost or dropped: the first record stays
        self.epochs += record.epoch - execution.epochs
        execution.curve.append(record)
        trial.resources.lost = 0
        value = record.logs.get(self.objective.name)
        if value is None or not math.isfinite(value) or not self.objective.better(value, execution.objective):
            return
        execution.objective, execution.best_epoch = value, record.epoch
        if self.objective.better(value, trial.best_execution.objective):
            trial.best.execution = record.execution
        if trial.progress.planned == 1 or len(trial.scores) == trial.progress.planned:
            self._scored(trial, trial.score)

    def _scored(self, trial: Trial, score: float | None) -> None:
        before, trial.best.objective = trial.best.objective, score
        if self.best is trial and before is not None and self.objective.cost(score) > self.objective.cost(before):
            self._note_best(self.ranked(1)[0])  # a mean over more executions may be worse
        elif score is not None and self.objective.better(
            score, before if self.best is trial else None if self.best is None else self.best.objective
        ):
            self._note_best(trial)

    def _note_best(self, trial: Trial | None) -> None:
        self.best = trial
        number, value = (None, None) if trial is None else (trial.number, trial.objective)
        self.history.best.append(Best(number, value, self.seconds(), self.epochs))

    def _segment_ended(self, record: SegmentEnded, time: float) -> None:
        trial = self._move(record.trial, _END_EVENTS.get(record.outcome, "ended"))
        self._leave_slot(trial, time)
        self.history.end(record.trial, self.seconds(time), self.epochs, record.outcome)
        resources = trial.resources
        resources.lost += record.outcome in ("lost", "no_memory")
        resources.alone |= record.outcome == "no_memory"
        resources.raised += record.outcome == "raised"
        if record.peak_device_memory is not None:
            resources.peak_device_memory = max(record.peak_device_memory, resources.peak_device_memory or 0)
        execution = trial.execution(record.execution)
        if record.outcome == "reached":
            # A segment leaves a checkpoint at its end, even if the record of that checkpoint was lost.
            execution.save(max(execution.checkpoint, record.epoch))
        execution.exhausted |= record.outcome == "stopped_by_callback"
        if record.error is not None:
            trial.end.error = record.error

    def _leave_slot(self, trial: Trial, time: float) -> None:
        trial.resources.busy = trial.running(time)
        trial.resources.slot = trial.resources.started_at = None

    def _result_told(self, record: ResultTold) -> None:
        trial = self.trials[record.trial]
        timed_out = trial.status == "expired"
        self._move(record.trial, "told")
        trial.progress.result = record.outcome
        if trial.worthless:
            return
        if trial.best.objective is None:
            self._scored(trial, record.score)  # it stopped before its other executions
        if not timed_out:
            trial.end.error = None  # a retry succeeded

    def _ended(self, record: TrialEnded, time: float) -> None:
        trial = self._move(record.trial, record.state)
        trial.end.at = time
        if record.state == "failed" and self.best is trial:
            self._note_best(next(iter(self.ranked(1)), None))


_END_EVENTS: dict[Outcome, Event] = {
    "stopped": "stopped by its back end",
    "failed": "ended by a failure",
    "fatal": "ended by a failure",
    "raised": "ended by an exception",
    "infeasible": "refused",
}
"""The event in a trial's life by the outcome of its segment, if it is not "ended"."""


def fold(entries: Iterable[journal.Entry]) -> Study:
    """Return the study that `entries` describe. UnfitRecord if one of them cannot follow those before it."""
    study = Study()
    with journal.uncollected():
        for entry in entries:
            study.apply(entry.record, entry.time)
    return study


def read_study(path: Path) -> Study:
    """Return the study whose journal is at `path`. JournalError if it cannot be read."""
    study, offset = Study(), 0
    with journal.uncollected():
        for entry in journal.read(path):
            try:
                study.apply(entry.record, entry.time)
            except UnfitRecord as error:
                raise journal.DamagedLine(path, offset, str(error)) from None
            offset = entry.end
    if study.header is None:
        raise JournalError(f"{path} is empty: delete its folder, and run the search again")
    return study
