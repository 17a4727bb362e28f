"""A back end and an executor that check, in a simulation, what they are asked and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from search.backends.base import BackEnd, RankingBackEnd
from search.executors.base import Handle
from search.executors.simulated import SimulatedExecutor
from search.messages import Evaluate, Interrupt, Lost, Message, Segment, WorkCommand
from search.scheduler.suggestions import suggestion_error
from search.space.domain import Parameter, Value
from search.study.records import Computed, Record, ResultTold
from search.study.study import Study
from search.study.trial import Computation, Decision, Done, Draw, Suggestion, Wait
from search.study.trials import Trial

__all__ = ["CheckedBackEnd", "ObservedExecutor"]


class CheckedBackEnd:
    """A wrapper of the back end under test, which asks every query twice and checks every answer.

    Args:
        inner: the back end under test.
        study: the study that it decides for.
        max_epochs: the most epochs that one trial gets.
    """

    protocol = 1

    def __init__(self, inner: BackEnd, study: Study, max_epochs: int) -> None:
        self.inner = inner
        self._study = study
        self._max_epochs = max_epochs
        self._given_up: set[int] = set()
        self._asked: Computation | None = None
        self._computed: int | None = None
        if hasattr(inner, "expendable"):
            self.expendable = self._expendable

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        answer = self.inner.ask(new=new, child=child)
        assert answer == self.inner.ask(new=new, child=child), "a query changed something"
        computation = self.computation()
        if isinstance(answer, Suggestion):
            assert answer.to_epoch <= self._max_epochs
            error = suggestion_error(answer, self._study, new=new, child=child)
            assert error is None, error
        elif isinstance(answer, Wait):
            waits_for_trial = any(trial.open for trial in self._study.trials.values())
            assert waits_for_trial or computation is not None, "it waits, and nothing runs"
        return answer

    def computation(self) -> Computation | None:
        query: Callable[[], Computation | None] = getattr(self.inner, "computation", lambda: None)
        found = query()
        assert found == query(), "a query changed something"
        assert self._asked in (None, found), "a computation was replaced before its record"
        if found is not None and self._computed is not None:
            assert found.number == self._computed + 1, "the numbers of computations do not rise by one"
        self._asked = found
        return found

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        draw = self.inner.suggest(trial, parameter, explored)
        assert draw == self.inner.suggest(trial, parameter, explored), "a query changed something"
        assert parameter.domain.contains(draw.value), f"{draw.value!r} is not in {parameter}"
        assert draw.value not in explored
        return draw

    def judge(self, trial: int, epoch: int) -> Decision:
        decision = self.inner.judge(trial, epoch)
        assert decision == self.inner.judge(trial, epoch), "a query changed something"
        return decision

    def apply(self, record: Record) -> Sequence[int]:
        given_up = self.inner.apply(record)
        assert not self._given_up & set(given_up), "a trial was given up twice"
        if isinstance(record, ResultTold) and record.outcome in ("failed", "infeasible"):
            assert record.trial in given_up, "a failed trial was not given up"
        self._given_up |= set(given_up)
        if isinstance(record, Computed):
            self._asked, self._computed = None, record.number
        return given_up

    def learn(self, trials: Sequence[Trial]) -> None:
        self.inner.learn(trials)

    def _expendable(self, trials: Collection[int]) -> Sequence[int]:
        assert trials
        for number in trials:
            trial = self._study.trials[number]
            assert not trial.open, f"trial {number} is being trained"
            assert not trial.ended, f"trial {number} has ended"
        inner = cast(RankingBackEnd, self.inner)
        ranked = inner.expendable(trials)
        assert list(ranked) == list(inner.expendable(trials)), "a query changed something"
        assert sorted(ranked) == sorted(trials), f"{ranked} are not the trials {trials}"
        return ranked


class ObservedExecutor(SimulatedExecutor):
    """Simulated workers that check what they are told and asked to train.

    Attributes:
        observe: called before each of their messages.
        saved: returns the epoch up to which an execution of a trial is in checkpoints, as journaled.
        blameless: the trials whose processes were lost through no fault of theirs, and whose segments' ends are not
            journaled yet.
        retired: the slots whose workers were ended while nothing ran there, in order.
    """

    observe: Callable[[], None]
    saved: Callable[[int, int], int]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._work: dict[int, Segment | Evaluate] = {}
        self._on_disk: dict[int, bool] = {}
        self._sender: int | None = None
        self.blameless: set[int] = set()
        self.retired: list[int] = []

    @property
    def segments(self) -> list[Segment]:
        """The segments that run."""
        return [work for slot, work in self._work.items() if slot in self._workers and isinstance(work, Segment)]

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        if isinstance(work, Segment):
            assert all(work.trial != other.trial for other in self.segments), f"trial {work.trial} runs already"
            found = self.disk.get((work.folder, work.execution))
            epoch = work.begins_after if found is None else found.epoch
            # A test may let the disk lose its last writes: only then is an epoch below a checkpoint trained again.
            self._on_disk[work.trial] = epoch >= self.saved(work.trial, work.execution)
        super().start(slot, work)
        self._work[slot] = work

    def retire(self, slot: int) -> None:
        """Note that the worker of a slot is ended."""
        assert slot not in self._workers, f"the worker of slot {slot} is ended while it works"
        self.retired.append(slot)

    def epoch_begins(self, segment: Segment, epoch: int) -> None:
        if self._on_disk[segment.trial]:
            assert epoch > self.saved(segment.trial, segment.execution), "an epoch below a checkpoint is trained again"
        super().epoch_begins(segment, epoch)

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        # The user's stop may come with a worker's last message.
        runs = slot in self._workers or (slot == self._sender and isinstance(command, Interrupt))
        assert runs, f"a message to slot {slot}, where nothing runs: {command}"
        super().send(slot, work, command)

    def poll(self, handle: Handle, timeout: float) -> None:
        def receive(slot: int, work: int, message: Message) -> None:
            self._sender = slot
            if isinstance(message, Lost) and not message.fault and isinstance(self._work[slot], Segment):
                self.blameless.add(self._work[slot].trial)
            handle(slot, work, message)
            self._sender = None

        self.observe()
        super().poll(receive, timeout)
