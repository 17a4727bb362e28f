"""A search without training: the real controller and the real driver, simulated workers, a virtual clock.

Everything is a function of the arguments. A simulation may be taken up again after any of its records, as a search
whose process was killed there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from search.backends.base import BackEnd
from search.driver.loop import Driver
from search.executors.base import Handle
from search.executors.scenario import Hp, Params, Run, Scenario
from search.executors.simulated import Checkpoint, Disk, SimulatedExecutor, epoch_done
from search.messages import Answer, Evaluate, Interrupt, Message, Segment, Verdict
from search.options import Options
from search.scheduler.controller import Controller, Limits
from search.space.domain import Parameter, Value
from search.space.file import SpaceRef
from search.study.journal import Entry, Journal
from search.study.paths import StudyPaths
from search.study.records import (
    FORMAT,
    BackendChanged,
    Checkpointed,
    EpochDone,
    Header,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    TrialEnded,
    TrialImported,
)
from search.study.study import Study, Trial
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait

__all__ = ["Checked", "Hp", "Params", "Scenario", "Simulation"]

PATIENCE = 2000
"""Words of workers, none of which is news, after which a search hangs."""

PATHS = StudyPaths.of("nowhere", "simulated")
"""Of a study that has no files."""

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

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        draw = self.inner.suggest(trial, parameter, explored)
        assert draw == self.inner.suggest(trial, parameter, explored), "a question changed something"
        assert parameter.domain.contains(draw.value), f"{draw.value!r} is not in {parameter}"
        assert (parameter.domain.kind == "boolean") <= (type(draw.value) is bool)
        assert draw.value not in explored
        return draw

    def judge(self, trial: int, epoch: int) -> Decision:
        decision = self.inner.judge(trial, epoch)
        assert decision == self.inner.judge(trial, epoch), "a question changed something"
        return decision

    def apply(self, record: Record) -> Sequence[int]:
        closed = self.inner.apply(record)
        assert not self._closed & set(closed), "a trial was given up twice"
        if isinstance(record, ResultTold) and record.outcome == "failed":
            assert record.trial in closed, "a failed trial has no future"
        self._closed |= set(closed)
        return closed

    def learn(self, trials: Sequence[Trial]) -> None:
        self.inner.learn(trials)


# The search -----------------------------------------------------------------------------------------------------------


class _Killed(Exception):
    """The search's process ends here."""


class _InMemory(Journal):
    """A journal without a file."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def append(self, records: Iterable[Record], time: float | None = None) -> None:
        assert time is not None
        self.entries += [Entry(record, time, 0) for record in records]

    def flush(self, *, only_if_due: bool = False) -> bool:
        return True

    def close(self) -> None:
        pass


class _Observed(SimulatedExecutor):
    """Simulated workers, before each of whose words `observe` is called, and who know what they may be told."""

    observe: Callable[[], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._work: dict[int, Segment | Evaluate] = {}
        self._speaking: int | None = None

    @property
    def segments(self) -> list[Segment]:
        """Those that run."""
        return [work for slot, work in self._work.items() if slot in self._workers and isinstance(work, Segment)]

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        if isinstance(work, Segment):
            assert all(work.trial != other.trial for other in self.segments), f"trial {work.trial} runs already"
        super().start(slot, work)
        self._work[slot] = work

    def send(self, slot: int, command: Answer | Verdict | Interrupt) -> None:
        # A stop may come with a worker's last word.
        runs = slot in self._workers or (slot == self._speaking and isinstance(command, Interrupt))
        assert runs, f"a word to slot {slot}, where nothing runs: {command}"
        super().send(slot, command)

    def poll(self, handle: Handle, timeout: float) -> None:
        def hear(slot: int, message: Message) -> None:
            self._speaking = slot
            handle(slot, message)
            self._speaking = None

        self.observe()
        super().poll(hear, timeout)


class _Unseen:
    """The view of a search that nobody looks at."""

    def update(self, now: float) -> None:
        pass


class Simulation:
    """A study from a process's beginning to its end.

    Args:
        scenario: the space and its training.
        make: makes the back end.
        seed: of the study.
        slots: how many workers there are.
        order: of the words of workers that speak at the same time.
        checkpoint_every: virtual seconds between checkpoints within a segment.
        backend: the back end's name; another one on `resume` begins a new phase.
        entries: a journal to go on with.
        disk: the epoch of each trial's checkpoint; by default as journaled.
        checkpoints: what is on the disk, in the place of all that `disk` says: that of an earlier search's executor.
        try_first: configurations that the user wants tried first.
        imported: trials of other studies to begin with.
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
        checkpoint_every: float = 2.0,
        backend: str = "tested",
        entries: Sequence[Entry] = (),
        disk: Mapping[int, int] | None = None,
        checkpoints: Disk | None = None,
        try_first: Sequence[Params] = (),
        imported: Sequence[TrialImported] = (),
    ) -> None:
        self._arguments: dict[str, Any] = {"scenario": scenario, "make": make, "objective": objective, "seed": seed}
        self._arguments |= {"slots": slots, "max_epochs": max_epochs, "limits": limits, "order": order}
        self._arguments |= {"checkpoint_every": checkpoint_every, "backend": backend}
        self.scenario = replace(scenario, metric=objective.name)
        self._arguments |= {"try_first": try_first}
        self._imported = list(imported)
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
        self.end: SearchEnded | None = None
        self._objective, self._seed, self._max_epochs = objective, seed, max_epochs
        self._backend = BackendChanged(backend, {})
        self._options = {**asdict(limits), "slots": slots}
        began = self.entries[-1].time + 60 if self.entries else 1e9
        on_disk = self._disk(disk or {}) if checkpoints is None else checkpoints
        self.executor = _Observed(self.scenario, slots, began=began, disk=on_disk, order=order)
        self.executor.observe = self._observe
        self._driver = Driver(
            self.controller,
            _InMemory(self.entries),
            self.executor,
            SpaceRef(),
            PATHS,
            Options(checkpoint_every=checkpoint_every),
            news=lambda: None,
            view=_Unseen(),
            say=lambda _: None,
            now=self.executor.now,
        )
        self._until: Callable[[Record], bool] | None = None
        self._stop_after: int | None = None
        self._each: Callable[[], None] = lambda: None
        self._dies = False
        self._seen = len(self.entries)
        self._words = self._idle = 0
        self._progress: object = None

    # Using it -------------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        until: Callable[[Record], bool] | None = None,
        stop_after: int | None = None,
        each: Callable[[], None] = lambda: None,
    ) -> Simulation:
        """Search to the end, or until a new record is one that `until` wants; as if killed there.

        Args:
            stop_after: the words of workers after which the user asks for a stop.
            each: called before every word; may `stop` or `kill` the search, or `executor.kill` a worker.
        """
        self._until, self._stop_after, self._each = until, stop_after, each
        try:
            self.end = self._driver.run(self._records())
        except _Killed:
            return self
        self.check(self._new())
        return self

    def stop(self) -> None:
        """The user asks for a stop, at the next word."""
        self._driver.stop()

    def kill(self) -> None:
        """The search's process ends before the next word."""
        self._dies = True

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

    # At every step --------------------------------------------------------------------------------------------------

    def check(self, records: Sequence[Record]) -> None:
        """Assert what holds after every word of a worker, which led to `records`."""
        running = [trial.number for trial in self.trials if trial.slot is not None]
        assert sorted(running) == sorted(segment.trial for segment in self.executor.segments)
        for record in records:
            if isinstance(record, EpochDone):
                assert record.epoch <= self._max_epochs
            elif isinstance(record, TrialEnded):
                assert record.trial not in running, "a trial ended while it ran"

    def _observe(self) -> None:
        records = self._new()
        self.check(records)
        if self._until is not None and any(map(self._until, records)):
            raise _Killed
        self._each()
        if self._dies:
            raise _Killed
        assert not self.executor.silent, "everything waits for something"
        before, self._progress = self._progress, (len(self.study.trials), self.study.epochs)
        self._idle = self._idle + 1 if before == self._progress else 0
        assert self._idle < PATIENCE, "it goes on for ever, without a new trial or epoch"
        if self._words == self._stop_after:
            self.stop()
        self._words += 1

    def _new(self) -> list[Record]:
        """The records since it was last asked."""
        records = [entry.record for entry in self.entries[self._seen :]]
        self._seen = len(self.entries)
        return records

    # What it begins with --------------------------------------------------------------------------------------------

    def _records(self) -> list[Record]:
        records: list[Record] = []
        if self.study.header is None:
            parameters = self.scenario.parameters()
            header = Header(
                format=FORMAT,
                uid="0",
                study="simulated",
                seed=self._seed,
                objectives=(self._objective,),
                source="",
                digest="",
                parameters=parameters,
                versions={},
            )
            records.append(header)
        if not self.study.phases or self.study.phases[-1] != self._backend:
            records.append(self._backend)
        return [*records, *self._imported, SearchStarted("simulated", 0, self._options)]

    def _disk(self, ahead: Mapping[int, int]) -> Disk:
        """What the workers of the processes before have written; of the trials in `ahead`, up to that epoch."""
        epochs: dict[tuple[int, int], int] = {}
        history: dict[tuple[int, int], list[EpochDone]] = {}
        for record in self.records:
            match record:
                case EpochDone():
                    curve = history.setdefault((record.trial, record.execution), [])
                    if record.epoch == len(curve) + 1:
                        curve.append(record)
                case Checkpointed() | SegmentEnded(outcome="reached"):
                    key = record.trial, record.execution
                    epochs[key] = max(epochs.get(key, 0), record.epoch)
        for number, epoch in ahead.items():
            trial = self.study.trials[number]
            curve = history.setdefault((number, 0), [])
            run = Run(trial.params, number, 0, trial.seed)
            curve += [epoch_done(self.scenario, run, later) for later in range(len(curve) + 1, epoch + 1)]
            epochs[number, 0] = epoch
        return {
            (str(PATHS.trial(trial).folder), execution): self._checkpoint(
                trial, history[trial, execution][: epochs[trial, execution]]
            )
            for trial, execution in epochs
        }

    def _checkpoint(self, trial: int, history: Sequence[EpochDone]) -> Checkpoint:
        best = None
        for record in history:
            value = record.logs[self._objective.name]
            if self._objective.better(value, best[1] if best else None):
                best = record.epoch, value
        finishes = self.scenario.finishes(Run(self.study.trials[trial].params, trial))
        return Checkpoint(tuple(history), best, finishes is not None and len(history) >= finishes)
