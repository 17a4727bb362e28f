"""The controller: all decisions of a search, without any side effect.

`handle(event, now)` takes one event, and returns the records that the driver must journal and the instructions that it
must then carry out. There is no clock, no file and no process here. Every decision becomes a record, and only applying
records changes state. So the state after a restart, rebuilt by `replay`, is the state of the process that died.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from search.backends.base import BackEnd
from search.messages import Answer, Evaluated, Interrupt, Lost, Question, Verdict
from search.scheduler.affinity import Affinity
from search.scheduler.budget import EpochBudget
from search.scheduler.computations import Computations
from search.scheduler.disk import CheckpointSpace
from search.scheduler.events import (
    Command,
    ComputationEnded,
    Event,
    FromWorker,
    HandOn,
    Reaction,
    SlotChanged,
    StartSegment,
    Steer,
    StopRequested,
)
from search.scheduler.final_evaluation import FinalEvaluation
from search.scheduler.limits import Limits
from search.scheduler.outcomes import BY_RESULT, end_of_lost, end_of_search, end_state, end_without_objective, result_of
from search.scheduler.questions import Questions, Refusal
from search.scheduler.slot_pool import SlotPool
from search.scheduler.steering import Situation, Steering
from search.scheduler.stopping import StopRule, counting, rules_of, with_limits
from search.scheduler.suggestions import reason_without_work, segment_request, suggestion_error
from search.scheduler.timeouts import Timeouts
from search.scheduler.waiting import WaitingTrials
from search.space.domain import Value
from search.study.journal import Entry, uncollected
from search.study.records import (
    BackendChanged,
    Built,
    CheckpointDropped,
    Checkpointed,
    DataLoaded,
    EpochDone,
    Judged,
    Record,
    SearchEnded,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TimedOut,
    TrialEnded,
    TrialImported,
)
from search.study.study import Study
from search.study.trial import Done, Suggestion, Wait
from search.study.trials import Trial
from search.wording import pluralize

_SEGMENT_RECORDS = (EpochDone, SegmentStarted, Checkpointed, SegmentEnded, Judged)
"""Most records by far. They change only the study and the back end."""


class Controller:
    """The decisions for one study.

    Args:
        study: the study; only records applied here change it.
        make_backend: makes the back end of a phase, from the study's objective, seed and parameters.
        limits: when to stop.
        slots: how many segments may run at once; or, for each slot, the others that share its device's memory.
        max_epochs: the most epochs that one trial gets.
        try_first: initial configurations: values by name, each for a new trial before the back end draws any. A value
            that one lacks is drawn.
        rules: stop rules beside those of `limits`.
        closed: the slots that take no work until they open.

    Attributes:
        study, limits, max_epochs: as given.
        evaluation: the final evaluation.
        replayed: the entries that `replay` has taken in, before the one at which it raised.
        affinity: the slots where trials may be trained further without being built again.
        questions: the model factories' questions, and the configurations that were tried.
        rules: the stop rules, those of `limits` first.
    """

    def __init__(
        self,
        study: Study,
        make_backend: Callable[[BackendChanged], BackEnd],
        limits: Limits,
        slots: int | Sequence[Collection[int]],
        max_epochs: int,
        try_first: Sequence[Mapping[str, Value]] = (),
        rules: Sequence[StopRule] = (),
        closed: Collection[int] = (),
    ) -> None:
        self.study = study
        self.limits = limits
        self.max_epochs = max_epochs
        self.replayed = 0
        self.affinity = Affinity()
        self.questions = Questions(try_first)
        self._checkpoints = CheckpointSpace(limits.checkpoint_bytes)
        self.rules = [self._checkpoints, *rules_of(limits), *rules]
        self._counting = counting(self.rules)
        self._make_backend = make_backend
        self._backend: BackEnd | None = None
        self._slots = SlotPool([()] * slots if isinstance(slots, int) else slots, closed)
        self._running: dict[int, StartSegment] = {}
        self._budget = EpochBudget(study, limits.max_total_epochs)
        self._timeouts = Timeouts(limits.trial_timeout)
        self.evaluation = FinalEvaluation(study)
        self._computations = Computations()
        self._waiting = WaitingTrials(self._tell_result, self.affinity, self._slots)
        self._steering = Steering(study, self.questions, self._budget, self._waiting, self.affinity, self._slots)
        self._extra: set[int] = set()
        self._stopping: SearchEnded | None = None
        self._given_up: set[int] = set()
        self._reaction = Reaction()
        self._now = 0.0

    # Taking in facts ------------------------------------------------------------------------------------------------

    def replay(self, entries: Iterable[Entry]) -> None:
        """Take in a journal, as if every record had just been made. Only the last phase's back end is rebuilt."""
        entries = list(entries)
        last_phase = max((i for i, e in enumerate(entries) if isinstance(e.record, BackendChanged)), default=-1)
        with uncollected():
            for self.replayed, entry in enumerate(entries):
                self._now = entry.time
                if given_up := self._apply(entry.record, rebuild=self.replayed >= last_phase):
                    self._given_up.update(given_up)

    def _apply(self, record: Record, *, rebuild: bool = True) -> Sequence[int]:
        """Take in one record. Return the trials that the back end gives up."""
        self.study.apply(record, self._now)
        for rule in self._counting:
            rule.apply(record, self.study)
        if not isinstance(record, _SEGMENT_RECORDS):
            self._apply_decision(record, rebuild)
        if self._backend is None or not rebuild or getattr(record, "trial", None) in self._extra:
            return ()
        return self._backend.apply(record)

    def _apply_decision(self, record: Record, rebuild: bool) -> None:
        self.questions.apply(record, self.study)
        match record:
            case BackendChanged() if rebuild:
                earlier = [trial for trial in self.study.trials.values() if trial.phase < self.study.phase]
                self._backend = self._make_backend(record)
                self._backend.learn([*self.study.imported.values(), *earlier])
                self._computations.begin_phase(self._backend)
            case SegmentRequested(extra=True):
                self._extra.add(record.trial)
            case TrialEnded() if rebuild and record.trial in self._extra and self._backend is not None:
                self._backend.learn([self.study.trials[record.trial]])
            case TrialImported() if self._backend is not None:
                self._backend.learn([self.study.imported[record.source, record.number]])

    def _record(self, *records: Record) -> None:
        """Decide records: journal each, and apply it with all that follows from it."""
        for record in records:
            self._reaction.records.append(record)
            for number in self._apply(record):
                self._end_trial(self.study.trials[number])
            if self.questions.may_retry:
                for slot, question in self.questions.retry():
                    if slot in self._running:
                        self._answer(slot, question)

    def _end_trial(self, trial: Trial) -> None:
        """Record that `trial` will never be trained again, unless that is recorded."""
        if trial.ended:
            return
        self.affinity.release(trial.number)
        self._record(TrialEnded(trial.number, end_state(trial, self.max_epochs)))

    # Events ---------------------------------------------------------------------------------------------------------

    def begin(self, records: Iterable[Record], now: float) -> Reaction:
        """Start a process's run of the study: record `records` (header, phase, start), and fill the slots."""
        self._now = now
        self._record(*records)
        trials = self.study.trials.values()
        for trial in trials:
            # Their back end is gone, or the last process died before it could say so.
            given_up = trial.number in self._given_up or (trial.extra and not trial.open)
            if trial.phase < self.study.phase or given_up:
                self._end_trial(trial)
        self._drop_checkpoints()
        if self.study.paused:
            self._reaction.instructions += self._steering.pause(self._running)
        # The last process may have died before it gave a child its parent's checkpoints.
        self._reaction.hand_on += [
            HandOn(trial.number, again=True) for trial in trials if trial.parent is not None and not trial.ended
        ]
        # A trial waits only for trials with more answers than it has. With these first, none waits for ever.
        for trial in sorted((t for t in trials if t.open), key=lambda t: len(t.parameters), reverse=True):
            self._waiting.add(trial)
        return self._react()

    def handle(self, event: Event, now: float) -> Reaction:
        """Take in an event that happens at `now` (seconds since the epoch)."""
        self._now = now
        match event:
            case FromWorker(slot, message):
                self._handle_message(slot, message)
            case SlotChanged(slot, change):
                self._slots.change(slot, change)
                self.affinity.forget_slot(slot)  # its worker is gone, or a new one comes
            case ComputationEnded():
                if (computed := self._computations.end(event)) is not None:
                    self._record(computed)
            case Steer():
                self._steer(event)
            case StopRequested():
                self._stop("stopped by the user", complete=False, exit_code=130)
                self.evaluation.stop()
        return self._react()

    def _react(self) -> Reaction:
        self._check_rules()
        self._check_timeouts()
        if self._stopping is None and not self.study.paused:
            self._fill_slots()
            self._computes()
        if self._stopping is not None and not self._running and self._reaction.end is None and self._evaluate_best():
            self._reaction.end = end_of_search(self._stopping, self.study, dropped=self.evaluation.dropped)
            self._record(self._reaction.end)
        reaction, self._reaction = self._reaction, Reaction()
        return reaction

    def _handle_message(self, slot: int, message: object) -> None:
        if slot in self.evaluation.running and isinstance(message, (Evaluated, Lost)):
            self._release(slot)
            records, lines = self.evaluation.end(slot, message, self.limits, self._now)
            self._reaction.lines += lines
            self._record(*records)
            return
        start = self._running.get(slot)
        if start is None:
            return  # a late message of a process that was given up
        match message:
            case Question():
                self._answer(slot, message)
            case EpochDone():
                self._epoch_done(slot, start, message)
            case Built() | Checkpointed():
                self._record(message)
            case DataLoaded() if message.key not in self.study.data:
                self._record(message)
            case SegmentEnded():
                self._segment_ended(slot, message)
            case Lost():
                self._segment_ended(slot, end_of_lost(start, message, self.study))

    def _instruct(self, slot: int, command: Command) -> None:
        self._reaction.instructions.append((slot, command))

    # Training -------------------------------------------------------------------------------------------------------

    def _answer(self, slot: int, question: Question) -> None:
        """Answer a model factory's question, now or when another trial is built."""
        assert self._backend is not None
        answer = self.questions.answer(slot, question, self.study.trials[question.trial], self._backend)
        if isinstance(answer, Refusal):
            self._instruct(slot, Answer(None, answer.error))
            if answer.ends_search:
                self._stop(answer.error, complete=False, exit_code=2)
        elif answer is not None:
            self._record(answer)
            self._instruct(slot, Answer(answer.value))

    def _epoch_done(self, slot: int, start: StartSegment, message: EpochDone) -> None:
        trial = self.study.trials[start.trial]
        self._record(message)
        self._budget.reserve(slot, start)
        last = message.epoch >= start.to_epoch
        if trial.stops and not last:
            self._instruct(slot, Interrupt())
        if not start.judged:
            return
        value = message.logs.get(self.study.objective.name, math.nan)
        # An epoch before the last known one is trained again: it was judged then.
        if trial.epochs == message.epoch < trial.progress.to_epoch and math.isfinite(value):
            assert self._backend is not None
            decision = self._backend.judge(start.trial, message.epoch)
            if decision.stop or decision.attributes:
                self._record(Judged(start.trial, message.epoch, decision.stop, decision.attributes))
        # At its segment's last epoch, which the budget may have brought forward, a worker waits for nothing.
        if not last:
            self._instruct(slot, Verdict(trial.status == "stopping"))

    def _segment_ended(self, slot: int, message: SegmentEnded) -> None:
        if message.outcome == "infeasible" and self.study.trials[message.trial].progress.trained:
            message = replace(message, outcome="failed")  # too late: it has cost epochs
        message = end_without_objective(message, self.study)
        self._record(message)
        del self._running[slot]
        self._budget.release(slot)
        self._release(slot)
        self.questions.drop(slot)
        trial = self.study.trials[message.trial]
        if message.outcome == "no_space":
            self._stop(str(message.error), complete=False, exit_code=2)
        elif message.outcome == "fatal":
            reason = f"trial {message.trial} ended the search, {message.error}: correct the cause, and resume"
            self._stop(reason, complete=False, exit_code=2)
        if not self._tell_result(trial):
            self._waiting.add(trial)  # to go on from its checkpoint

    def _tell_result(self, trial: Trial) -> bool:
        """Tell the back end how its suggestion for `trial` ended; return False if there is more to train for it."""
        result = result_of(trial, self.limits)
        if result is not None:
            self._record(result)
            if trial.extra:
                self._end_trial(trial)
            self._drop_checkpoints()
        return result is not None

    def _drop_checkpoints(self) -> None:
        """Drop checkpoints of paused trials until the others fit on the disk. Workers may forget their models."""
        for number in self._checkpoints.choose_dropped(self._backend):
            self.affinity.release(number)
            self._record(CheckpointDropped(number))

    # Filling the slots ----------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        self._start_alone()
        while (slot := self._slots.take()) is not None:
            trial = self._waiting.choose(slot, self._candidate)
            if trial is None:
                self._slots.release(slot)
                return
            if trial.resources.alone:
                self._slots.release(slot)
                self._waiting.add(trial)
                self._start_alone()
            else:
                self._start(trial, self._slots.swap(slot, self.affinity.slot_of(trial.number)))

    def _start_alone(self) -> None:
        """Start the trials that ran out of memory, each when its device is clear."""
        while (trial := self._waiting.first(alone=True)) is not None and self._budget.allows(trial):
            slot = self._slots.take(alone=True)
            if slot is None:
                return
            self._start(self._waiting.pop(alone=True), slot)
        self._slots.stop_clearing()

    def _candidate(self, slot: int) -> Trial | None:
        """Return the first trial to go on or to begin, preferring one whose model is cached in `slot`."""
        self._waiting.prefer(slot)
        trial = self._waiting.first()
        if not self._budget.allows(trial):
            if not self._running:
                self._stop(
                    f"the budget of {pluralize(self._budget.max_total_epochs or 0, 'epoch')} is trained", complete=True
                )
            return None
        return self._waiting.pop() if trial is not None else self._ask_backend()

    def _ask_backend(self) -> Trial | None:
        """Return the trial that the back end wants trained next; None if there is none for now."""
        assert self._backend is not None
        while True:
            enough = self.limits.max_trials is not None and len(self.study.trials) >= self.limits.max_trials
            added = bool(self.questions.initial.added)
            new = (added or not enough) and not self.questions.configurations.exhausted
            suggestion = self._backend.ask(new=new, child=not enough)
            waits = isinstance(suggestion, Wait) and self._computes()
            if extra := not isinstance(suggestion, Suggestion) and new and added and not waits:
                suggestion = Suggestion(None, 0, self.max_epochs)
            if not isinstance(suggestion, Suggestion):
                if not self._running and not waits:
                    self._stop_without_work(suggestion, enough)
                return None
            if error := suggestion_error(suggestion, self.study, new=new, child=not enough):
                reason = f"back end {self.study.phases[-1].backend} makes a wrong suggestion: {error}"
                self._stop(reason, complete=False, exit_code=2)
                return None
            if suggestion.is_drawn and self.questions.configurations.may_be_exhausted and self._running:
                return None
            trial = self._request_segment(suggestion, beyond=enough, extra=extra)
            # A trial that its own callbacks ended enters this rung with the score that it has, without training.
            if not self._tell_result(trial):
                return trial

    def _stop_without_work(self, answer: Wait | Done, enough: bool) -> None:
        """End the search: nothing runs, and the back end has nothing to train.

        If it is done, its paused trials end, too: their checkpoints would never be used.
        """
        if isinstance(answer, Done):
            for trial in [trial for trial in self.study.trials.values() if not trial.open]:
                self._end_trial(trial)
        exhausted = self.questions.configurations.exhausted
        self._stop(reason_without_work(answer, exhausted, enough, self.limits), complete=True)

    def _computes(self) -> bool:
        """Start the back end's computation if one is due, and return whether one is under way."""
        if self._stopping is None and (computation := self._computations.start()) is not None:
            self._reaction.compute = computation
        return self._computations.under_way

    def _request_segment(self, suggestion: Suggestion, *, beyond: bool, extra: bool) -> Trial:
        """Record a suggestion, and number its trial if that is new.

        Args:
            beyond: only a configuration that the user added may begin.
            extra: the suggestion is for such a configuration, and not the back end's.
        """
        initial_values = self.questions.initial.next(added=beyond or extra) if suggestion.is_drawn else {}
        request = segment_request(suggestion, self.study, self.limits.executions, initial_values, extra=extra)
        self._record(request)
        if request.parent is not None:
            self._reaction.hand_on.append(HandOn(request.trial))
        return self.study.trials[request.trial]

    def _start(self, trial: Trial, slot: int) -> None:
        number = trial.unfinished
        assert number is not None, "a fulfilled suggestion is told, and not started"
        epochs = trial.begin_execution(number).epochs
        to_epoch = self._budget.cut(epochs, trial.last_epoch(number))
        # A pruner judges the first execution; the others follow if it lets that one pass.
        start = StartSegment(trial.number, number, to_epoch, trial.progress.judged and number == 0)
        self._running[slot] = start
        if to_epoch < self.max_epochs or number + 1 < len(trial.executions):
            self.affinity.assign(trial.number, slot)
        else:
            self.affinity.release(trial.number)
        self._budget.reserve(slot, start)
        self._record(SegmentStarted(trial.number, number, trial.progress.segments, slot, epochs, to_epoch))
        self._instruct(slot, start)

    def _release(self, slot: int) -> None:
        """Free `slot`, whose work has ended."""
        self._slots.release(slot)
        self._timeouts.forget(slot)
        if self.study.paused:
            self._reaction.instructions.append(self._steering.end_worker(slot))

    # The final evaluation -------------------------------------------------------------------------------------------

    def _evaluate_best(self) -> bool:
        """Have the best trials evaluated, once all training is over. Return whether that is done."""
        assert self._stopping is not None
        count = self.limits.evaluate_best if self._stopping.exit_code == BY_RESULT else 0
        for slot, evaluation in self.evaluation.start(count, self._slots, self._now, test=self.limits.test):
            self._instruct(slot, evaluation)
        return self.evaluation.over

    # Steering -------------------------------------------------------------------------------------------------------

    def _steer(self, event: Steer) -> None:
        """Carry out a request of the user's, or refuse it."""
        assert self._backend is not None
        situation = Situation(self.limits, self._running, self._stopping, self._backend)
        decision = self._steering.decide(event, situation)
        self._reaction.reply = decision.reply
        self._record(*decision.records)
        if decision.records:
            if event.limits is not None:
                self.limits, self.rules = event.limits, with_limits(self.rules, event.limits)
            self._reaction.instructions += list(self._steering.carry_out(event, self._running))

    # Stopping -------------------------------------------------------------------------------------------------------

    def _check_rules(self) -> None:
        """End the search if a stop rule says so. The first one that speaks wins."""
        if self._stopping is None:
            ends = filter(None, (rule.check(self.study, self._now) for rule in self.rules))
            # A paused search begins no final evaluation: such an end waits.
            if end := next((end for end in ends if end.exit_code or not self.study.paused), None):
                self._stop(end.reason, complete=end.complete, exit_code=end.exit_code or None)

    def _check_timeouts(self) -> None:
        """Interrupt trials that have used up their time, and kill those that do not end."""
        for found in self._timeouts.check(self._running, self.evaluation.running, self.study, self._now):
            if isinstance(found, TimedOut):
                self._record(found)
            else:
                self._instruct(*found)

    def _stop(self, reason: str, *, complete: bool, exit_code: int | None = None) -> None:
        """Let no more work start, and interrupt running segments. The first reason counts."""
        if self._stopping is None:
            self._stopping = SearchEnded(reason, complete, BY_RESULT if exit_code is None else exit_code)
            for slot in self._running:
                self._instruct(slot, Interrupt())
