"""The `simulated` executor: no training, no processes, and a clock that jumps from one message to the next.

A whole search, including driver and journal, runs as fast as its decisions are made:

    executor = SimulatedExecutor(Scenario(ask, value), slots=100)
    Driver(controller, journal, executor, …, now=executor.now).run(records)

A `Scenario` says what happens in a worker. The worker sends the messages of `search.worker.segment`, one for one.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from search.errors import Infeasible
from search.executors.base import Handle
from search.executors.scenario import Ancestors, Hp, Run, Scenario, recorded
from search.messages import (
    Answer,
    Evaluate,
    Evaluated,
    Interrupt,
    Lost,
    Probe,
    Probed,
    ProbeFailed,
    Question,
    Segment,
    Verdict,
)
from search.space.domain import Value
from search.space.file import describe_error
from search.study.paths import TrialPaths
from search.study.records import Built, Checkpointed, EpochDone, Outcome, SegmentEnded
from search.worker.channel import Interrupted

__all__ = ["Disk", "Hp", "Run", "Scenario", "SimulatedCheckpoint", "SimulatedExecutor", "recorded"]

# A worker -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SimulatedCheckpoint:
    """The state of one execution of a trial on a simulated disk.

    Attributes:
        history: its epochs so far.
        best: (epoch, value) of the best of them.
        stopped_by_callback: whether a user's callback has ended the training.
        owner: the (training seed, values) of the training that may restore it; None if any may.
        ancestors: the trainings that this one has continued; see `Run`.
    """

    history: tuple[EpochDone, ...]
    best: tuple[int, float] | None
    stopped_by_callback: bool = False
    owner: tuple[int, dict[str, Value]] | None = None
    ancestors: Ancestors = ()

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


ToWorker = Answer | Verdict | Interrupt
FromWorker = Question | Built | EpochDone | Checkpointed | SegmentEnded | Evaluated | Lost
Activity = Generator[FromWorker | float | None, ToWorker | None, None]
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


class _SimulatedSegment:
    """The simulation of a segment.

    Args:
        attempt: how often the trial was started, this time included.
        now: the clock.
    """

    def __init__(
        self, segment: Segment, scenario: Scenario, disk: Disk, attempt: int, now: Callable[[], float]
    ) -> None:
        self.interrupted = False
        self.run = Run(segment.values, segment.trial, segment.execution, segment.seed)
        self._segment = segment
        self._epoch = segment.begins_after
        self.scenario = scenario
        self._disk = disk
        self._now = now
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
        yield from self._build()
        yield Built(self._segment.trial, self.scenario.size(self.run), RUNNER)
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
        yield float(scenario.build(run))
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
        if saved is None or saved.owner not in (None, self._owner()):
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
        record = epoch_done(self.scenario, self.run, epoch)
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
            history, self._best, stopped_by_callback, self._owner(), self.run.ancestors
        )
        self._saved = self._now()
        return self._checkpointed()

    def _checkpointed(self) -> Checkpointed:
        best = self._best[0] if self._best else None
        stopped_by_callback = self._outcome == "stopped_by_callback"
        return Checkpointed(self._segment.trial, self._segment.execution, self._epoch, best, stopped_by_callback)

    def _owner(self) -> tuple[int, dict[str, Value]]:
        return self._segment.seed, dict(self.run)

    def _wait_for_stop(self, epoch: int) -> Generator[None, ToWorker | None, bool]:
        """Wait for a verdict on `epoch` if one is due, and return whether the trial is to stop."""
        if not self._segment.judged or epoch >= self._segment.to_epoch:
            return False
        try:
            verdict = yield from self._receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _receive(self) -> Generator[None, ToWorker | None, ToWorker | None]:
        message = yield None
        if isinstance(message, Interrupt):
            raise Interrupted
        return message


class _SimulatedEvaluation:
    """The simulation of a final evaluation, which has no test data and no model, and takes no time."""

    interrupted = False

    def __init__(self, work: Evaluate, scenario: Scenario) -> None:
        self.run = Run(work.values, work.trial)
        self.scenario = scenario

    def act(self) -> Activity:
        yield Evaluated(self.run.trial)


# The executor ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Worker:
    """A slot's worker: its work, and the messages in transit, which never overtake each other.

    Attributes:
        sent: messages in transit to the driver.
        commands: messages in transit to the worker.
        inbox: messages that have reached the worker.
        sent_until, commands_until: the arrival time of the last of `sent` and of `commands`.
        message_count: the number of messages so far, in both directions.
        waiting: whether the worker waits for a message.
        paused: whether the worker waits until the driver has its message.
        dead: whether its process has died; its messages may still be in transit.
    """

    slot: int
    work: _SimulatedSegment | _SimulatedEvaluation
    activity: Activity
    sent: deque[FromWorker] = field(default_factory=deque)
    commands: deque[ToWorker] = field(default_factory=deque)
    inbox: deque[ToWorker] = field(default_factory=deque)
    sent_until: float = 0.0
    commands_until: float = 0.0
    message_count: int = 0
    waiting: bool = False
    paused: bool = False
    dead: bool = False

    def latency(self) -> float:
        """Return the travel time of the next message."""
        self.message_count += 1
        return self.work.scenario.latency(self.work.run, self.message_count)


_Step = Callable[[_Worker, Handle], bool]
"""A step in a worker's life, which returns whether the driver has received a message."""


class SimulatedExecutor:
    """An executor with simulated workers and a virtual clock `now`, which must be the driver's clock, too.

    A poll delivers one message and sets the clock to its arrival.

    Args:
        scenario: the behaviour of the workers.
        slots: the number of workers.
        began: the clock's first time, in seconds.
        disk: the workers' checkpoints; to resume a search, the disk of its executor.
        order: a seed for the order of messages that arrive at the same time.
        leap: whether a poll waits for the next message however late it is, as waiting costs nothing. If False, it waits
            no longer than its timeout, so that the caller may act in between.
    """

    protocol = 1

    def __init__(
        self,
        scenario: Scenario,
        slots: int = 1,
        *,
        began: float = 1e9,
        disk: Disk | None = None,
        order: int = 0,
        leap: bool = True,
    ) -> None:
        self.disk: Disk = {} if disk is None else disk
        self._scenario = scenario
        self._slots = slots
        self._now = began
        self._random = random.Random(order)
        self._leap = leap
        self._numbers = itertools.count()
        self._attempts: Counter[str] = Counter()
        self._workers: dict[int, _Worker] = {}
        self._events: list[tuple[float, float, int, _Step, _Worker]] = []

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def busy(self) -> int:
        """Number of segments and evaluations that run."""
        return len(self._workers)

    @property
    def silent(self) -> bool:
        """True if no worker will send a message until it receives one."""
        return not self._events

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        try:
            parameters = self._scenario.parameters(probe.values)
        except Exception as error:
            return ProbeFailed(describe_error(error), traceback.format_exc())
        defaults = Run({parameter.name: parameter.default for parameter in parameters} | dict(probe.values))
        return Probed(
            digest="",
            files=(),
            parameters=parameters,
            options={},
            metrics=(self._scenario.metric,),
            compiled_metrics=(),
            directions={},
            weight_count=self._scenario.size(defaults),
            summary="",
            batch_size=1,
            samples=(None, None),
            runner=RUNNER,
            versions={},
        )

    def hand_on(self, parent: TrialPaths, child: TrialPaths, execution: int, *, again: bool) -> None:
        """Give `child` a checkpoint of `parent`, as `search.driver.hand_on.Files` does."""
        key = inherited_folder(str(child.folder)), execution
        if again and key in self.disk:
            return
        self.disk.pop(key, None)
        saved = self.disk.get((str(parent.folder), execution))
        if saved is not None:
            self.disk[key] = saved

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        assert slot not in self._workers, "the slot is busy"
        assert 0 <= slot < self._slots, "there is no such slot"
        simulated: _SimulatedSegment | _SimulatedEvaluation
        if isinstance(work, Evaluate):
            simulated = _SimulatedEvaluation(work, self._scenario)
        else:
            self._attempts[work.folder] += 1
            simulated = _SimulatedSegment(work, self._scenario, self.disk, self._attempts[work.folder], self.now)
        worker = self._workers[slot] = _Worker(slot, simulated, simulated.act())
        self._schedule(self._now + worker.latency(), self._advance, worker)

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        worker = self._workers.get(slot)
        if worker is None:
            return
        worker.commands_until = max(worker.commands_until, self._now + worker.latency())
        if worker.commands_until <= self._now:
            self._deliver_to_worker(worker, command)
        else:
            worker.commands.append(command)
            self._schedule(worker.commands_until, self._command_arrives, worker)

    def kill(self, slot: int, reason: str = "its process was killed", *, lose_messages: bool = False) -> None:
        """Kill the process of the worker in `slot` now, if it has anything left to do.

        Args:
            lose_messages: whether the messages in transit are lost with it, as that of a checkpoint just written.
        """
        worker = self._workers.get(slot)
        if worker is None or worker.dead or (worker.sent and isinstance(worker.sent[-1], LAST_MESSAGES)):
            return
        worker.dead = True
        worker.commands.clear()
        if lose_messages:
            worker.sent.clear()
        worker.sent.append(Lost(reason))
        worker.sent_until = self._now if lose_messages else max(worker.sent_until, self._now)
        self._schedule(worker.sent_until, self._message_arrives, worker)

    def poll(self, handle: Handle, timeout: float) -> None:
        until = self._now + timeout
        while self._events and (self._leap or self._events[0][0] <= until):
            self._now, _, _, step, worker = heapq.heappop(self._events)
            if self._workers.get(worker.slot) is worker and step(worker, handle):
                return
        self._now = max(self._now, until)

    def close(self, *, now: bool = False) -> None:
        self._workers.clear()
        self._events.clear()

    def _schedule(self, at: float, step: _Step, worker: _Worker) -> None:
        event = max(at, self._now), self._random.random(), next(self._numbers), step, worker
        heapq.heappush(self._events, event)

    def _advance(self, worker: _Worker, handle: Handle, received: ToWorker | None = None) -> bool:
        """Run a worker until time passes, it waits for a message, or its own message arrives at once."""
        while not worker.dead:
            step = worker.activity.send(received)
            received = None
            if step is None:
                if not worker.inbox:
                    worker.waiting = True
                    return False
                received = worker.inbox.popleft()
            elif isinstance(step, float):
                self._schedule(self._now + step, self._advance, worker)
                return False
            else:
                worker.sent.append(step)
                worker.sent_until = max(worker.sent_until, self._now + worker.latency())
                self._schedule(worker.sent_until, self._message_arrives, worker)
                worker.paused = worker.sent_until <= self._now
                if worker.paused or isinstance(step, LAST_MESSAGES):
                    return False
        return False

    def _deliver_to_worker(self, worker: _Worker, command: ToWorker) -> None:
        worker.work.interrupted |= isinstance(command, Interrupt)
        worker.inbox.append(command)
        if worker.waiting:
            worker.waiting = False
            self._schedule(self._now, self._wake, worker)

    def _wake(self, worker: _Worker, handle: Handle) -> bool:
        """Continue a worker with the message that it waited for."""
        return not worker.dead and self._advance(worker, handle, worker.inbox.popleft())

    def _command_arrives(self, worker: _Worker, handle: Handle) -> bool:
        if worker.commands:
            self._deliver_to_worker(worker, worker.commands.popleft())
        return False

    def _message_arrives(self, worker: _Worker, handle: Handle) -> bool:
        """Deliver a worker's message to the driver. After the last message the slot is free."""
        if not worker.sent:
            return False  # lost with its process
        message = worker.sent.popleft()
        if isinstance(message, LAST_MESSAGES):
            del self._workers[worker.slot]
        handle(worker.slot, message)
        # With latencies, more messages may arrive at this moment: the worker continues after the last of them.
        if worker.paused and not worker.sent and not isinstance(message, LAST_MESSAGES):
            worker.paused = False
            self._advance(worker, handle)
        return True
