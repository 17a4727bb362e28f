"""A search without training: the real controller and the real driver, with simulated workers and a virtual clock.

Everything is a function of the arguments. A simulation can be resumed after any of its records, like a search whose
process was killed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from search.backends.base import BackEnd
from search.driver.computations import VirtualComputations
from search.driver.inbox import Steering
from search.driver.loop import Driver
from search.executors.scenario import Ancestors, Hp, Params, Run, Scenario
from search.executors.simulated import Disk, SimulatedCheckpoint, SimulatedExecutor
from search.executors.simulated_nodes import Cluster
from search.executors.simulated_work import epoch_done, inherited_folder
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.limits import Limits
from search.scheduler.stopping import StopRule
from search.space.file import SpaceRef
from search.study.journal import Entry, Journal
from search.study.paths import StudyPaths
from search.study.records import (
    FORMAT,
    BackendChanged,
    Built,
    CheckpointDropped,
    Checkpointed,
    EpochDone,
    Header,
    ParameterSet,
    Record,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    TrialEnded,
    TrialImported,
)
from search.study.request_files import Received
from search.study.requests import STEERED_LIMITS, Action, Reply, Request
from search.study.study import Study
from search.study.trial import Objective
from search.study.trials import Trial
from search.testing.observed import CheckedBackEnd, ObservedExecutor

__all__ = ["Hp", "Params", "Scenario", "Simulation"]

MAX_IDLE_MESSAGES = 2000
"""Messages in a row without a new trial or epoch, after which a search counts as hanging."""

PATHS = StudyPaths.of("nowhere", "simulated")
"""The paths of a study without files."""

# The search -----------------------------------------------------------------------------------------------------------


class _Requests:
    """An inbox without files.

    Attributes:
        waiting: the requests that have come in.
        replies: by request, the driver's reply.
    """

    def __init__(self) -> None:
        self.waiting: list[Request] = []
        self.replies: dict[str, Reply] = {}

    def open(self) -> None:
        pass

    def take(self) -> list[Received]:
        taken, self.waiting = [Received(request.id, request) for request in self.waiting], []
        return taken

    def reply(self, id: str, reply: Reply) -> None:
        self.replies[id] = reply

    def close(self, reply: Reply) -> None:
        for received in self.take():
            self.reply(received.id, reply)


class _Killed(Exception):
    """The search's process ends here."""


class _MemoryJournal(Journal):
    """A journal without a file."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def append(self, records: Iterable[Record], time: float | None = None) -> list[Entry]:
        assert time is not None
        entries = [Entry(record, time, 0) for record in records]
        self.entries += entries
        return entries

    def flush(self, *, only_if_due: bool = False) -> bool:
        return True

    def close(self) -> None:
        pass


class _Retention:
    """A follower that deletes dropped checkpoints from the simulated disk."""

    protocol = 1

    def __init__(self, executor: SimulatedExecutor) -> None:
        self._executor = executor

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if isinstance(entry.record, CheckpointDropped):
                self._executor.drop(PATHS.trial(entry.record.trial))

    def flushed(self) -> None:
        pass


class _NoView:
    """A view that shows nothing."""

    def update(self, now: float) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def name_slot(self, slot: int, label: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class Simulation:
    """One process's run of a study, from its start to its end.

    Args:
        scenario: the space and its training.
        make_backend: makes the back end from the study, when a phase begins.
        objective: the metric to compare.
        seed: of the study.
        slots: the number of workers.
        max_epochs: the most epochs that one trial gets.
        limits: when the search ends.
        order: seed for the order of messages that workers send at the same time.
        checkpoint_every: virtual seconds between checkpoints within a segment.
        backend, backend_options: the back end's name, and the options of its phase; other ones on `resume` begin a new
            phase. A sampler `grid` among the options lists the values of continuous parameters.
        entries: a journal to resume.
        disk: by trial, the epoch of its checkpoint; by default as journaled.
        checkpoints: all that is on the disk, instead of `disk`: the checkpoints of an earlier simulation's executor.
        try_first: initial configurations.
        imported: trials of other studies, imported at the start.
        rules: stop rules beside those of `limits`; a resume needs new ones.
        computing: virtual seconds that a computation of the back end takes.
        cluster: the nodes that the workers are on (`search.executors.simulated_nodes`), whose slots take the place of
            `slots`.

    Attributes:
        entries: the journal.
        study, controller, executor: those of the run.
        end: how the search ended; None before its end, and if its process was killed.

    Example:
        Random search over a space of one rate, with four workers::

            >>> from search.scheduler.limits import Limits
            >>> from search.testing import Scenario, Simulation
            >>> from search.testing.backends import RandomSearch
            >>> scenario = Scenario(lambda hp: hp.Float("rate", 0, 1), lambda run, epoch: run["rate"] + 1 / epoch)
            >>> simulation = Simulation(scenario, lambda study: RandomSearch(), slots=4, limits=Limits(max_trials=8))
            >>> simulation.run().end.complete, len(simulation.trials), simulation.study.epochs
            (True, 8, 72)
    """

    def __init__(
        self,
        scenario: Scenario,
        make_backend: Callable[[Study], BackEnd],
        *,
        objective: Objective = Objective("val_loss", "min"),  # noqa: B008  # frozen
        seed: int = 0,
        slots: int = 1,
        max_epochs: int = 9,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        order: int = 0,
        checkpoint_every: float = 2.0,
        backend: str = "tested",
        backend_options: Mapping[str, Any] | None = None,
        entries: Sequence[Entry] = (),
        disk: Mapping[int, int] | None = None,
        checkpoints: Disk | None = None,
        try_first: Sequence[Params] = (),
        imported: Sequence[TrialImported] = (),
        rules: Sequence[StopRule] = (),
        computing: float = 0.3,
        cluster: Cluster | None = None,
    ) -> None:
        slots = slots if cluster is None else cluster.slots
        self._arguments: dict[str, Any] = {"scenario": scenario, "make_backend": make_backend}
        self._arguments |= {"objective": objective, "seed": seed, "slots": slots, "max_epochs": max_epochs}
        self._arguments |= {"limits": limits, "order": order, "checkpoint_every": checkpoint_every, "backend": backend}
        self._arguments["backend_options"] = backend_options
        self._arguments |= {"try_first": try_first, "computing": computing, "cluster": cluster}
        self.scenario = replace(scenario, metric=objective.name)
        self._imported = list(imported)
        self.entries = list(entries)
        self._objective, self._seed, self._max_epochs = objective, seed, max_epochs
        self._limit, self._ranks = limits.checkpoint_bytes, False
        self.study = Study()
        self.controller = Controller(
            self.study,
            lambda _: self._checked(make_backend(self.study)),
            limits,
            slots,
            max_epochs,
            try_first,
            rules,
        )
        self.controller.replay(self.entries)
        self.end: SearchEnded | None = None
        self._backend = BackendChanged(backend, backend_options or {})
        self._options = {**asdict(limits), "slots": slots}
        began = self.entries[-1].time + 60 if self.entries else 1e9
        on_disk = self._disk(disk or {}) if checkpoints is None else checkpoints
        self.executor = ObservedExecutor(self.scenario, slots, began=began, disk=on_disk, order=order, cluster=cluster)
        self.executor.observe = self._observe
        self.executor.saved = lambda trial, number: self.study.trials[trial].execution(number).checkpoint
        self._requests = _Requests()
        self._driver = Driver(
            self.controller,
            _MemoryJournal(self.entries),
            self.executor,
            SpaceRef(),
            PATHS,
            Options(checkpoint_every=checkpoint_every),
            followers=[_Retention(self.executor)],
            view=_NoView(),
            checkpoints=self.executor,
            computations=VirtualComputations(self.executor, computing),
            steering=Steering(self._requests, Options(), lambda opts: _limits_of(limits, opts), frees_memory=True),
            now=self.executor.now,
        )
        self._until: Callable[[Record], bool] | None = None
        self._stop_after: int | None = None
        self._before_message: Callable[[], None] = lambda: None
        self._killed = False
        self._seen = len(self.entries)
        self._messages = self._idle = 0
        self._progress: object = None

    # Using it -------------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        until: Callable[[Record], bool] | None = None,
        stop_after: int | None = None,
        before_message: Callable[[], None] = lambda: None,
    ) -> Simulation:
        """Return this simulation, whose search has run to its end.

        Args:
            until: the process is killed at the first new record for which this returns True.
            stop_after: number of messages after which the user asks for a stop.
            before_message: called before every message; may `stop` or `kill` the search, or `executor.kill` a worker.
        """
        self._until, self._stop_after, self._before_message = until, stop_after, before_message
        try:
            self.end = self._driver.run(self._first_records())
        except _Killed:
            return self
        self.check(self._new_records())
        return self

    def stop(self) -> None:
        """Ask for a stop as the user would; it comes with the next message."""
        self._driver.stop()

    def steer(self, action: Action) -> str:
        """Send the request `action` as the user would, after the next message. Return its id, a key of `replies`."""
        number = len(self._requests.waiting) + len(self._requests.replies)
        request = Request(f"{len(self.entries)}-{number}", "0", action)
        self._requests.waiting.append(request)
        return request.id

    @property
    def replies(self) -> Mapping[str, Reply]:
        """The replies to the requests of `steer`, by id."""
        return self._requests.replies

    def kill(self) -> None:
        """End the search's process before the next message."""
        self._killed = True

    def resume(self, keep: int | None = None, **changes: Any) -> Simulation:
        """Return the next process's run, not yet started, after the first `keep` records; all of them if None.

        Args:
            keep: the number of records that the next process finds.
            changes: arguments of `Simulation` that differ from this one's.
        """
        return Simulation(entries=self.entries[:keep], **{**self._arguments, **changes})

    @property
    def records(self) -> list[Record]:
        """The records of the journal."""
        return [entry.record for entry in self.entries]

    @property
    def trials(self) -> list[Trial]:
        """The study's trials, by number."""
        return list(self.study.trials.values())

    def history(self) -> list[Any]:
        """Return each trial with its values, state and curve: equal if and only if two searches are the same."""
        name = self.study.objective.name
        curves = [[(epoch.epoch, epoch.logs[name]) for epoch in trial.curve] for trial in self.trials]
        return [
            (t.number, t.seed, t.params, t.state, t.progress.bracket, t.progress.rung, curve, t.parent)
            for t, curve in zip(self.trials, curves, strict=True)
        ]

    # At every step --------------------------------------------------------------------------------------------------

    def check(self, records: Sequence[Record]) -> None:
        """Check the laws that hold after every message. The last message led to `records`."""
        running = [trial.number for trial in self.trials if trial.resources.slot is not None]
        assert sorted(running) == sorted(segment.trial for segment in self.executor.segments)
        for record in records:
            if isinstance(record, EpochDone):
                assert self._begins_after(record.trial, record.execution) < record.epoch <= self._max_epochs
            elif isinstance(record, TrialEnded):
                assert record.trial not in running, "a trial ended while it ran"
            elif isinstance(record, SegmentEnded) and record.trial in self.executor.blameless:
                assert record.outcome == "interrupted", "a trial pays for the loss of its node"
                self.executor.blameless.remove(record.trial)
        if self._limit is not None and self._ranks:
            assert self._paused_bytes() <= self._limit, "the checkpoints of paused trials take too much room"

    def _paused_bytes(self) -> int:
        """Return the size of the checkpoints on the disk of trials that are neither ended, nor trained, nor waiting."""
        idle = {str(PATHS.trial(t.number).folder) for t in self.trials if not t.ended and not t.open}
        return sum(saved.bytes for (folder, _), saved in self.executor.disk.items() if folder in idle)

    def _observe(self) -> None:
        records = self._new_records()
        self.check(records)
        if self._until is not None and any(map(self._until, records)):
            raise _Killed
        self._before_message()
        if self._killed:
            raise _Killed
        waits = self.study.paused or self._requests.waiting
        assert waits or not self.executor.silent, "every worker waits, and no message is on its way"
        before, self._progress = self._progress, (len(self.study.trials), self.study.epochs)
        self._idle = self._idle + 1 if before == self._progress and not self.study.paused else 0
        assert self._idle < MAX_IDLE_MESSAGES, "the search goes on without a new trial or epoch"
        if self._messages == self._stop_after:
            self.stop()
        self._messages += 1

    def _new_records(self) -> list[Record]:
        """Return the records since the last call."""
        records = [entry.record for entry in self.entries[self._seen :]]
        self._seen = len(self.entries)
        return records

    def _checked(self, backend: BackEnd) -> CheckedBackEnd:
        self._ranks = hasattr(backend, "expendable")
        return CheckedBackEnd(backend, self.study, self._max_epochs)

    # The start ------------------------------------------------------------------------------------------------------

    def _first_records(self) -> list[Record]:
        """Return the records with which the process begins."""
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
        """Return the checkpoints that the workers of earlier processes have written.

        Args:
            ahead: by trial, the epoch of its checkpoint, if that is not as journaled.
        """
        epochs: dict[tuple[int, int], int] = {}
        history: dict[tuple[int, int], list[EpochDone]] = {}
        handed_on: Disk = {}
        waiting: Disk = {}
        for record in self.records:
            if isinstance(record, (ParameterSet, Built, EpochDone)):
                # A worker's message: by then, the driver has carried out what it had decided before.
                handed_on |= waiting
            match record:
                case EpochDone():
                    curve = history.setdefault((record.trial, record.execution), [])
                    if record.epoch == self._begins_after(record.trial, record.execution) + len(curve) + 1:
                        curve.append(record)
                case Checkpointed() | SegmentEnded(outcome="reached"):
                    key = record.trial, record.execution
                    epochs[key] = max(epochs.get(key, 0), record.epoch)
                case CheckpointDropped():
                    epochs = {key: epoch for key, epoch in epochs.items() if key[0] != record.trial}
                case SegmentRequested(parent=int()):
                    waiting |= self._handed_on(record, history)
        for number, epoch in ahead.items():
            curve = history.setdefault((number, 0), [])
            run = self._run_of(number, 0)
            first = self._begins_after(number, 0) + len(curve) + 1
            curve += [epoch_done(self.scenario, run, later) for later in range(first, epoch + 1)]
            epochs[number, 0] = epoch
        return handed_on | {
            (str(PATHS.trial(trial).folder), execution): self._checkpoint(
                trial, execution, [record for record in history[trial, execution] if record.epoch <= epoch]
            )
            for (trial, execution), epoch in epochs.items()
        }

    def _handed_on(self, record: SegmentRequested, history: Mapping[tuple[int, int], list[EpochDone]]) -> Disk:
        """Return the checkpoints that a trial has from its parent, whose epochs so far are in `history`."""
        assert record.parent is not None
        folder = inherited_folder(str(PATHS.trial(record.trial).folder))
        found: Disk = {}
        for (trial, number), curve in history.items():
            if trial == record.parent:
                found[folder, number] = self._checkpoint(trial, number, curve)
        return found

    def _checkpoint(self, trial: int, execution: int, history: Sequence[EpochDone]) -> SimulatedCheckpoint:
        best = None
        for record in history:
            value = record.logs[self._objective.name]
            if self._objective.better(value, best[1] if best else None):
                best = record.epoch, value
        run = self._run_of(trial, execution)
        finishes = self.scenario.finishes(run)
        stopped = finishes is not None and bool(history) and history[-1].epoch >= finishes
        size = self.scenario.bytes(run)
        return SimulatedCheckpoint(tuple(history), best, stopped, (run.seed, dict(run)), run.ancestors, size)

    def _begins_after(self, trial: int, execution: int) -> int:
        parent = self.study.trials[trial].parent
        return 0 if parent is None else parent.epoch(execution)

    def _run_of(self, trial: int, execution: int) -> Run:
        run = Run(self.study.trials[trial].params, trial, execution, self.study.training_seed(trial, execution))
        run.ancestors = self._ancestors(self.study.trials[trial], execution)
        return run

    def _ancestors(self, trial: Trial, execution: int) -> Ancestors:
        if trial.parent is None:
            return ()
        parent = self.study.trials[trial.parent.trial]
        before = self._ancestors(parent, trial.parent.execution(execution))
        return (*before, (trial.parent.epoch(execution), dict(parent.params)))


def _limits_of(limits: Limits, options: Options) -> Limits:
    """Return `limits` with those of `options` that were given."""
    given = {name: value for name in STEERED_LIMITS if (value := getattr(options, name)) is not None}
    return replace(limits, **given)
