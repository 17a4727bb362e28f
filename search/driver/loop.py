"""The loop of a running search: hand events to the controller, journal what it decides, then act.

This is the only process that writes the journal, and it never imports Keras.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Protocol

from search.executors.base import Executor
from search.messages import Evaluate, Evaluated, Message, Notice, Segment
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.events import (
    Event,
    FromWorker,
    Kill,
    Reaction,
    StartEvaluation,
    StartSegment,
    StopRequested,
    Tick,
)
from search.space.file import SpaceRef
from search.study.journal import Journal
from search.study.paths import StudyPaths
from search.study.records import Record, SearchEnded, SegmentEnded, TimedOut

POLL_SECONDS = 0.1
VIEW_SECONDS = 0.1

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a search in order: Ctrl-C, a cluster that takes its machine back, a terminal that is closed."""

SAID: Mapping[str, str] = {"failed": "failed", "lost": "lost", "no_memory": "stopped", "no_space": "stopped"}
"""How a segment ended of whose end the user is told, in a word."""


class Watcher(Protocol):
    """What the driver tells of every step: a view, a tracker."""

    def update(self, now: float) -> None: ...


class Follower(Protocol):
    """What acts on every record: `take` is called when it was journaled and applied, `flushed` when the disk has it."""

    def take(self, records: Iterable[Record], time: float) -> None: ...
    def flushed(self) -> None: ...


class Driver:
    """Runs one study until its controller is finished.

    Args:
        controller: decides; its study has been rebuilt from the journal.
        journal: open, with its lock held.
        executor: where segments run.
        space: the user's code, as workers find it.
        paths, options: of the study.
        followers: are given every record, and told when the disk has them.
        data: the folder of the arrays that workers share, if any.
        news: called after records were journaled.
        view: updated about ten times a second.
        say: prints one line that stays.
        now: the clock, seconds since the epoch.
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
        news: Callable[[], None],
        view: Watcher,
        say: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._controller = controller
        self._journal = journal
        self._executor = executor
        self._space = space
        self._paths = paths
        self._options = options
        self._followers = followers
        self._data = data
        self._news = news
        self._view = view
        self._say = say
        self._clock = now
        self._noticed: set[str] = set()
        self._finished: SearchEnded | None = None
        self._interrupts = 0
        self._viewed = 0.0

    def run(self, records: Iterable[Record]) -> SearchEnded:
        """Begin with `records`, and search until the end.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C; everything journaled so far stands.
            JournalError: the journal cannot be written; so does it.
        """
        # Only a main thread may handle signals: in another one, the caller stops the search by other means.
        main = threading.current_thread() is threading.main_thread()
        # Who ignores one, as `nohup` does, goes on ignoring it.
        numbers = [number for number in STOPS if main and signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            self._run(records)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._executor.close(now=self._finished is None)
            self._journal.close()
        assert self._finished is not None
        self._flushed()
        return self._finished

    def _now(self) -> float:
        # As the journal has it, so that what is replayed is what was lived.
        return round(self._clock(), 4)

    def _run(self, records: Iterable[Record]) -> None:
        now = self._now()
        self._act(self._controller.begin(records, now), now)
        while self._finished is None:
            self._executor.poll(self._receive, POLL_SECONDS)
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
            raise KeyboardInterrupt
        self._say("stopping when the running epochs end; once more stops at once, and loses nothing journaled")

    def stop(self) -> None:
        """Have the search end when the running epochs do, as the first Ctrl-C does."""
        self._interrupts = max(1, self._interrupts)

    def _receive(self, slot: int, message: Message) -> None:
        if isinstance(message, Notice):
            if message.text not in self._noticed:
                self._noticed.add(message.text)
                self._say(message.text)
            return
        if isinstance(message, Evaluated) and message.error is not None:
            self._say(f"trial {message.trial}'s best model: {message.error}")
        self._handle(FromWorker(slot, message))  # type: ignore[arg-type]  # a probe's answer never comes here

    def _handle(self, event: Event) -> None:
        if self._finished is not None:
            return
        now = self._now()
        if self._interrupts:
            self._act(self._controller.handle(StopRequested(), now), now)
        self._act(self._controller.handle(event, now), now)
        if not isinstance(event, Tick):
            self._show()

    def _act(self, reaction: Reaction, now: float) -> None:
        if reaction.records:
            self._journal.append(reaction.records, now)
            for follower in self._followers:
                follower.take(reaction.records, now)
            self._news()
            self._announce(reaction.records)
        for slot, instruction in reaction.instructions:
            if isinstance(instruction, StartSegment):
                self._executor.start(slot, self._segment(slot, instruction))
            elif isinstance(instruction, StartEvaluation):
                self._executor.start(slot, self._evaluation(instruction))
            elif isinstance(instruction, Kill):
                self._executor.kill(slot, instruction.reason)
            else:
                self._executor.send(slot, instruction)
        if reaction.end is not None:
            self._finished = reaction.end

    def _announce(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, SegmentEnded) and record.outcome in SAID:
                self._say(f"trial {record.trial} {SAID[record.outcome]}: {record.error}")
            elif isinstance(record, TimedOut):
                self._say(f"trial {record.trial} ends: {record.reason}")

    def _segment(self, slot: int, start: StartSegment) -> Segment:
        trial = self._controller.study.trials[start.trial]
        return Segment(
            trial=start.trial,
            execution=start.execution,
            space=self._space,
            values=dict(trial.params),
            seed=self._controller.study.training_seed(start.trial, start.execution),
            from_epoch=trial.execution(start.execution).epochs,
            to_epoch=start.to_epoch,
            objective=self._controller.study.objective,
            folder=str(self._paths.trial(start.trial).folder),
            judged=start.judged,
            checkpoint_every=self._options.checkpoint_every,
            fuse=self._options.fuse,
            run_eagerly=self._options.run_eagerly,
            data=self._data,
            cached_trials=self._controller.affinity.trials(slot),
        )

    def _evaluation(self, evaluation: StartEvaluation) -> Evaluate:
        trial = self._controller.study.trials[evaluation.trial]
        files = self._paths.trial(evaluation.trial)
        return Evaluate(
            trial=evaluation.trial,
            space=self._space,
            values=dict(trial.params),
            weights=str(files.best(trial.best_execution)),
            folder=str(files.folder),
            test=evaluation.test,
            model=str(self._paths.model) if evaluation.export else None,
            data=self._data,
        )

    def _show(self) -> None:
        now = self._now()
        if now - self._viewed >= VIEW_SECONDS or now < self._viewed:
            self._viewed = now
            self._view.update(now)
