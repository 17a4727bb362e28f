"""The simulated work of one worker: a segment, or a final evaluation, and the checkpoints on its simulated disk.

A worker sends the messages of `search.worker.segment`, one for one. `search.executors.simulated` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from search.errors import Infeasible
from search.executors.scenario import Ancestors, Run, Scenario
from search.messages import Answer, Evaluate, Evaluated, Interrupt, Lost, Question, Segment, Verdict, WorkCommand
from search.space.domain import Value
from search.space.file import describe_error
from search.study.records import Built, Checkpointed, EpochDone, Outcome, SegmentEnded
from search.worker.channel import Interrupted

__all__ = ["Disk", "SimulatedCheckpoint", "SimulatedEvaluation", "SimulatedSegment", "epoch_done", "inherited_folder"]


@dataclass(frozen=True, slots=True)
class SimulatedCheckpoint:
    """The state of one execution of a trial on a simulated disk.

    Attributes:
        history: its epochs so far.
        best: (epoch, value) of the best of them.
        stopped_by_callback: whether a user's callback has ended the training.
        owner: the (training seed, values) of the training that may restore it; None if any may.
        ancestors: the trainings that this one has continued; see `Run`.
        bytes: the size of the file.
    """

    history: tuple[EpochDone, ...]
    best: tuple[int, float] | None
    stopped_by_callback: bool = False
    owner: tuple[int, dict[str, Value]] | None = None
    ancestors: Ancestors = ()
    bytes: int = 0

    @property
    def epoch(self) -> int:
        """Number of trained epochs."""
        return self.history[-1].epoch if self.history else 0


Disk = dict[tuple[str, int], SimulatedCheckpoint]
"""Checkpoints by (trial folder, execution).

The folder of a checkpoint that a trial has from its parent is that of `inherited_folder`.
"""


def inherited_folder(child: str) -> str:
    """Return the place on a `Disk` of what a trial, whose folder is `child`, has from its parent."""
    return f"{child}/parent"


FromWorker = Question | Built | EpochDone | Checkpointed | SegmentEnded | Evaluated | Lost
Activity = Generator[FromWorker | float | None, WorkCommand | None, None]
"""A worker's activity: it yields messages to send, seconds that pass, and None to wait for a message."""

LAST_MESSAGES = (SegmentEnded, Evaluated, Lost)
RUNNER = "simulated"


class _Failed(Exception):
    """An exception of the user's code, with its text."""


class _Refused(Exception):
    """An answer that is an error, with its text."""


class _Died(Exception):
    """The death of the worker's process."""


def epoch_done(scenario: Scenario, run: Run, epoch: int) -> EpochDone:
    """Return the record of an epoch."""
    logs = {scenario.metric: scenario.value(run, epoch)}
    seconds = max(0.0, float(scenario.seconds(run) * scenario.pace(run, epoch)))
    return EpochDone(run.trial, run.execution, epoch, logs, seconds)


class SimulatedSegment:
    """The simulation of a segment.

    Args:
        attempt: how often the trial was started, this time included.
        now: the clock.
        slowness: the factor by which the worker's node takes longer now.
        trains: called before each epoch that is trained, with the segment and the epoch.
    """

    def __init__(
        self,
        segment: Segment,
        scenario: Scenario,
        disk: Disk,
        attempt: int,
        now: Callable[[], float],
        slowness: Callable[[], float],
        trains: Callable[[Segment, int], None],
    ) -> None:
        self.interrupted = False
        self.run = Run(segment.values, segment.trial, segment.execution, segment.seed)
        self._segment = segment
        self._epoch = segment.begins_after
        self.scenario = scenario
        self._disk = disk
        self._now = now
        self._slowness = slowness
        self._trains = trains
        self._saved = 0.0
        self._dies = scenario.dies(segment.trial, attempt)
        self._fails: int | None = None
        self._finishes: int | None = None
        self._history: list[EpochDone] = []
        self._best: tuple[int, float] | None = None
        self._outcome: Outcome = "reached"
        self._error: str | None = None

    def act(self) -> Activity:
        segment = self._segment
        epoch, outcome, error = segment.from_epoch, self._outcome, None
        try:
            yield from self._train()
            epoch, outcome, error = self._epoch, self._outcome, self._error
        except Interrupted:
            outcome = "interrupted"
        except (_Failed, _Refused) as failure:
            outcome, error = "raised" if isinstance(failure, _Failed) else "failed", str(failure)
        except Infeasible as refusal:
            outcome, error = "infeasible", str(refusal)
        except _Died:
            yield Lost("its process was ended")
            return
        yield SegmentEnded(segment.trial, segment.execution, outcome, epoch, error)

    def _train(self) -> Activity:
        began = self._now()
        yield from self._build()
        seconds = round(self._now() - began, 4)
        yield Built(self._segment.trial, self.scenario.size(self.run), RUNNER, seconds=seconds)
        yield from self._restore()
        while self._epoch < self._segment.to_epoch and self._outcome == "reached":
            yield from self._train_epoch()

    def _build(self) -> Activity:
        scenario, run = self.scenario, self.run
        while True:
            try:
                question = scenario.question(run)
            except Infeasible:
                raise
            except Exception as error:
                raise _Failed(describe_error(error)) from None
            if question is None:
                break
            yield Question(self._segment.trial, question)
            answer = yield from self._receive()
            if not isinstance(answer, Answer):
                raise Interrupted
            if answer.error is not None:
                raise _Refused(answer.error)
            run[question.name] = answer.value
        yield float(scenario.build(run)) * self._slowness()
        self._check_feasible()
        self._fails, self._finishes = scenario.fails(run), scenario.finishes(run)
        if self._dies == 0:
            raise _Died
        if self._fails == 0:
            raise _Failed("ValueError: the model cannot be built")
        self._saved = self._now()

    def _check_feasible(self) -> None:
        """Raise Infeasible if the factory refuses the values, or if a new trial's model is too large."""
        if self.scenario.infeasible(self.run):
            raise Infeasible("the factory refuses these values")
        self._segment.check_size(self.scenario.size(self.run))

    def _restore(self) -> Activity:
        """Continue from the checkpoint if there is one, and report the epochs that the journal has missed."""
        segment = self._segment
        saved = self._disk.get((segment.folder, segment.execution))
        if saved is None or saved.owner not in (None, self._owner()) or saved.epoch > segment.to_epoch:
            self._best = segment.best
            self._inherit()
            return
        self._history, self._best, self._epoch = list(saved.history), saved.best, saved.epoch
        self.run.ancestors = saved.ancestors
        if saved.stopped_by_callback:
            self._outcome = "stopped_by_callback"
        for record in saved.history[max(0, segment.from_epoch - segment.begins_after) :]:
            yield record
            if (yield from self._wait_for_stop(record.epoch)):
                self._outcome = "stopped"
        yield self._checkpointed()

    def _inherit(self) -> None:
        """Begin with the state that the parent has handed on, if the trial has a parent."""
        parent = self._segment.inherited
        if parent is None:
            return
        saved = self._disk.get((inherited_folder(self._segment.folder), parent.execution))
        if saved is None or saved.epoch != parent.epoch or (saved.owner is not None and saved.owner[0] != parent.seed):
            claim = f"trial {self._segment.trial} cannot continue trial {parent.trial} after epoch {parent.epoch}"
            raise _Refused(f"{claim}: there is no such state")
        values = saved.owner[1] if saved.owner is not None else {}
        self.run.ancestors = (*saved.ancestors, (parent.epoch, values))

    def _train_epoch(self) -> Activity:
        epoch = self._epoch + 1
        self._trains(self._segment, epoch)
        record = epoch_done(self.scenario, self.run, epoch)
        if (slowness := self._slowness()) != 1.0:
            record = replace(record, seconds=record.seconds * slowness)
        yield record.seconds
        if epoch == self._dies:
            raise _Died
        if epoch == self._fails:
            raise _Failed("ValueError: the training cannot go on")
        self._history.append(record)
        self._epoch = epoch
        if self._diverged(record):
            yield record
            return
        self._note_best(record)
        yield record
        stopped = yield from self._wait_for_stop(epoch)
        if self._finishes is not None and epoch >= self._finishes:
            self._outcome = "stopped_by_callback"
        elif stopped:
            self._outcome = "stopped"
        elif epoch < self._segment.to_epoch and self.interrupted:
            self._outcome = "interrupted"
        ends = epoch >= self._segment.to_epoch or self._outcome != "reached"
        if ends or self._now() - self._saved >= self._segment.checkpoint_every:
            if (seconds := float(self.scenario.saving(self.run))) > 0.0:
                yield seconds  # if the worker dies meanwhile, the checkpoint before stands
            yield self._save()

    def _diverged(self, record: EpochDone) -> bool:
        for name in ("loss", self._segment.objective.name):
            if not math.isfinite(record.logs.get(name, 0.0)):
                self._outcome = "failed"
                self._error = f"diverged: {name} is {record.logs[name]} at epoch {record.epoch}"
                return True
        return False

    def _note_best(self, record: EpochDone) -> None:
        value = record.logs.get(self._segment.objective.name)
        if value is not None and self._segment.objective.better(value, self._best[1] if self._best else None):
            self._best = record.epoch, value

    def _save(self) -> Checkpointed:
        history, stopped_by_callback = tuple(self._history), self._outcome == "stopped_by_callback"
        self._disk[self._segment.folder, self._segment.execution] = SimulatedCheckpoint(
            history,
            self._best,
            stopped_by_callback,
            self._owner(),
            self.run.ancestors,
            self.scenario.bytes(self.run),
        )
        self._saved = self._now()
        return self._checkpointed()

    def _checkpointed(self) -> Checkpointed:
        best = self._best[0] if self._best else None
        stopped_by_callback = self._outcome == "stopped_by_callback"
        return Checkpointed(
            self._segment.trial,
            self._segment.execution,
            self._epoch,
            best,
            stopped_by_callback,
            self.scenario.bytes(self.run),
        )

    def _owner(self) -> tuple[int, dict[str, Value]]:
        return self._segment.seed, dict(self.run)

    def _wait_for_stop(self, epoch: int) -> Generator[None, WorkCommand | None, bool]:
        """Wait for a verdict on `epoch` if one is due, and return whether the trial is to stop."""
        if not self._segment.judged or epoch >= self._segment.to_epoch:
            return False
        try:
            verdict = yield from self._receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _receive(self) -> Generator[None, WorkCommand | None, WorkCommand | None]:
        message = yield None
        if isinstance(message, Interrupt):
            raise Interrupted
        return message


class SimulatedEvaluation:
    """The simulation of a final evaluation, which has no test data and no model, and takes no time."""

    interrupted = False

    def __init__(self, work: Evaluate, scenario: Scenario) -> None:
        self.run = Run(work.values, work.trial)
        self.scenario = scenario

    def act(self) -> Activity:
        yield Evaluated(self.run.trial)
