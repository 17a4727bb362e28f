"""A search without training: the real controller, simulated workers, a virtual clock.

Everything is a function of the arguments. A simulation may be taken up again after any of its records, as a search
whose process was killed there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from search.backends.base import BackEnd
from search.controller import Controller, FromWorker, Limits, Reaction, Start, StopRequested, Tick
from search.domain import Condition, Domain, Parameter, Sampling, Value
from search.journal import Entry
from search.messages import Answer, Interrupt, Lost, Question, Verdict
from search.records import (
    FORMAT,
    Began,
    Built,
    Checkpointed,
    Ended,
    EpochDone,
    Era,
    Finished,
    Header,
    Learnt,
    Outcome,
    Record,
    Told,
    TrialEnded,
)
from search.study import Study, Trial
from search.trial import Decision, Done, Draw, Objective, Suggestion, Wait

PATIENCE = 2000
"""Words of workers, none of which is news, after which a search hangs."""

Params = Mapping[str, Value]
Said = Question | Built | EpochDone | Checkpointed | Ended | Lost
Heard = Answer | Verdict | Interrupt

# The user's side ------------------------------------------------------------------------------------------------------


class _Unanswered(Exception):
    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter


class Hp:
    """A stand-in for the `hp` of a factory. What lacks a value ends the call; with the answer, it is made again."""

    def __init__(self, values: Params) -> None:
        self.used: dict[str, Value] = {}
        self._values = values
        self._conditions: list[Condition] = []

    def Int(self, name: str, low: int, high: int, step: int | None = None, sampling: Sampling = "linear") -> Any:
        return self._value(name, Domain("int", low, high, step, sampling))

    def Float(
        self, name: str, low: float, high: float, step: float | None = None, sampling: Sampling = "linear"
    ) -> Any:
        return self._value(name, Domain("float", low, high, step, sampling))

    def Choice(self, name: str, values: Sequence[Value], ordered: bool = False) -> Any:
        return self._value(name, Domain("choice", values=tuple(values), ordered=ordered))

    def Boolean(self, name: str) -> Any:
        return self._value(name, Domain("boolean", values=(True, False)))

    def Fixed(self, name: str, value: Value) -> Any:
        return self._value(name, Domain("fixed", values=(value,)))

    @contextmanager
    def when(self, name: str, *values: Value) -> Iterator[None]:
        """What is asked for here is active only where the parameter `name` has one of `values`; else it is None."""
        self._conditions.append(Condition(name, values))
        yield
        self._conditions.pop()

    def _value(self, name: str, domain: Domain) -> Value:
        if not all(self.used.get(condition.name) in condition.values for condition in self._conditions):
            return None
        if name not in self._values:
            raise _Unanswered(Parameter(name, domain, domain.at(0.0), tuple(self._conditions)))
        self.used[name] = self._values[name]
        return self.used[name]


def _never(*_: Any) -> None:
    return None


def _one_second(_: Params) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in the place of a user's space file and its training.

    Attributes:
        ask: the factory.
        value: the objective of (values, epoch).
        fails: the epoch in which a trial with these values raises an exception, 0 for its build; None for never.
        finishes: the epoch after which a callback of the user's ends the training.
        dies: the epoch in which the worker's process is lost, 0 for the build, by (trial, how often it was started).
        seconds: how long an epoch takes.
    """

    ask: Callable[[Hp], object]
    value: Callable[[Params, int], float]
    fails: Callable[[Params], int | None] = _never
    finishes: Callable[[Params], int | None] = _never
    dies: Callable[[int, int], int | None] = _never
    seconds: Callable[[Params], float] = _one_second

    def question(self, values: Params) -> Parameter | None:
        """What the factory asks for next; None when it is built."""
        try:
            self.ask(Hp(values))
        except _Unanswered as unanswered:
            return unanswered.parameter
        return None

    def used(self, values: Params) -> dict[str, Value]:
        """Those of `values` that the factory asks for."""
        hp = Hp(values)
        self.ask(hp)
        return hp.used

    def parameters(self) -> tuple[Parameter, ...]:
        """What a probe sees: the questions of a build with defaults."""
        values: dict[str, Value] = {}
        found = []
        while (parameter := self.question(values)) is not None:
            found.append(parameter)
            values[parameter.name] = parameter.default
        return tuple(found)


# The laws that hold at every step -------------------------------------------------------------------------------------


class Checked:
    """A back end between the controller and the one under test: asks everything twice, and checks every answer."""

    def __init__(self, inner: BackEnd, study: Study, max_epochs: int) -> None:
        self.name = inner.name
        self.inner = inner
        self._study = study
        self._max_epochs = max_epochs
        self._closed: set[int] = set()

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        answer = self.inner.ask(new=new)
        assert answer == self.inner.ask(new=new), "a question changed something"
        if isinstance(answer, Suggestion):
            self._check(answer, new)
        elif isinstance(answer, Wait):
            assert any(trial.open for trial in self._study.trials.values()), "it waits, and nothing runs"
        return answer

    def _check(self, suggestion: Suggestion, new: bool) -> None:
        assert suggestion.from_epoch < suggestion.to_epoch <= self._max_epochs
        if suggestion.trial is None:
            assert new, "no new trials were to be had"
            assert suggestion.from_epoch == 0
            return
        trial = self._study.trials[suggestion.trial]
        assert not trial.open, f"trial {trial.number} is being trained already"
        assert trial.ended is None, f"trial {trial.number} has ended: {trial.ended}"
        assert trial.number not in self._closed, f"trial {trial.number} was given up"
        assert suggestion.from_epoch == trial.to_epoch, f"trial {trial.number} goes on where it was not"

    def suggest(self, trial: int, parameter: Parameter, taken: Collection[Value] = ()) -> Draw:
        draw = self.inner.suggest(trial, parameter, taken)
        assert draw == self.inner.suggest(trial, parameter, taken), "a question changed something"
        assert parameter.domain.contains(draw.value), f"{draw.value!r} is not in {parameter}"
        assert (parameter.domain.kind == "boolean") <= (type(draw.value) is bool)
        assert draw.value not in taken
        return draw

    def judge(self, trial: int, epoch: int) -> Decision:
        decision = self.inner.judge(trial, epoch)
        assert decision == self.inner.judge(trial, epoch), "a question changed something"
        return decision

    def apply(self, record: Record) -> Sequence[int]:
        closed = self.inner.apply(record)
        assert not self._closed & set(closed), "a trial was given up twice"
        if isinstance(record, Told) and record.outcome == "failed":
            assert record.trial in closed, "a failed trial has no future"
        self._closed |= set(closed)
        return closed

    def learn(self, trials: Sequence[Trial]) -> None:
        self.inner.learn(trials)


# The search -----------------------------------------------------------------------------------------------------------


class _Worker:
    """A slot's worker: what it will say next, and when; never, while it waits for a word."""

    talk: Generator[tuple[Said, bool], Heard | None, None]

    def __init__(self, at: float) -> None:
        self.at = at
        self.waits = False
        self.heard: Heard | None = None
        self.interrupted = False


class Simulation:
    """A study from a process's beginning to its end.

    Args:
        scenario: the space and its training.
        make: makes the back end.
        seed: of the study.
        slots: how many workers there are.
        order: of the words of workers that speak at the same time.
        checkpoint_every: epochs between checkpoints within a segment.
        era: the back end's name; another one on `resume` begins a new era.
        entries: a journal to go on with.
        disk: the epoch of each trial's checkpoint; by default as journaled.
        try_first: configurations that the user wants tried first.
        learnt: trials of other studies to begin with.
    """

    def __init__(
        self,
        scenario: Scenario,
        make: Callable[[Study], BackEnd],
        *,
        objective: Objective = Objective("val_loss", "min"),  # noqa: B008  # frozen
        seed: int = 0,
        slots: int = 1,
        max_epochs: int = 9,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        order: int = 0,
        checkpoint_every: int = 2,
        era: str = "tested",
        entries: Sequence[Entry] = (),
        disk: Mapping[int, int] | None = None,
        try_first: Sequence[Params] = (),
        learnt: Sequence[Learnt] = (),
    ) -> None:
        self._arguments: dict[str, Any] = {"scenario": scenario, "make": make, "objective": objective, "seed": seed}
        self._arguments |= {"slots": slots, "max_epochs": max_epochs, "limits": limits, "order": order}
        self._arguments |= {"checkpoint_every": checkpoint_every, "era": era}
        self._arguments |= {"try_first": try_first}
        self._learnt = list(learnt)
        self.scenario = scenario
        self.entries = list(entries)
        self.study = Study()
        self.controller = Controller(
            self.study,
            lambda _: Checked(make(self.study), self.study, max_epochs),
            limits,
            slots,
            max_epochs,
            try_first,
        )
        self.controller.replay(self.entries)
        self.disk = {trial.number: trial.checkpoint for trial in self.study.trials.values()} | dict(disk or {})
        self.finished: Finished | None = None
        self.now = self.entries[-1].time + 60 if self.entries else 1e9
        self._objective, self._seed, self._max_epochs, self._era = objective, seed, max_epochs, Era(era, {})
        self._checkpoint_every = checkpoint_every
        self._random = random.Random(order)
        self._workers: dict[int, _Worker] = {}

    # Using it -------------------------------------------------------------------------------------------------------

    def run(self, *, until: Callable[[Record], bool] | None = None, stop_after: int | None = None) -> Simulation:
        """Search to the end, or until a new record is one that `until` wants; as if killed there.

        Args:
            stop_after: the words of workers after which the user asks for a stop.
        """
        begun = len(self.entries)
        self._act(self.controller.begin(self._records(), self.now))
        words = idle = 0
        progress: object = None
        while self.finished is None:
            before, progress = progress, (len(self.study.trials), self.study.epochs)
            idle = idle + 1 if before == progress else 0
            assert idle < PATIENCE, "it goes on for ever, without a new trial or epoch"
            if until is not None and any(until(entry.record) for entry in self.entries[begun:]):
                return self
            begun = len(self.entries)
            if words == stop_after:
                self._act(self.controller.handle(StopRequested(), self.now))
            else:
                self._step()
            words += 1
            self._check([entry.record for entry in self.entries[begun:]])
        return self

    def resume(self, keep: int | None = None, **changes: Any) -> Simulation:
        """The search of another process, which finds the first `keep` records (all); not yet run."""
        return Simulation(entries=self.entries[:keep], **{**self._arguments, **changes})

    @property
    def records(self) -> list[Record]:
        return [entry.record for entry in self.entries]

    @property
    def trials(self) -> list[Trial]:
        return list(self.study.trials.values())

    def history(self) -> list[Any]:
        """All that must be the same where two searches are the same."""
        name = self.study.objective.name
        return [
            (t.number, t.seed, t.params, t.state, t.bracket, t.rung, [(e.epoch, e.logs[name]) for e in t.curve])
            for t in self.trials
        ]

    # The driver -----------------------------------------------------------------------------------------------------

    def _records(self) -> list[Record]:
        records: list[Record] = []
        if self.study.header is None:
            parameters = self.scenario.parameters()
            header = Header(
                format=FORMAT,
                uid="0",
                study="simulated",
                seed=self._seed,
                objective=self._objective.name,
                direction=self._objective.direction,
                source="",
                digest="",
                parameters=parameters,
                versions={},
            )
            records.append(header)
        if not self.study.eras or self.study.eras[-1] != self._era:
            records.append(self._era)
        return [*records, *self._learnt, Began("simulated", 0, {})]

    def _step(self) -> None:
        """The next word of a worker."""
        ready = [(worker.at, self._random.random(), slot) for slot, worker in self._workers.items() if not worker.waits]
        assert ready, "everything waits for something"
        at, _, slot = min(ready)
        self.now = max(self.now, at)
        self._act(self.controller.handle(Tick(), self.now))
        worker = self._workers[slot]
        heard, worker.heard = worker.heard, None
        message, waits = worker.talk.send(heard)
        worker.waits = waits
        if isinstance(message, (Ended, Lost)):
            del self._workers[slot]
        self._act(self.controller.handle(FromWorker(slot, message), self.now))

    def _act(self, reaction: Reaction) -> None:
        self.entries += [Entry(record, self.now, 0) for record in reaction.records]
        for slot, instruction in reaction.instructions:
            if isinstance(instruction, Start):
                assert slot not in self._workers, "the slot is taken"
                worker = self._workers[slot] = _Worker(self.now)
                worker.talk = self._segment(instruction, worker)
            else:
                self._tell(self._workers[slot], instruction)
        if reaction.finished is not None:
            assert not self._workers, "the search ended before its workers"
            self.finished = reaction.finished

    def _tell(self, worker: _Worker, word: Heard) -> None:
        if isinstance(word, Interrupt):
            worker.interrupted = True
        if worker.waits:
            worker.waits, worker.heard, worker.at = False, word, self.now

    def _check(self, records: Sequence[Record]) -> None:
        running = [trial.number for trial in self.trials if trial.slot is not None]
        assert len(running) == len(self._workers)
        for record in records:
            if isinstance(record, EpochDone):
                assert record.epoch <= self._max_epochs
            elif isinstance(record, TrialEnded):
                assert record.trial not in running, "a trial ended while it ran"

    # The workers ----------------------------------------------------------------------------------------------------

    def _segment(self, start: Start, me: _Worker) -> Generator[tuple[Said, bool], Heard | None, None]:
        """What a worker says, each with whether it waits for an answer then; as `search.worker.training` does it."""
        trial = self.study.trials[start.trial]
        number, values, first, attempt = trial.number, dict(trial.params), trial.epochs, trial.segments

        def ended(outcome: Outcome, epoch: int, error: str | None = None) -> tuple[Said, bool]:
            return Ended(number, start.execution, outcome, epoch, error), False

        while (question := self.scenario.question(values)) is not None:
            answer = yield Question(number, question), True
            if not isinstance(answer, Answer):
                yield ended("interrupted", first)
            elif answer.error is not None:
                yield ended("failed", first, answer.error)
            else:
                values[question.name] = answer.value
        dies, fails, finishes = (
            self.scenario.dies(number, attempt),
            self.scenario.fails(values),
            self.scenario.finishes(values),
        )
        if dies == 0:
            yield Lost("its process was ended"), False
        if fails == 0:
            yield ended("failed", first, "ValueError: the model cannot be built")
        yield Built(number, 1, "simulated"), False
        for epoch in range(first + 1, self.disk.get(number, 0) + 1):
            yield self._epoch(number, values, epoch), False
        over = finishes is not None and 0 < finishes <= self.disk.get(number, 0)
        if self.disk.get(number, 0) > first or over:
            yield Checkpointed(number, start.execution, self.disk[number], None, over), False
        if over:
            yield ended("finished", self.disk[number])
        for epoch in range(self.disk.get(number, 0) + 1, start.to_epoch + 1):
            me.at += self.scenario.seconds(values)
            if epoch == dies:
                yield Lost("its process was ended"), False
            if epoch == fails:
                yield ended("failed", epoch - 1, "ValueError: the training cannot go on")
            last, finished = epoch == start.to_epoch, finishes is not None and epoch >= finishes
            message = self._epoch(number, values, epoch)
            diverged = not math.isfinite(message.logs[self._objective.name])
            heard = yield message, start.judged and not (last or finished or diverged)
            if diverged:
                yield ended("failed", epoch, "diverged")
            outcome: Outcome = "reached"
            if finished:
                outcome = "finished"
            elif isinstance(heard, Verdict) and heard.stop:
                outcome = "stopped"
            elif me.interrupted and not last:
                outcome = "interrupted"
            if last or outcome != "reached" or epoch % self._checkpoint_every == 0:
                self.disk[number] = epoch
                yield Checkpointed(number, start.execution, epoch, self._best_epoch(values, epoch), finished), False
            if outcome != "reached":
                yield ended(outcome, epoch)
        yield ended("reached", max(self.disk.get(number, 0), first))

    def _epoch(self, trial: int, values: Params, epoch: int) -> EpochDone:
        logs = {self._objective.name: self.scenario.value(values, epoch)}
        return EpochDone(trial, 0, epoch, logs, self.scenario.seconds(values))

    def _best_epoch(self, values: Params, epochs: int) -> int:
        return min(range(1, epochs + 1), key=lambda epoch: self._objective.cost(self.scenario.value(values, epoch)))
