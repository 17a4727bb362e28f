"""A study: the fold of its journal.

Only `Study.apply` changes a study or a trial. The driver applies each record when it journals the record. A reader of
the journal applies the same records, and so has the same study.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search.errors import JournalError
from search.space.domain import Parameter, Value
from search.study import journal
from search.study.records import (
    BackendChanged,
    Built,
    Checkpointed,
    DataLoaded,
    EpochDone,
    Exported,
    Header,
    Judged,
    ParameterSet,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    Tested,
    TimedOut,
    TrialEnded,
    TrialImported,
)
from search.study.trial import Objective, Parent, State, derive_seed


@dataclass(slots=True)
class Execution:
    """One training of a trial's model, with a seed of its own. Most trials have one execution.

    Attributes:
        curve: one record for each epoch, or for each segment of a user's `fit` that shows no epochs. If an epoch was
            trained twice, the first record stays.
        objective, best_epoch: the best value so far and its 1-based epoch; None before there is one.
        checkpoint: the last epoch whose state is on disk, 0 for none.
        begins_after: the epoch of the parent's that the curve continues, 0 without a parent.
        saved_epoch: the epoch of the best weights on disk.
        exhausted: a callback of the user's ended the training, so there are no more epochs.
    """

    curve: list[EpochDone] = field(default_factory=list)
    objective: float | None = None
    best_epoch: int | None = None
    checkpoint: int = 0
    saved_epoch: int | None = None
    exhausted: bool = False
    begins_after: int = 0

    @classmethod
    def after(cls, epoch: int) -> Execution:
        """Return a new execution that continues a parent's after `epoch`, whose state is on disk."""
        return cls(checkpoint=epoch, begins_after=epoch)

    @property
    def epochs(self) -> int:
        """Epochs trained so far, each counted once; those of a parent count, too."""
        return self.curve[-1].epoch if self.curve else self.begins_after

    @property
    def own_epochs(self) -> int:
        """`epochs` without those of a parent."""
        return self.epochs - self.begins_after

    def find(self, epoch: int) -> EpochDone | None:
        """Return the record of `epoch` (1-based), or None if there is none."""
        place = epoch - self.begins_after - 1
        if 0 <= place < len(self.curve) and self.curve[place].epoch == epoch:
            return self.curve[place]
        return next((record for record in self.curve if record.epoch == epoch), None)


@dataclass(slots=True)
class Trial:
    """One assignment of hyperparameters and its learning curve, as journaled so far.

    Attributes:
        params: the used values, by name.
        parameters: the hyperparameters that the factory asked for, in order.
        phase: the number of the back end phase that asked for the trial.
        from_epoch, to_epoch: the last suggestion; `open` until the back end is told its result.
        initial_values: the values that the user wants tried, by name.
        parent: the trial with whose state this one began, or None.
        slot: the slot of the running segment, or None.
        planned: the number of executions that the trial shall have.
        executions: the executions begun so far.
        black_box: a user's `fit` shows only its result, so its epochs are unknown: `epochs` are those that it was asked
            for.
        trained: epochs actually trained, over all executions, those that were trained again included.
        objective: the mean of the executions' best values; None until each planned execution has one.
        failed: the training failed for good, or an exception ended it or its process died too often.
        raised: how often an exception of the user's code ended a segment.
        raising: such an exception ended the last segment, and none has been started since.
        lost: how often the process died, or ran out of memory, since the trial last made progress.
        alone: the trial ran out of memory, so nothing else runs beside it on its device.
        timed_out: the trial has used up its time, and ends with the running epoch.
        busy: seconds that its ended segments ran.
        stop_decided: the back end has decided that the trial stops here.
        tested: the result of its best weights on the test data.
    """

    number: int
    seed: int
    phase: int
    from_epoch: int = 0
    to_epoch: int = 0
    bracket: int | None = None
    rung: int | None = None
    judged: bool = False
    open: bool = False
    initial_values: Mapping[str, Value] = field(default_factory=dict)
    slot: int | None = None
    planned: int = 1
    executions: list[Execution] = field(default_factory=lambda: [Execution()])
    params: dict[str, Value] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    built: bool = False
    weight_count: int | None = None
    best_execution: int = 0
    runner: str | None = None
    own_fit: bool = False
    black_box: bool = False
    trained: int = 0
    objective: float | None = None
    segments: int = 0
    lost: int = 0
    alone: bool = False
    timed_out: bool = False
    busy: float = 0.0
    started_at: float | None = None
    stop_decided: bool = False
    failed: bool = False
    raised: int = 0
    raising: bool = False
    error: str | None = None
    ended: State | None = None
    began_at: float | None = None
    ended_at: float | None = None
    tested: Tested | None = None
    parent: Parent | None = None

    @property
    def curve(self) -> list[EpochDone]:
        """The learning curve of the first execution."""
        return self.executions[0].curve

    @property
    def epochs(self) -> int:
        """Epochs of the first execution so far, each counted once; those of a parent count, too."""
        return self.executions[0].epochs

    @property
    def known_epochs(self) -> int | None:
        """`epochs`, or None if they are unknown."""
        return None if self.black_box else self.epochs

    @property
    def unused_initial_values(self) -> dict[str, Value]:
        """The initial values that the trial's code did not ask for, by name; empty while it may still ask."""
        asked = self.built and (not self.own_fit or self.trained > 0 or self.ended is not None)
        return {name: value for name, value in self.initial_values.items() if asked and name not in self.params}

    @property
    def exhausted(self) -> bool:
        """True if callbacks of the user's have ended the training of every execution."""
        return len(self.executions) == self.planned and all(execution.exhausted for execution in self.executions)

    @property
    def unfinished(self) -> int | None:
        """The execution to train next to fulfil the last suggestion; None if the suggestion is fulfilled."""
        for number, execution in enumerate(self.executions):
            if not execution.exhausted and execution.checkpoint < self.to_epoch:
                return number
        return len(self.executions) if len(self.executions) < self.planned else None

    def execution(self, number: int) -> Execution:
        """Return execution `number`; it begins here if it is new."""
        while len(self.executions) <= number:
            self.executions.append(Execution.after(self.parent.epoch(len(self.executions)) if self.parent else 0))
        return self.executions[number]

    @property
    def best(self) -> Execution:
        """The execution with the best objective, whose model stands for the trial."""
        return self.executions[self.best_execution]

    @property
    def best_epoch(self) -> int | None:
        """The 1-based epoch of the best value; None if there is none, or if the epochs are unknown."""
        return None if self.black_box else self.best.best_epoch

    @property
    def values(self) -> list[float]:
        """The best value of each execution that has one."""
        return [execution.objective for execution in self.executions if execution.objective is not None]

    @property
    def score(self) -> float | None:
        """The mean of `values`; None if there are none."""
        values = self.values
        if len(values) == 1:
            return values[0]  # the usual case, twenty times as fast
        return statistics.fmean(values) if values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of `values` (with n − 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def state(self) -> State:
        """The state of the trial; see `State`."""
        if self.ended is not None:
            return self.ended
        return "running" if self.slot is not None else "paused"

    def running(self, now: float) -> float:
        """Return the seconds that segments of the trial ran up to `now`, builds and waits included."""
        return self.busy + (max(0.0, now - self.started_at) if self.started_at is not None else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation, each epoch counted once."""
        return sum(epoch.seconds for execution in self.executions for epoch in execution.curve)


class Study:
    """The header, the trials and the processes of one search, as its journal tells.

    Attributes:
        header: the journal's first record; None before it is applied.
        digest, parameters: those of the space, as of its last change.
        phases: the back ends that took over, in order, with their options.
        trials: by number.
        data: the fingerprints of the data that the study began with, by `DataLoaded.key`.
        imported: trials of other studies, by (uid, number) there; only back ends see them, to learn from them.
        start, end: the last process's; `end` is None while that process runs, or if it was killed.
        epochs: epochs over all executions, each counted once.
        trained: epochs actually trained, those that were trained again included.
        best: the best trial that did not fail, or None.
        exported: the winner's file, or None.
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
        self.start: SearchStarted | None = None
        self.end: SearchEnded | None = None
        self.epochs = 0
        self.trained = 0
        self.best: Trial | None = None
        self.exported: Exported | None = None
        self._seconds_before = 0.0
        self._started_at: float | None = None
        self._last_at = 0.0

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
    def phase(self) -> int:
        """The number of the current back end phase, -1 before the first."""
        return len(self.phases) - 1

    @property
    def _header(self) -> Header:
        if self.header is None:
            raise JournalError("no header was journaled yet")
        return self.header

    @property
    def known_epochs(self) -> int | None:
        """`epochs`, or None if those of a trial are unknown."""
        return None if any(trial.black_box for trial in self.trials.values()) else self.epochs

    def seconds(self, now: float | None = None) -> float:
        """Return the seconds that the search ran over all its processes, up to `now` or else to the last record."""
        if self._started_at is None:
            return self._seconds_before
        return self._seconds_before + max(0.0, (self._last_at if now is None else now) - self._started_at)

    def training_seed(self, trial: int, execution: int) -> int:
        """Return the training seed of an execution of a trial."""
        return self.trials[trial].seed if execution == 0 else derive_seed(self.seed, "train", trial, execution)

    def ranked(self, count: int | None = None) -> list[Trial]:
        """Return the trials that have an objective and did not fail, best first; of two equals the older one first.

        Args:
            count: the most trials to return; all by default.
        """
        found = [trial for trial in self.trials.values() if trial.objective is not None and trial.ended != "failed"]
        return heapq.nsmallest(
            len(found) if count is None else count,
            found,
            key=lambda trial: (self.objective.cost(trial.objective), trial.number),
        )

    # The fold -------------------------------------------------------------------------------------------------------

    def apply(self, record: Record, time: float) -> None:
        """Apply one record, which was written at `time` (seconds since the epoch)."""
        previous, self._last_at = self._last_at, time
        match record:
            case EpochDone():
                self._epoch(record)
            case ParameterSet():
                trial = self.trials[record.trial]
                trial.params[record.parameter.name] = record.value
                trial.parameters.append(record.parameter)
            case SegmentRequested():
                self._requested(record, time)
            case SegmentStarted():
                trial = self.trials[record.trial]
                trial.slot, trial.started_at, trial.raising = record.slot, time, False
                trial.segments += 1
                trial.execution(record.execution)
            case Built():
                trial = self.trials[record.trial]
                trial.built, trial.weight_count, trial.runner = True, record.weight_count, record.runner
                trial.own_fit, trial.black_box = record.own_fit, record.black_box
            case Checkpointed():
                execution = self.trials[record.trial].execution(record.execution)
                execution.checkpoint, execution.saved_epoch = record.epoch, record.best_epoch
                execution.exhausted |= record.stopped_by_callback
            case SegmentEnded():
                self._segment_ended(record, time)
            case TimedOut():
                trial = self.trials[record.trial]
                trial.timed_out, trial.error = True, record.reason
            case ResultTold():
                self._result_told(record)
            case TrialEnded():
                trial = self.trials[record.trial]
                trial.ended, trial.ended_at = record.state, time
                if record.state == "failed" and self.best is trial:
                    self.best = next(iter(self.ranked(1)), None)
            case Judged():
                self.trials[record.trial].stop_decided |= record.stop
            case Tested():
                self.trials[record.trial].tested = record
            case Exported():
                self.exported = record
            case _:
                self._apply_rare(record, time, previous)

    def _apply_rare(self, record: Record, time: float, previous: float) -> None:
        match record:
            case Header():
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
                self._seconds_before, self._started_at = self.seconds(previous), time
                self.start, self.end = record, None
                for trial in self.trials.values():
                    trial.busy, trial.slot, trial.started_at = trial.running(previous), None, None
            case SearchEnded():
                self.end = record
                self._seconds_before, self._started_at = self.seconds(), None

    def _imported(self, record: TrialImported) -> Trial:
        """Return the trial of another study that `record` describes."""
        trial = Trial(record.number, seed=0, phase=-1, params=dict(record.params), parameters=list(record.parameters))
        name = self.objective.name
        execution = trial.executions[0]
        execution.begins_after = record.begins_after
        execution.curve = [
            EpochDone(record.number, 0, epoch, {name: value}, 0.0)
            for epoch, value in enumerate(record.curve, record.begins_after + 1)
        ]
        execution.objective = trial.objective = self.objective.best(record.curve)
        execution.exhausted = record.stopped_by_callback
        trial.ended = None if record.state in ("running", "paused") else record.state
        trial.failed = record.state == "failed"
        return trial

    def _requested(self, record: SegmentRequested, time: float) -> None:
        trial = self.trials.get(record.trial)
        if trial is None:
            trial = self.trials[record.trial] = Trial(record.trial, record.seed, self.phase, began_at=time)
            trial.initial_values = record.initial_values
            if record.parent is not None:
                epochs = tuple(execution.epochs for execution in self.trials[record.parent].executions)
                trial.parent = Parent(record.parent, epochs, record.values)
                trial.executions = [Execution.after(trial.parent.epoch(0))]
        trial.from_epoch, trial.to_epoch = record.from_epoch, record.to_epoch
        trial.bracket, trial.rung, trial.judged = record.bracket, record.rung, record.judged
        trial.planned = max(record.executions, len(trial.executions))
        trial.open = True

    def _epoch(self, record: EpochDone) -> None:
        trial = self.trials[record.trial]
        trial.trained += record.trained
        self.trained += record.trained
        execution = trial.execution(record.execution)
        if record.epoch <= execution.epochs:
            return  # trained again after a crash: the first record stays
        self.epochs += record.epoch - execution.epochs
        execution.curve.append(record)
        trial.lost = 0
        value = record.logs.get(self.objective.name)
        if value is None or not math.isfinite(value) or not self.objective.better(value, execution.objective):
            return
        execution.objective, execution.best_epoch = value, record.epoch
        if self.objective.better(value, trial.best.objective):
            trial.best_execution = record.execution
        if trial.planned == 1 or len(trial.values) == trial.planned:
            self._scored(trial, trial.score)

    def _scored(self, trial: Trial, score: float | None) -> None:
        before, trial.objective = trial.objective, score
        if self.best is trial and before is not None and self.objective.cost(score) > self.objective.cost(before):
            self.best = self.ranked(1)[0]  # a mean over more executions may be worse
        elif score is not None and (self.best is None or self.objective.better(score, self.best.objective)):
            self.best = trial

    def _segment_ended(self, record: SegmentEnded, time: float) -> None:
        trial = self.trials[record.trial]
        trial.busy, trial.slot, trial.started_at = trial.running(time), None, None
        trial.lost += record.outcome in ("lost", "no_memory")
        trial.alone |= record.outcome == "no_memory"
        execution = trial.execution(record.execution)
        if record.outcome == "reached":
            # A segment leaves a checkpoint at its end, even if the record of that checkpoint was lost.
            execution.checkpoint = max(execution.checkpoint, record.epoch)
        execution.exhausted |= record.outcome == "stopped_by_callback"
        trial.failed |= record.outcome in ("failed", "fatal")
        trial.raising = record.outcome == "raised"
        trial.raised += trial.raising
        if record.error is not None:
            trial.error = record.error

    def _result_told(self, record: ResultTold) -> None:
        trial = self.trials[record.trial]
        trial.open = False
        trial.failed |= record.outcome == "failed"
        if trial.objective is None and not trial.failed:
            self._scored(trial, record.score)  # it stopped before its other executions
        if not trial.failed and not trial.timed_out:
            trial.error = None  # a retry succeeded


def fold(entries: Iterable[journal.Entry]) -> Study:
    """Return the study that `entries` describe."""
    study = Study()
    with journal.uncollected():
        for entry in entries:
            study.apply(entry.record, entry.time)
    return study


def read_study(path: Path) -> Study:
    """Return the study whose journal is at `path`. JournalError if it cannot be read."""
    study = fold(journal.read(path))
    if study.header is None:
        raise JournalError(f"{path} is empty: delete its folder, and run the search again")
    return study
