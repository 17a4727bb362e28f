"""The controller: what a search does next, decided purely.

`handle(event, now)` takes one event and answers with the records that the driver must journal and the commands it must
then carry out. There is no clock, no file and no process here. Every decision becomes a record, and only applying
records changes state; so the state after a restart, rebuilt by `replay`, is the state of the process that died.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from search.backends.base import BackEnd
from search.messages import Answer, Evaluated, Interrupt, Lost, Question, Verdict
from search.scheduler import final_evaluation
from search.scheduler.affinity import Affinity
from search.scheduler.budget import Budget
from search.scheduler.deduplication import ExploredValues
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
from search.scheduler.failure_limit import FailureLimit
from search.scheduler.initial import InitialConfigurations, refusal, value_of
from search.scheduler.slot_pool import SlotPool
from search.scheduler.timeouts import Timeouts
from search.space.domain import Domain, Parameter, Value, compatible
from search.study.journal import Entry, uncollected
from search.study.records import (
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    Judged,
    ParameterSet,
    Record,
    ResultOutcome,
    ResultTold,
    SearchEnded,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    TimedOut,
    TrialEnded,
    TrialImported,
)
from search.study.study import Study, Trial
from search.study.trial import Done, State, Suggestion, derive_seed


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends, and what it puts up with.

    Attributes:
        max_trials: configurations to try; those that run then are promoted and finished all the same.
        max_total_epochs: epochs to train, over all trials and resumes; the last segments are cut to fit.
        timeout: seconds that the search may run, over all its resumes.
        target: end when the objective is as good as this.
        trial_timeout: seconds that one trial may run, over all its segments.
        retries: how often a trial whose process died is taken up again without having made progress.
        max_consecutive_failures: give up when so many trials have failed before any succeeded.
        executions: how often each trial is trained, with other seeds.
        evaluate_best: how many of the best trials are evaluated on the test data at the end, and the best of them written to
            a file; none at all where it is 0.
        test: whether there are test data.
    """

    max_trials: int | None = None
    max_total_epochs: int | None = None
    timeout: float | None = None
    target: float | None = None
    trial_timeout: float | None = None
    retries: int = 1
    max_consecutive_failures: int = 5
    executions: int = 1
    evaluate_best: int = 0
    test: bool = False


_BY_RESULT = -1
_OF_SEGMENTS = (EpochDone, SegmentStarted, Checkpointed, SegmentEnded, Judged)
"""Most records by far. What they change, study and back end know."""


class Controller:
    """Decides for one study.

    Args:
        study: the study; changed by what is applied here, and by nothing else.
        make_backend: makes the back end of an era, from the study's objective, seed and parameters.
        limits: when to stop.
        slots: how many segments may run at once; or, for each slot, the others that share its device's memory.
        max_epochs: the most epochs that one trial gets.
        try_first: values by name, each for a new trial before the back end draws any; what they lack is drawn.

    Attributes:
        study: as initial_values.
        homes: in which slots trials may go on without being built anew.
    """

    def __init__(
        self,
        study: Study,
        make_backend: Callable[[BackendChanged], BackEnd],
        limits: Limits,
        slots: int | Sequence[Collection[int]],
        max_epochs: int,
        try_first: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        self.study = study
        self.limits = limits
        self.max_epochs = max_epochs
        self._initial = InitialConfigurations(try_first)
        self._make_backend = make_backend
        self._backend: BackEnd | None = None
        self._explored = ExploredValues()
        self._explored_changed = False
        self.domains: dict[str, Domain] = {}
        self.affinity = Affinity()
        self._slots = SlotPool([()] * slots if isinstance(slots, int) else slots)
        self._running: dict[int, StartSegment] = {}
        self._budget = Budget(study, limits.max_total_epochs)
        self._timeouts = Timeouts(limits.trial_timeout)
        self._to_evaluate: deque[StartEvaluation] | None = None
        self._evaluating: dict[int, tuple[StartEvaluation, float]] = {}
        self._pending: deque[Trial] = deque()
        self._alone: deque[Trial] = deque()
        self._deferred: list[tuple[int, Question, Value]] = []
        self._stopping: SearchEnded | None = None
        self._over: set[int] = set()
        self.failure_limit = FailureLimit()
        self._reaction = Reaction()
        self._now = 0.0

    # Taking in facts ------------------------------------------------------------------------------------------------

    def replay(self, entries: Iterable[Entry]) -> None:
        """Take in a journal, as if every record had just been made. Only the last era's back end is rebuilt."""
        entries = list(entries)
        last_phase = max((i for i, entry in enumerate(entries) if isinstance(entry.record, BackendChanged)), default=-1)
        with uncollected():
            for i, entry in enumerate(entries):
                self._now = entry.time
                if over := self._apply(entry.record, rebuild=i >= last_phase):
                    self._over.update(over)

    def _apply(self, record: Record, *, rebuild: bool = True) -> Sequence[int]:
        """Take in one record. Returns the trials that its back end is done with."""
        self.study.apply(record, self._now)
        if not isinstance(record, _OF_SEGMENTS):
            self._note(record, rebuild)
        if self._backend is None or not rebuild:
            return ()
        return self._backend.apply(record)

    def _note(self, record: Record, rebuild: bool) -> None:
        self._explored_changed |= self._explored.apply(record)
        self._initial.apply(record)
        self.failure_limit.apply(record, self.study)
        match record:
            case Header() | SpaceChanged():
                self.domains.clear()
                self._explored = ExploredValues(record.parameters, strangers=self.study.trials)
            case ParameterSet():
                self.domains[record.parameter.key] = record.parameter.domain
            case BackendChanged() if rebuild:
                earlier = [trial for trial in self.study.trials.values() if trial.phase < self.study.phase]
                self._backend = self._make_backend(record)
                self._backend.learn([*self.study.imported.values(), *earlier])
            case TrialImported() if self._backend is not None:
                self._backend.learn([self.study.imported[record.source, record.number]])

    def _record(self, record: Record) -> None:
        """Decide a record: journal it, and apply it with what follows from it."""
        self._reaction.records.append(record)
        for number in self._apply(record):
            self._end(self.study.trials[number])
        if self._explored_changed:
            self._ask_again()

    def _end(self, trial: Trial) -> None:
        """Record that `trial` will never be trained again, if that is not known yet."""
        if trial.ended is not None:
            return
        state: State = "stopped"
        if trial.failed:
            state = "failed"
        elif not trial.stop_decided and (trial.exhausted or trial.epochs >= self.max_epochs):
            state = "completed"
        self.affinity.leave(trial.number)
        self._record(TrialEnded(trial.number, state))

    # Events ---------------------------------------------------------------------------------------------------------

    def begin(self, records: Iterable[Record], now: float) -> Reaction:
        """Start a process's run of the study with `records` (header, era, began), and fill the slots."""
        self._now = now
        for record in records:
            self._record(record)
        trials = self.study.trials.values()
        for trial in trials:
            # Their back end is gone, or the last process died before it could say so.
            if trial.phase < self.study.phase or trial.number in self._over:
                self._end(trial)
        unfinished = [trial for trial in trials if trial.open and trial.ended is None]
        # A trial waits only for those that have more answers than it has: with these first, none waits for ever.
        for trial in sorted(unfinished, key=lambda trial: len(trial.parameters), reverse=True):
            self._await(trial)
        return self._react()

    def handle(self, event: Event, now: float) -> Reaction:
        """Take in an event that happens at `now` (seconds since the epoch)."""
        self._now = now
        match event:
            case FromWorker(slot, message):
                self._message(slot, message)
            case StopRequested():
                self._stop("stopped by the user", complete=False, exit_code=130)
            case Tick():
                pass
        return self._react()

    def stop(self, reason: str, now: float, exit_code: int = 2) -> Reaction:
        """End the search for a reason from outside: the disk is full, the space file cannot be used."""
        self._now = now
        self._stop(reason, complete=False, exit_code=exit_code)
        return self._react()

    def _react(self) -> Reaction:
        self._check_limits()
        self._check_times()
        if self._stopping is None:
            self._fill()
        if self._stopping is not None and not self._running and self._reaction.end is None and self._evaluated():
            finished = self._stopping
            if finished.exit_code == _BY_RESULT:
                # Not before now: the best trial may have diverged in the epoch that it was finishing.
                finished = replace(finished, exit_code=0 if self.study.best is not None else 1)
            self._reaction.end = finished
            self._record(finished)
        reaction, self._reaction = self._reaction, Reaction()
        return reaction

    def _message(self, slot: int, message: object) -> None:
        if slot in self._evaluating:
            self._evaluation_ended(slot, message)
            return
        start = self._running.get(slot)
        if start is None:
            return  # a late word of a process that was initial_values up
        match message:
            case Question():
                self._question(slot, message)
            case EpochDone():
                self._epoch(slot, start, message)
            case Built() | Checkpointed():
                self._record(message)
            case SegmentEnded():
                self._ended(slot, message)
            case Lost():
                epochs = self.study.trials[start.trial].execution(start.execution).epochs
                self._ended(slot, SegmentEnded(start.trial, start.execution, "lost", epochs, message.reason))

    # Questions ------------------------------------------------------------------------------------------------------

    def _question(self, slot: int, question: Question) -> None:
        parameter = question.parameter
        before = self.domains.get(parameter.key, parameter.domain)
        if not compatible(before, parameter.domain):
            error = (
                f"parameter {parameter.key!r} changed its domain between trials, from {before} to {parameter.domain}: "
                "ask for the same domain every time, or give the two different names"
            )
            self._say(slot, Answer(None, error))
            self._stop(error, complete=False, exit_code=2)
            return
        if wrong := refusal(self.study.trials[question.trial].initial_values, parameter):
            self._say(slot, Answer(None, wrong))
            return
        value, attributes = self._draw(question.trial, parameter)
        if self._explored.follows(question.trial, value):
            self._deferred.append((slot, question, value))
            return
        self._record(ParameterSet(question.trial, parameter, value, attributes))
        self._say(slot, Answer(value))

    def _draw(self, trial: int, parameter: Parameter) -> tuple[Value, dict[str, object]]:
        if parameter.domain.size == 1:
            return parameter.domain.value(0), {}
        initial_values, explored = self.study.trials[trial].initial_values, self._explored.explored(trial)
        if parameter.name in initial_values and (value := value_of(initial_values, parameter)) not in explored:
            return value, {}
        assert self._backend is not None
        draw = self._backend.suggest(trial, parameter, explored)
        return draw.value, dict(draw.attributes)

    def _ask_again(self) -> None:
        """Put the questions again that waited for a trial which has been built by now."""
        self._explored_changed = False
        deferred, self._deferred = self._deferred, []
        for item in deferred:
            slot, question, value = item
            # At the start of many workers, all but one wait: to draw for each of them at every build takes long.
            if self._explored.follows(question.trial, value):
                self._deferred.append(item)
            elif slot in self._running:
                self._question(slot, question)

    # Training -------------------------------------------------------------------------------------------------------

    def _epoch(self, slot: int, start: StartSegment, message: EpochDone) -> None:
        trial = self.study.trials[start.trial]
        self._record(message)
        self._budget.reserve(slot, start)
        last = message.epoch >= start.to_epoch
        if self.study.objective.name not in message.logs and (last or not trial.own_fit):
            self._stop(
                f"objective {self.study.objective.name!r} is not in the logs of an epoch, which hold "
                f"{', '.join(message.logs)}: give one of them with --objective",
                complete=False,
                exit_code=2,
            )
        if not start.judged:
            return
        # An epoch before the last known one is trained again: it was judged then.
        if trial.epochs == message.epoch < trial.to_epoch and self._is_finite(message):
            assert self._backend is not None
            decision = self._backend.judge(start.trial, message.epoch)
            if decision.stop or decision.attributes:
                self._record(Judged(start.trial, message.epoch, decision.stop, decision.attributes))
        # At its segment's last epoch, which the budget may have brought forward, a worker waits for nothing.
        if not last:
            self._say(slot, Verdict(trial.stop_decided))

    def _is_finite(self, message: EpochDone) -> bool:
        return math.isfinite(message.logs.get(self.study.objective.name, math.nan))

    def _ended(self, slot: int, message: SegmentEnded) -> None:
        self._record(message)
        del self._running[slot]
        self._budget.release(slot)
        self._release(slot)
        self._deferred = [item for item in self._deferred if item[0] != slot]
        trial = self.study.trials[message.trial]
        if message.outcome == "no_space":
            self._stop(f"{message.error}: make room on the disk, and resume", complete=False, exit_code=2)
        if not self._settle(trial):
            self._await(trial)  # to go on from its checkpoint

    def _settle(self, trial: Trial) -> bool:
        """Tell the back end how its suggestion for `trial` ended. False where it is to be trained on."""
        if trial.failed:
            outcome: ResultOutcome = "failed"
        elif trial.stop_decided:
            outcome = "stopped"
        elif trial.exhausted:
            outcome = "stopped_by_callback"
        elif trial.unfinished is None:
            outcome = "reached"
        elif trial.expired:
            # What did not end when it was asked to hangs; else it has initial_values its best, as if a callback had ended it.
            outcome = "failed" if trial.lost else "stopped_by_callback"
        elif trial.lost > self.limits.retries:
            outcome = "failed"
        else:
            return False
        score = None if outcome == "failed" else trial.score
        self._record(ResultTold(trial.number, trial.epochs, score, "failed" if score is None else outcome))
        return True

    # Filling the slots ----------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        self._start_alone()
        while (slot := self._slots.take()) is not None:
            trial = self._next(slot)
            if trial is None:
                self._slots.release(slot)
                return
            if trial.alone:
                self._slots.release(slot)
                self._await(trial)
                self._start_alone()
            else:
                self._start(trial, self._slots.swap(slot, self.affinity.of(trial.number)))

    def _start_alone(self) -> None:
        """Start the trials that ran out of memory, each when its device is clear."""
        while (trial := self._first(self._alone)) is not None and self._budget.allows(trial):
            slot = self._slots.take(alone=True)
            if slot is None:
                return
            self._alone.popleft()
            self._start(trial, slot)
        self._slots.reopen()

    def _next(self, slot: int) -> Trial | None:
        """The trial to train next, in `slot` if it is not at home elsewhere; None where there is none for now."""
        waiting: list[Trial] = []
        while (trial := self._candidate(slot)) is not None and self._waits(trial, slot):
            waiting.append(trial)
        if trial is None and waiting:
            trial = waiting.pop(0)
        self._pending.extendleft(reversed(waiting))
        return trial

    def _waits(self, trial: Trial, slot: int) -> bool:
        """Whether `trial` lets others go first, once, as the worker that has its model trains another now."""
        home = self.affinity.of(trial.number)
        away = home is not None and home != slot and not self._slots.is_free(home)
        return away and not trial.alone and self.affinity.wait(trial.number)

    def _candidate(self, slot: int) -> Trial | None:
        """The trial that is to go on or to begin first, of those that go on one at home in `slot`."""
        at_home = next((trial for trial in self._pending if self.affinity.of(trial.number) == slot), None)
        if at_home is not None:
            self._pending.remove(at_home)
            self._pending.appendleft(at_home)
        trial = self._first(self._pending)
        if not self._budget.allows(trial):
            if not self._running:
                self._stop(f"the budget of {self._budget.most} epochs is trained", complete=True)
            return None
        return self._pending.popleft() if trial is not None else self._ask()

    def _await(self, trial: Trial) -> None:
        """Have `trial` go on when there is a slot: its process died, or was told to stop."""
        (self._alone if trial.alone else self._pending).append(trial)

    def _first(self, queue: deque[Trial]) -> Trial | None:
        """The first in a queue whose suggestion is not fulfilled yet."""
        while queue and self._settle(queue[0]):
            queue.popleft()
        return queue[0] if queue else None

    def _ask(self) -> Trial | None:
        """The trial that the back end wants trained next; None where there is none for now."""
        assert self._backend is not None
        while True:
            many = self.limits.max_trials is not None and len(self.study.trials) >= self.limits.max_trials
            suggestion = self._backend.ask(new=not many and not self._explored.exhausted)
            if not isinstance(suggestion, Suggestion):
                if not self._running:
                    self._nothing_left(many, isinstance(suggestion, Done))
                return None
            if suggestion.trial is None and self._explored.claimed and self._running:
                return None
            trial = self._asked(suggestion)
            # Where its own callbacks ended its training, it holds its place in this rung with what it has.
            if not self._settle(trial):
                return trial

    def _nothing_left(self, many: bool, done: bool) -> None:
        if self._explored.exhausted:
            reason = "every configuration of the space was tried"
        elif many:
            reason = f"the budget of {self.limits.max_trials} trials is tried"
        else:
            reason = "every bracket is done" if done else "the back end waits for nothing"
        self._stop(reason, complete=True)

    def _asked(self, suggestion: Suggestion) -> Trial:
        number, initial_values = len(self.study.trials), self._initial.next()
        if suggestion.trial is not None:
            number, initial_values = suggestion.trial, {}
        self._record(
            SegmentRequested(
                number,
                suggestion.from_epoch,
                suggestion.to_epoch,
                suggestion.bracket,
                suggestion.rung,
                suggestion.judged,
                derive_seed(self.study.seed, "train", number, 0),
                self.limits.executions,
                initial_values=initial_values,
            )
        )
        return self.study.trials[number]

    def _start(self, trial: Trial, slot: int) -> None:
        number = trial.unfinished
        assert number is not None, "what is fulfilled has been told"
        epochs = trial.execution(number).epochs
        to_epoch = self._budget.cut(epochs, trial.to_epoch)
        # A pruner judges the first execution; the others follow where it lets it pass.
        start = StartSegment(trial.number, number, to_epoch, trial.judged and number == 0)
        self._running[slot] = start
        if to_epoch < self.max_epochs or number + 1 < len(trial.executions):
            self.affinity.settle(trial.number, slot)
        else:
            self.affinity.leave(trial.number)
        self._budget.reserve(slot, start)
        self._record(SegmentStarted(trial.number, number, trial.segments, slot, epochs, to_epoch))
        self._say(slot, start)

    def _release(self, slot: int) -> None:
        """What ran in `slot` has ended."""
        self._slots.release(slot)
        self._timeouts.forget(slot)

    def _say(self, slot: int, command: StartSegment | StartEvaluation | Kill | Answer | Verdict | Interrupt) -> None:
        self._reaction.instructions.append((slot, command))

    # Harvest --------------------------------------------------------------------------------------------------------

    def _evaluated(self) -> bool:
        """Bring in what is left to be had of the best trials, once all training is over. Whether it is all in."""
        assert self._stopping is not None
        if self._to_evaluate is None:
            wanted = self.limits.evaluate_best if self._stopping.exit_code == _BY_RESULT else 0
            self._to_evaluate = deque(final_evaluation.plan(self.study, wanted, test=self.limits.test))
        while self._to_evaluate and (slot := self._slots.take()) is not None:
            evaluation = self._to_evaluate.popleft()
            self._evaluating[slot] = evaluation, self._now
            self._say(slot, evaluation)
        return not self._evaluating

    def _evaluation_ended(self, slot: int, message: object) -> None:
        evaluation, _ = self._evaluating.pop(slot)
        self._release(slot)
        if isinstance(message, Evaluated):
            for record in final_evaluation.records(self.study, evaluation, message):
                self._record(record)
        # Else its process died, or the user could wait no longer: a resume makes good for it.

    # Stopping -------------------------------------------------------------------------------------------------------

    def _check_limits(self) -> None:
        if self._stopping is not None:
            return
        limits, best = self.limits, self.study.best
        if limits.timeout is not None and self.study.seconds(self._now) >= limits.timeout:
            self._stop("the time is up", complete=False)
        elif (
            limits.target is not None
            and best is not None
            and not self.study.objective.better(limits.target, best.objective)
        ):
            self._stop(f"the target of {limits.target:g} is reached", complete=True)
        if reason := self.failure_limit.abort_reason(self.study, limits.max_consecutive_failures):
            self._stop(reason, complete=False, exit_code=1)

    def _check_times(self) -> None:
        """Have trials end that have had their time."""
        if not self._timeouts.is_due(self._now):
            return
        why = f"(--trial-timeout {self._timeouts.limit:g}s)"
        for slot, start in self._running.items():
            trial = self.study.trials[start.trial]
            if self._timeouts.has_expired(slot, trial, self._now):
                if not trial.expired:
                    self._record(TimedOut(trial.number, f"it ran for longer than it may {why}"))
                self._say(slot, Interrupt())
            elif self._timeouts.is_over(slot, self._now):
                self._say(slot, Kill(f"its epoch came to no end: it hung? {why}"))
        for slot, (_, since) in self._evaluating.items():
            self._timeouts.wait(slot, since)
            if self._timeouts.is_over(slot, self._now):
                self._say(slot, Kill(f"no end in time {why}"))

    def _stop(self, reason: str, *, complete: bool, exit_code: int | None = None) -> None:
        if self._stopping is None:
            self._stopping = SearchEnded(reason, complete, _BY_RESULT if exit_code is None else exit_code)
            for slot in self._running:
                self._say(slot, Interrupt())
