"""The loop of a running search: hand an event to the controller, journal its decisions, then act on them.

Only this process writes the journal. It never imports Keras.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Protocol

from search.driver.computations import Computations, Threads
from search.driver.hand_on import Checkpoints, hand_on
from search.driver.inbox import Steering
from search.driver.study_files import StudyFiles
from search.errors import Unavailable
from search.executors.base import Executor
from search.executors.waiting import show_stage
from search.messages import (
    Evaluate,
    Evaluated,
    FileRequest,
    Heartbeat,
    Inherited,
    Lost,
    Message,
    Notice,
    Probed,
    ProbeFailed,
    Segment,
    SlotClosed,
    SlotOpened,
    Stage,
    StoppedAtOnce,
)
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.events import (
    EndWorker,
    Event,
    FromWorker,
    Kill,
    Reaction,
    SlotChanged,
    StartEvaluation,
    StartSegment,
    Steer,
    StopRequested,
    Tick,
)
from search.space.file import SpaceRef
from search.storage.transfers import Transfers
from search.study.clock import SearchClock
from search.study.data_changes import changed_data
from search.study.journal import Journal
from search.study.paths import StudyPaths
from search.study.records import Computed, DataLoaded, Record, SearchEnded, SegmentEnded, TimedOut
from search.study.requests import Reply
from search.study.trials import Trial
from search.tracking.followers import Follower

POLL_SECONDS = 0.1

COMPUTING_POLL_SECONDS = 0.005
"""The same while a computation of the back end is under way: all workers may wait for it, and no message tells its end.
"""

VIEW_SECONDS = 0.1

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a search in order: Ctrl-C, a cluster that takes its machine back, a terminal that is closed."""

ANNOUNCED: Mapping[str, str] = {
    "failed": "failed",
    "raised": "failed",
    "lost": "lost",
    "no_memory": "stopped",
    "no_space": "stopped",
    "infeasible": "is infeasible",
}
"""The outcomes of segments that the user is told, with the word for each."""


class View(Protocol):
    """The display of a running search; `search.display.live` has one for terminals and one of plain lines."""

    def update(self, now: float) -> None:
        """Show the state at `now` if a redraw is due. Cheap otherwise."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def name_slot(self, slot: int, label: str | None) -> None:
        """Show `slot`, which may be a new one, under another name; None: it is closed."""

    def close(self) -> None:
        """Stop redrawing. May be called twice; `say` still works."""


class Driver:
    """The loop of one study, until its controller ends the search.

    Args:
        controller: the decisions; its study has been rebuilt from the journal.
        journal: open for writing, with its lock held.
        executor: runs the segments.
        space: the place where workers find the user's code.
        paths, options: the study's.
        followers: are given every journal entry, and told when the disk has the entries.
        data: the folder of the arrays that workers share, if any.
        view: the display; updated about ten times a second.
        files: the files of trials; by default in the study's folder.
        checkpoints: those of trials, to hand on to their children; by default among `files`.
        computations: makes those of the back end; by default in threads.
        steering: the user's requests to the running search; by default nobody steers it.
        now: the clock, in seconds since the epoch; by default one that passes while this process runs.
    """

    def __init__(
        self,
        controller: Controller,
        journal: Journal,
        executor: Executor,
        space: SpaceRef,
        paths: StudyPaths,
        options: Options,
        *,
        followers: Sequence[Follower] = (),
        data: str | None = None,
        view: View,
        files: StudyFiles | None = None,
        checkpoints: Checkpoints | None = None,
        computations: Computations | None = None,
        steering: Steering | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._controller = controller
        self._journal = journal
        self._executor = executor
        self._space = space
        self._paths = paths
        self._options = options
        self._followers = followers
        self._data = data
        self._view = view
        self._files = StudyFiles() if files is None else files
        self._checkpoints = self._files if checkpoints is None else checkpoints
        self._transfers = Transfers()
        self._computations = Threads() if computations is None else computations
        self._steering = Steering() if steering is None else steering
        self._say = view.say
        self._clock = now or SearchClock(controller.study.last_at, watched=not getattr(executor, "in_process", False))
        self._noticed: set[str] = set()
        self._end: SearchEnded | None = None
        self._interrupts = 0
        self._ids = itertools.count(1)
        self._works: dict[int, int] = {}
        self._viewed = 0.0

    def run(self, records: Iterable[Record], loaded: DataLoaded | None = None) -> SearchEnded:
        """Begin with `records`, and search until the end. Return how the search ended.

        Args:
            loaded: the data as the probe has loaded them.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C. Everything journaled so far is kept.
            JournalError: the journal cannot be written. Everything journaled so far is kept.
        """
        # Only a main thread may handle signals. In another thread the caller stops the search by other means.
        main = threading.current_thread() is threading.main_thread()
        # A signal that is ignored, as under `nohup`, stays ignored.
        numbers = [number for number in STOPS if main and signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            self._run(records, loaded)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            show_stage(None)
            self._executor.close(now=self._end is None)
            self._journal.close()
            self._steering.close("its process stopped at once" if self._end is None else self._end.reason)
        assert self._end is not None
        self._flushed()
        return self._end

    def _now(self) -> float:
        # The journal's precision: a replay then sees the same times as the live search.
        return round(self._clock(), 4)

    def _run(self, records: Iterable[Record], loaded: DataLoaded | None) -> None:
        now = self._now()
        self._act(self._controller.begin(records, now), now)
        self._steering.open()
        self._tell_pause()
        if loaded is not None:
            self._compare_data(loaded)
        while self._end is None:
            computing = self._computations.under_way
            self._executor.poll(self._receive, COMPUTING_POLL_SECONDS if computing else POLL_SECONDS)
            for event in self._computations.ended():
                self._handle(event)
            for reply in self._steering.carry_out(self._steer):
                if reply.accepted:
                    self._say(reply.text)
            self._handle(Tick())
            if self._journal.flush(only_if_due=True):
                self._flushed()
            self._show()

    def _flushed(self) -> None:
        for follower in self._followers:
            follower.flushed()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise StoppedAtOnce
        running = "evaluations" if self._controller.evaluation.running else "epochs"
        self._say(f"stopping when the running {running} end; once more stops at once, and loses nothing journaled")

    def stop(self) -> None:
        """End the search at the end of the running epochs, as the first Ctrl-C does."""
        self._interrupts = max(1, self._interrupts)

    def _receive(self, slot: int, work: int, message: Message) -> None:
        if isinstance(message, Notice):
            self._say_once(message.text)
        elif isinstance(message, (SlotOpened, SlotClosed)):
            self._view.name_slot(slot, message.label if isinstance(message, SlotOpened) else None)
            self._handle(SlotChanged(slot, message))
        elif work != self._works.get(slot) or isinstance(message, (Probed, ProbeFailed, Stage, Heartbeat)):
            return  # from a process that was given up
        elif isinstance(message, FileRequest):
            self._executor.send(slot, work, self._transfers.answer(work, message))
        else:
            self._receive_from_worker(FromWorker(slot, message))

    def _receive_from_worker(self, event: FromWorker) -> None:
        message = event.message
        if isinstance(message, (SegmentEnded, Evaluated, Lost)):
            self._transfers.end(self._works.pop(event.slot))
        if isinstance(message, Evaluated):
            self._bring_evaluated(message.trial)
            for text in filter(None, (message.error, message.warning)):
                self._say(f"trial {message.trial}'s best model: {text}")
        elif isinstance(message, DataLoaded):
            self._compare_data(message)
        self._handle(event)

    def _bring_evaluated(self, trial: int) -> None:
        """Bring the results of a final evaluation into the study's folder, before anybody is told of them."""
        try:
            self._files.bring_evaluated(self._paths.trial(trial), self._paths.model)
        except Unavailable as error:
            self._say(f"trial {trial}'s best model: {error}")

    def _say_once(self, text: str) -> None:
        if text not in self._noticed:
            self._noticed.add(text)
            self._say(text)

    def _compare_data(self, loaded: DataLoaded) -> None:
        """Tell the user if these are other data than the study began with."""
        known = self._controller.study.data.get(loaded.key)
        if known is not None and (changes := changed_data(known, loaded.fingerprint)):
            self._say_once(f"load_data gives other data than when the study began, scores may not compare: {changes}")

    def _handle(self, event: Event) -> None:
        if self._end is not None:
            return
        now = self._now()
        if self._interrupts:
            self._act(self._controller.handle(StopRequested(), now), now)
        if self._end is None:  # the stop may have ended the search
            self._act(self._controller.handle(event, now), now)
        if not isinstance(event, Tick):
            self._show()

    def _steer(self, event: Steer) -> Reply:
        """Let the controller decide on a request, and carry that out. The reply is true also after a power failure."""
        if self._end is not None:
            return Reply(False, f"the search has ended: {self._end.reason}")
        now = self._now()
        reaction = self._controller.handle(event, now)
        self._act(reaction, now)
        if self._journal.flush():
            self._flushed()
        assert reaction.reply is not None
        return reaction.reply

    def _tell_pause(self) -> None:
        """Tell the user if the search is paused from an earlier process."""
        study = self._controller.study
        if study.paused:
            self._say(f"the search is paused, and begins no work: go on with: search continue {study.name}")

    def _act(self, reaction: Reaction, now: float) -> None:
        if reaction.records:
            entries = self._journal.append(reaction.records, now)
            for follower in self._followers:
                follower.take(entries)
            self._announce(reaction.records)
        for line in reaction.lines:
            self._say(line)
        for child in reaction.hand_on:
            hand_on(self._checkpoints, child, self._controller.study, self._paths)
        for slot, instruction in reaction.instructions:
            if isinstance(instruction, (StartSegment, StartEvaluation)):
                self._works[slot] = next(self._ids)
            if isinstance(instruction, StartSegment):
                self._start(slot, self._segment(slot, instruction))
            elif isinstance(instruction, StartEvaluation):
                self._start(slot, self._evaluation(slot, instruction))
            elif isinstance(instruction, Kill):
                self._executor.kill(slot, self._works.get(slot, 0), instruction.reason)
            elif isinstance(instruction, EndWorker):
                if hasattr(self._executor, "retire"):
                    self._executor.retire(slot)
            else:
                self._executor.send(slot, self._works.get(slot, 0), instruction)
        if reaction.compute is not None:
            self._computations.start(reaction.compute)
        if reaction.end is not None:
            self._end = reaction.end

    def _start(self, slot: int, work: Segment | Evaluate) -> None:
        if isinstance(work, Evaluate):
            show_stage("evaluating the best trials")
        self._transfers.begin(work)
        self._executor.start(slot, work)

    def _announce(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, SegmentEnded) and record.outcome in ANNOUNCED:
                self._say(f"trial {record.trial} {ANNOUNCED[record.outcome]}: {record.error}")
            elif isinstance(record, TimedOut):
                self._say(f"trial {record.trial} ends: {record.reason}")
            elif isinstance(record, Computed) and record.error is not None:
                name = self._controller.study.phases[-1].backend
                self._say_once(f"a computation of back end {name} failed, and the search goes on: {record.error}")

    def _segment(self, slot: int, start: StartSegment) -> Segment:
        study = self._controller.study
        trial = study.trials[start.trial]
        execution = trial.execution(start.execution)
        return Segment(
            trial=start.trial,
            execution=start.execution,
            space=self._space,
            values=dict(trial.params),
            seed=study.training_seed(start.trial, start.execution),
            from_epoch=execution.epochs,
            to_epoch=start.to_epoch,
            objective=study.objective,
            folder=str(self._paths.trial(start.trial).folder),
            judged=start.judged,
            checkpoint_every=self._options.checkpoint_every,
            fuse=self._options.fuse,
            graph_sharing=self._options.graph_sharing,
            run_eagerly=self._options.run_eagerly,
            max_weights=self._options.max_weights,
            data=self._data,
            cached_trials=self._controller.affinity.trials_of(slot),
            inherited=self._inherited(trial, start.execution),
            best=execution.saved_best(study.objective.name),
            id=self._works[slot],
            storage=self._files.storage_of(self._paths.trial(start.trial)),
        )

    def _inherited(self, trial: Trial, execution: int) -> Inherited | None:
        if trial.parent is None:
            return None
        parent, number = trial.parent.trial, trial.parent.execution(execution)
        seed = self._controller.study.training_seed(parent, number)
        return Inherited(parent, trial.parent.epoch(execution), number, seed)

    def _evaluation(self, slot: int, evaluation: StartEvaluation) -> Evaluate:
        trial = self._controller.study.trials[evaluation.trial]
        files = self._paths.trial(evaluation.trial)
        return Evaluate(
            trial=evaluation.trial,
            space=self._space,
            values=dict(trial.params),
            weights=str(files.best(trial.best.execution)),
            seed=self._controller.study.training_seed(trial.number, trial.best.execution),
            folder=str(files.folder),
            objective=self._controller.study.objective,
            reference=str(files.reference(trial.best.execution)),
            test=evaluation.test,
            model=str(self._paths.model) if evaluation.export else None,
            data=self._data,
            id=self._works[slot],
            storage=self._files.storage_of(files),
        )

    def _show(self) -> None:
        now = self._now()
        if now - self._viewed >= VIEW_SECONDS or now < self._viewed:
            self._viewed = now
            self._view.update(now)
