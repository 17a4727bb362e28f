"""A study: the fold of its journal.

`Study.apply` is the only thing that changes a study or a trial. The driver applies each record as it journals it;
whoever reads a journal applies the same records and has the same study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search import journal
from search.domain import Parameter, Value
from search.errors import JournalError
from search.records import (
    FORMAT,
    Asked,
    Began,
    Built,
    Checkpointed,
    Ended,
    EpochDone,
    Era,
    Finished,
    Header,
    Judged,
    Learnt,
    Record,
    SpaceChanged,
    Started,
    Told,
    TrialEnded,
    Valued,
)
from search.trial import Objective, State


@dataclass(slots=True)
class Trial:
    """One assignment of hyperparameters and its one learning curve, as journaled so far.

    Attributes:
        params: the values that were used, by name.
        parameters: what was asked, in order.
        era: the number of the back end's era that asked for it.
        from_epoch, to_epoch: the last suggestion; `open` until the back end is told of its end.
        slot: where a segment runs now, None where none does.
        curve: one record an epoch; where an epoch was trained twice, the first.
        trained: epochs actually trained, repeats after crashes included.
        objective, best_epoch: the best value so far and its 1-based epoch; None where there is none.
        checkpoint: the last epoch whose state is on disk, 0 for none.
        saved_epoch: the epoch of the best weights on disk.
        exhausted: a callback of the user's ended the training; there are no more epochs to be had.
        failed: an exception or a diverged loss ended the training, or its process died too often.
        lost: how often its process died since it last made progress.
        stop_decided: the back end has decided that the trial stops where it is.
        given: the values that the user wants tried, by name.
    """

    number: int
    seed: int
    era: int
    from_epoch: int = 0
    to_epoch: int = 0
    bracket: int | None = None
    rung: int | None = None
    judged: bool = False
    open: bool = False
    given: Mapping[str, Value] = field(default_factory=dict)
    slot: int | None = None
    params: dict[str, Value] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    built: bool = False
    parameter_count: int | None = None
    runner: str | None = None
    curve: list[EpochDone] = field(default_factory=list)
    trained: int = 0
    objective: float | None = None
    best_epoch: int | None = None
    checkpoint: int = 0
    saved_epoch: int | None = None
    segments: int = 0
    lost: int = 0
    stop_decided: bool = False
    exhausted: bool = False
    failed: bool = False
    error: str | None = None
    ended: State | None = None
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def epochs(self) -> int:
        """Epochs trained so far, each counted once."""
        return len(self.curve)

    @property
    def state(self) -> State:
        if self.ended is not None:
            return self.ended
        return "running" if self.slot is not None else "paused"

    @property
    def seconds(self) -> float:
        """Seconds of training and validation, each epoch counted once."""
        return sum(epoch.seconds for epoch in self.curve)


class Study:
    """What a journal says: its header, its trials, and how its processes fared.

    `learnt` holds trials of other studies, by (uid, number) there: only back ends see them, to learn from them.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.digest = ""
        self.parameters: tuple[Parameter, ...] = ()
        self.objective = Objective("", "min")
        self.eras: list[Era] = []
        self.trials: dict[int, Trial] = {}
        self.learnt: dict[tuple[str, int], Trial] = {}
        self.began: Began | None = None
        self.finished: Finished | None = None
        self.epochs = 0
        self.trained = 0
        self.best: Trial | None = None
        self._seconds_before = 0.0
        self._began_at: float | None = None
        self._last_at = 0.0

    # Reading --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._header.study

    @property
    def uid(self) -> str:
        return self._header.uid

    @property
    def seed(self) -> int:
        return self._header.seed

    @property
    def era(self) -> int:
        """The number of the current era, -1 before the first."""
        return len(self.eras) - 1

    @property
    def _header(self) -> Header:
        if self.header is None:
            raise JournalError("no header was journaled yet")
        return self.header

    def seconds(self, now: float | None = None) -> float:
        """Seconds that the search has run, over all its processes; up to `now`, else to the last record."""
        if self._began_at is None:
            return self._seconds_before
        return self._seconds_before + max(0.0, (self._last_at if now is None else now) - self._began_at)

    def ranked(self) -> list[Trial]:
        """The trials that have an objective and did not fail, best first; the older one first where two are equal."""
        found = [trial for trial in self.trials.values() if trial.objective is not None and trial.ended != "failed"]
        return sorted(found, key=lambda trial: (self.objective.cost(trial.objective), trial.number))

    # The fold -------------------------------------------------------------------------------------------------------

    def apply(self, record: Record, time: float) -> None:
        """Take in one record, written at `time`."""
        previous, self._last_at = self._last_at, time
        match record:
            case EpochDone():
                self._epoch(record)
            case Valued():
                trial = self.trials[record.trial]
                trial.params[record.parameter.name] = record.value
                trial.parameters.append(record.parameter)
            case Asked():
                self._asked(record, time)
            case Started():
                trial = self.trials[record.trial]
                trial.slot = record.slot
                trial.segments += 1
            case Built():
                trial = self.trials[record.trial]
                trial.built, trial.parameter_count, trial.runner = True, record.parameters, record.runner
            case Checkpointed():
                trial = self.trials[record.trial]
                trial.checkpoint, trial.saved_epoch = record.epoch, record.best_epoch
                trial.exhausted |= record.finished
            case Ended():
                self._segment_ended(record)
            case Told():
                self._told(record)
            case TrialEnded():
                trial = self.trials[record.trial]
                trial.ended, trial.ended_at = record.state, time
                if record.state == "failed" and self.best is trial:
                    self.best = next(iter(self.ranked()), None)
            case Judged():
                self.trials[record.trial].stop_decided |= record.stop
            case _:
                self._process(record, time, previous)

    def _process(self, record: Record, time: float, previous: float) -> None:
        match record:
            case Header():
                if record.format > FORMAT:
                    raise JournalError(
                        f"study {record.study!r} was written in format {record.format} by a newer version of search, "
                        f"this one reads up to {FORMAT}: upgrade keras-search"
                    )
                self.header, self.digest, self.parameters = record, record.digest, record.parameters
                self.objective = Objective(record.objective, record.direction)
            case SpaceChanged():
                self.digest, self.parameters = record.digest, record.parameters
            case Era():
                self.eras.append(record)
            case Learnt():
                self.learnt[record.source, record.number] = self._foreign(record)
            case Began():
                # A process that was killed ran until its last record.
                self._seconds_before, self._began_at = self.seconds(previous), time
                self.began, self.finished = record, None
                for trial in self.trials.values():
                    trial.slot = None
            case Finished():
                self.finished = record
                self._seconds_before, self._began_at = self.seconds(), None

    def _foreign(self, record: Learnt) -> Trial:
        """The trial of another study that `record` tells of."""
        trial = Trial(record.number, seed=0, era=-1, params=dict(record.params), parameters=list(record.parameters))
        name = self.objective.name
        trial.curve = [EpochDone(record.number, 0, e, {name: value}, 0.0) for e, value in enumerate(record.curve, 1)]
        trial.objective = self.objective.best(record.curve)
        trial.ended = None if record.state in ("running", "paused") else record.state
        trial.failed, trial.exhausted = record.state == "failed", record.finished
        return trial

    def _asked(self, record: Asked, time: float) -> None:
        trial = self.trials.get(record.trial)
        if trial is None:
            trial = self.trials[record.trial] = Trial(record.trial, record.seed, self.era, began_at=time)
            trial.given = record.given
        trial.from_epoch, trial.to_epoch = record.from_epoch, record.to_epoch
        trial.bracket, trial.rung, trial.judged = record.bracket, record.rung, record.judged
        trial.open = True

    def _epoch(self, record: EpochDone) -> None:
        trial = self.trials[record.trial]
        trial.trained += 1
        self.trained += 1
        if record.epoch != trial.epochs + 1:
            return  # trained again after a crash: the first record stands
        trial.curve.append(record)
        trial.lost = 0
        self.epochs += 1
        value = record.logs.get(self.objective.name)
        if value is None or not math.isfinite(value) or not self.objective.better(value, trial.objective):
            return
        trial.objective, trial.best_epoch = value, record.epoch
        if self.best is None or self.objective.better(value, self.best.objective):
            self.best = trial

    def _segment_ended(self, record: Ended) -> None:
        trial = self.trials[record.trial]
        trial.slot = None
        if record.outcome == "lost":
            trial.lost += 1
        if record.outcome == "reached":
            # A segment leaves a checkpoint at its end, though the record of it may be lost.
            trial.checkpoint = max(trial.checkpoint, record.epoch)
        trial.exhausted |= record.outcome == "finished"
        trial.failed |= record.outcome == "failed"
        if record.error is not None:
            trial.error = record.error

    def _told(self, record: Told) -> None:
        trial = self.trials[record.trial]
        trial.open = False
        trial.failed |= record.outcome == "failed"
        if not trial.failed:
            trial.error = None  # a retry made good what had gone wrong


def fold(entries: Iterable[journal.Entry]) -> Study:
    """The study that `entries` tell of."""
    study = Study()
    for entry in entries:
        study.apply(entry.record, entry.time)
    return study


def load(path: Path) -> Study:
    """The study whose journal is at `path`. JournalError where it cannot be read."""
    study = fold(journal.read(path))
    if study.header is None:
        raise JournalError(f"{path} is empty: delete its folder, and run the search again")
    return study
