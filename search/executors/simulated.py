"""The `simulated` executor: no training, no processes, and a clock that jumps from one word to the next.

A whole search, driver and journal included, runs as fast as its decisions are made:

    executor = SimulatedExecutor(Scenario(ask, value), slots=100)
    Driver(controller, journal, executor, …, now=executor.now).run(records)

What a worker does is told by a `Scenario`; how it talks is what `search.worker.segment` does, message for message.
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

from search.executors.base import Handle
from search.executors.scenario import Hp, Run, Scenario, recorded
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
from search.space import file as spaces
from search.space.domain import Value
from search.study.records import Built, Checkpointed, EpochDone, Outcome, SegmentEnded
from search.worker.channel import Interrupted

__all__ = ["Checkpoint", "Disk", "Hp", "Run", "Scenario", "SimulatedExecutor", "recorded"]

# A worker -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one execution of a trial, safe on a simulated disk.

    Attributes:
        history: its epochs so far.
        best: (epoch, value) of the best of them.
        stopped_by_callback: a callback of the user's has ended the training.
        owner: (training seed, values) of who wrote it: nobody else restores it. None where anyone may.
    """

    history: tuple[EpochDone, ...]
    best: tuple[int, float] | None
    stopped_by_callback: bool = False
    owner: tuple[int, dict[str, Value]] | None = None


Disk = dict[tuple[str, int], Checkpoint]
"""Checkpoints by (trial folder, execution)."""

Heard = Answer | Verdict | Interrupt
Said = Question | Built | EpochDone | Checkpointed | SegmentEnded | Evaluated | Lost
Talk = Generator[Said | float | None, Heard | None, None]
LAST = (SegmentEnded, Evaluated, Lost)
RUNNER = "simulated"


class _Failed(Exception):
    """The user's code has raised an exception; its text is what is said of it."""


class _Died(Exception):
    """The process is lost."""


def epoch_done(scenario: Scenario, run: Run, epoch: int) -> EpochDone:
    """The record of an epoch."""
    logs = {scenario.metric: scenario.value(run, epoch)}
    seconds = max(0.0, float(scenario.seconds(run) * scenario.pace(run, epoch)))
    return EpochDone(run.trial, run.execution, epoch, logs, seconds)


class _Training:
    """A segment. `talk` yields what the worker says, seconds that pass, and None where it waits for a word."""

    def __init__(
        self, segment: Segment, scenario: Scenario, disk: Disk, attempt: int, now: Callable[[], float]
    ) -> None:
        self.interrupted = False
        self.run = Run(segment.values, segment.trial, segment.execution, segment.seed)
        self._segment = segment
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

    @property
    def _epoch(self) -> int:
        return len(self._history)

    def talk(self) -> Talk:
        segment = self._segment
        epoch, outcome, error = segment.from_epoch, self._outcome, None
        try:
            yield from self._train()
            epoch, outcome, error = self._epoch, self._outcome, self._error
        except Interrupted:
            outcome = "interrupted"
        except _Failed as failure:
            outcome, error = "failed", str(failure)
        except _Died:
            yield Lost("its process was ended")
            return
        yield SegmentEnded(segment.trial, segment.execution, outcome, epoch, error)

    def _train(self) -> Talk:
        yield from self._build()
        yield Built(self._segment.trial, self.scenario.size(self.run), RUNNER)
        yield from self._restore()
        while self._epoch < self._segment.to_epoch and self._outcome == "reached":
            yield from self._train_epoch()

    def _build(self) -> Talk:
        scenario, run = self.scenario, self.run
        while True:
            try:
                question = scenario.question(run)
            except Exception as error:
                raise _Failed(spaces.describe(error)) from None
            if question is None:
                break
            yield Question(self._segment.trial, question)
            answer = yield from self._receive()
            if not isinstance(answer, Answer):
                raise Interrupted
            if answer.error is not None:
                raise _Failed(answer.error)
            run[question.name] = answer.value
        yield float(scenario.build(run))
        self._fails, self._finishes = scenario.fails(run), scenario.finishes(run)
        if self._dies == 0:
            raise _Died
        if self._fails == 0:
            raise _Failed("ValueError: the model cannot be built")
        self._saved = self._now()

    def _restore(self) -> Talk:
        """Go on from the checkpoint, where there is one; say again what the journal has missed."""
        segment = self._segment
        saved = self._disk.get((segment.folder, segment.execution))
        if saved is None or saved.owner not in (None, self._owner()):
            return
        self._history, self._best = list(saved.history), saved.best
        if saved.stopped_by_callback:
            self._outcome = "stopped_by_callback"
        for record in saved.history[segment.from_epoch :]:
            yield record
            if (yield from self._judged_to_stop(record.epoch)):
                self._outcome = "stopped"
        yield self._checkpointed()

    def _train_epoch(self) -> Talk:
        epoch = self._epoch + 1
        record = epoch_done(self.scenario, self.run, epoch)
        yield record.seconds
        if epoch == self._dies:
            raise _Died
        if epoch == self._fails:
            raise _Failed("ValueError: the training cannot go on")
        self._history.append(record)
        if self._diverged(record):
            yield record
            return
        self._note_best(record)
        yield record
        stopped = yield from self._judged_to_stop(epoch)
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
        self._disk[self._segment.folder, self._segment.execution] = Checkpoint(
            history, self._best, stopped_by_callback, self._owner()
        )
        self._saved = self._now()
        return self._checkpointed()

    def _checkpointed(self) -> Checkpointed:
        best = self._best[0] if self._best else None
        stopped_by_callback = self._outcome == "stopped_by_callback"
        return Checkpointed(self._segment.trial, self._segment.execution, self._epoch, best, stopped_by_callback)

    def _owner(self) -> tuple[int, dict[str, Value]]:
        return self._segment.seed, dict(self.run)

    def _judged_to_stop(self, epoch: int) -> Generator[None, Heard | None, bool]:
        """The verdict on `epoch`, where one is due."""
        if not self._segment.judged or epoch >= self._segment.to_epoch:
            return False
        try:
            verdict = yield from self._receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _receive(self) -> Generator[None, Heard | None, Heard | None]:
        word = yield None
        if isinstance(word, Interrupt):
            raise Interrupted
        return word


class _Evaluating:
    """A work: there are no test data, and no models; it takes no time."""

    interrupted = False

    def __init__(self, work: Evaluate, scenario: Scenario) -> None:
        self.run = Run(work.values, work.trial)
        self.scenario = scenario

    def talk(self) -> Talk:
        yield Evaluated(self.run.trial)


# The executor ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Worker:
    """A slot's worker: its training, and the words that are on their way, of which none overtakes another.

    Attributes:
        said, told: words that the driver, or the worker, will hear; `inbox`: those that have reached the worker.
        said_by, told_by: when the last of them arrives.
        words: how many there were.
        waits: for a word.
        pauses: until the driver has heard what it said.
        dead: its process was lost; what it has said may still be on its way.
    """

    slot: int
    training: _Training | _Evaluating
    talk: Talk
    said: deque[Said] = field(default_factory=deque)
    told: deque[Heard] = field(default_factory=deque)
    inbox: deque[Heard] = field(default_factory=deque)
    said_by: float = 0.0
    told_by: float = 0.0
    words: int = 0
    waits: bool = False
    pauses: bool = False
    dead: bool = False

    def latency(self) -> float:
        """Of the next word."""
        self.words += 1
        return self.training.scenario.latency(self.training.run, self.words)


_Step = Callable[[_Worker, Handle], bool]
"""What happens to a worker at some time; True where the driver has heard a word."""


class SimulatedExecutor:
    """Simulated workers, and a virtual clock: `now`, which is to be the driver's clock.

    A poll hands over one word, and sets the clock to the time it arrives.

    Args:
        scenario: what happens in the place of training.
        slots: how many workers there are.
        began: what the clock shows at first, in seconds.
        disk: what workers find there: that of the executor of the search that is resumed.
        order: a seed: which of the words comes first that arrive at the same time.
        leap: whether a poll waits for the next word however far that is, as waiting costs nothing; False for no longer
            than it is told to, so that its caller may act in between.
    """

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
        """How many segments run."""
        return len(self._workers)

    @property
    def silent(self) -> bool:
        """Whether no worker will say anything until it is told something."""
        return not self._events

    def now(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        try:
            parameters = self._scenario.parameters(probe.values)
        except Exception as error:
            return ProbeFailed(spaces.describe(error), traceback.format_exc())
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

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        assert slot not in self._workers, "the slot is taken"
        assert 0 <= slot < self._slots, "there is no such slot"
        training: _Training | _Evaluating
        if isinstance(work, Evaluate):
            training = _Evaluating(work, self._scenario)
        else:
            self._attempts[work.folder] += 1
            training = _Training(work, self._scenario, self.disk, self._attempts[work.folder], self.now)
        worker = self._workers[slot] = _Worker(slot, training, training.talk())
        self._schedule(self._now + worker.latency(), self._go_on, worker)

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        worker = self._workers.get(slot)
        if worker is None:
            return
        worker.told_by = max(worker.told_by, self._now + worker.latency())
        if worker.told_by <= self._now:
            self._tell(worker, command)
        else:
            worker.told.append(command)
            self._schedule(worker.told_by, self._be_told, worker)

    def kill(self, slot: int, reason: str = "its process was killed", *, unheard: bool = False) -> None:
        """The process of the worker in `slot` is lost now, if it has anything left to do.

        Args:
            unheard: the words that are on their way are lost with it, as that of a checkpoint written just before.
        """
        worker = self._workers.get(slot)
        if worker is None or worker.dead or (worker.said and isinstance(worker.said[-1], LAST)):
            return
        worker.dead = True
        worker.told.clear()
        if unheard:
            worker.said.clear()
        worker.said.append(Lost(reason))
        worker.said_by = self._now if unheard else max(worker.said_by, self._now)
        self._schedule(worker.said_by, self._be_heard, worker)

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

    def _go_on(self, worker: _Worker, handle: Handle, word: Heard | None = None) -> bool:
        """A worker goes on: until time passes, or it waits for a word, or what it has said is heard at once."""
        while not worker.dead:
            step = worker.talk.send(word)
            word = None
            if step is None:
                if not worker.inbox:
                    worker.waits = True
                    return False
                word = worker.inbox.popleft()
            elif isinstance(step, float):
                self._schedule(self._now + step, self._go_on, worker)
                return False
            else:
                worker.said.append(step)
                worker.said_by = max(worker.said_by, self._now + worker.latency())
                self._schedule(worker.said_by, self._be_heard, worker)
                worker.pauses = worker.said_by <= self._now
                if worker.pauses or isinstance(step, LAST):
                    return False
        return False

    def _tell(self, worker: _Worker, word: Heard) -> None:
        worker.training.interrupted |= isinstance(word, Interrupt)
        worker.inbox.append(word)
        if worker.waits:
            worker.waits = False
            self._schedule(self._now, self._wake, worker)

    def _wake(self, worker: _Worker, handle: Handle) -> bool:
        """A worker has the word that it waited for."""
        return not worker.dead and self._go_on(worker, handle, worker.inbox.popleft())

    def _be_told(self, worker: _Worker, handle: Handle) -> bool:
        """A word reaches a worker."""
        if worker.told:
            self._tell(worker, worker.told.popleft())
        return False

    def _be_heard(self, worker: _Worker, handle: Handle) -> bool:
        """A worker's word reaches the driver. After its last one the slot is free."""
        if not worker.said:
            return False  # lost with its process
        message = worker.said.popleft()
        if isinstance(message, LAST):
            del self._workers[worker.slot]
        handle(worker.slot, message)
        # Where a word took its time, the next one may arrive at the same moment: it was not heard by then.
        if worker.pauses and not worker.said and not isinstance(message, LAST):
            worker.pauses = False
            self._go_on(worker, handle)
        return True
