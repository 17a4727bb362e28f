"""The controller's decisions, one scenario at a time: failures, retries, budgets, stops, resumes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import keras_tuner
import pytest

from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.messages import Answer, Evaluated, Interrupt, Lost, Question, SlotClosed, SlotOpened, Verdict
from search.scheduler.controller import Controller
from search.scheduler.events import (
    FromWorker,
    Kill,
    Reaction,
    SlotChanged,
    StartEvaluation,
    StartSegment,
    StopRequested,
    Tick,
)
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter
from search.study.journal import Entry
from search.study.records import (
    FORMAT,
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    ParameterSet,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    TrialEnded,
)
from search.study.study import Study
from search.study.trial import Objective
from search.testing import Scenario, Simulation
from search.testing.backends import noise

X = Parameter("x", Domain("float", 0.0, 1.0))
HEADER = Header(FORMAT, "0", "study", 0, (Objective("loss", "min"),), "", "", (X,), {})


class ControllerByHand:
    """A controller whose workers are played by the test. Every trial is to have three epochs."""

    def __init__(self, slots: Any = 1, *, judged: bool = False, **limits: Any) -> None:
        self.study = Study()
        self.now = 1000.0
        self.entries: list[Entry] = []
        self._options = {"slots": slots, "judged": judged, **limits}
        pruner = "median:n_startup_trials=1" if judged else "none"
        self.controller = Controller(
            self.study,
            lambda _: Optuna(self.study.objective, 0, max_epochs=3, sampler="random", pruner=pruner),
            Limits(**limits),
            slots,
            max_epochs=3,
        )

    def begin(self, *records: Any) -> Reaction:
        """Begin a process, with `records` before its own, by default those of a new study."""
        first = records or (() if self.entries else (HEADER, BackendChanged("optuna", {})))
        return self.journal(self.controller.begin([*first, SearchStarted("", 0, {})], self.now))

    def say(self, message: Any, slot: int = 0) -> Reaction:
        """Send a worker's message."""
        return self.journal(self.controller.handle(FromWorker(slot, message), self.now))

    def handle(self, event: Any) -> Reaction:
        """Send any event."""
        return self.journal(self.controller.handle(event, self.now))

    def again(self, **changes: Any) -> ControllerByHand:
        """Return the next process, which finds the journal 100 s later."""
        other = ControllerByHand(**{**self._options, **changes})
        other.now = self.now + 100
        other.entries = list(self.entries)
        other.controller.replay(self.entries)
        return other

    def journal(self, reaction: Reaction) -> Reaction:
        """Add the records of `reaction` to the journal, and return it."""
        self.entries += [Entry(record, self.now, 0) for record in reaction.records]
        return reaction

    def build(self, trial: int = 0, slot: int = 0) -> None:
        """Ask for `x`, and report the model as built."""
        self.say(Question(trial, X), slot)
        self.say(Built(trial, 1, "fit"), slot)

    def train(self, trial: int = 0, epochs: Any = (1, 2, 3), slot: int = 0, loss: float = 0.5) -> Reaction:
        """Report epochs to the segment's end, in which `loss` falls a little."""
        for epoch in epochs:
            self.say(EpochDone(trial, 0, epoch, {"loss": loss - epoch / 1000}, 1.0), slot)
        self.say(Checkpointed(trial, 0, epochs[-1], epochs[-1]), slot)
        return self.say(SegmentEnded(trial, 0, "reached", epochs[-1]), slot)


def kinds(records: Any) -> list[str]:
    return [type(record).__name__ for record in records]


# One trial ------------------------------------------------------------------------------------------------------------


def test_a_trial_from_its_question_to_its_end() -> None:
    hand = ControllerByHand(max_trials=1)
    assert kinds(hand.begin().records) == [
        "Header",
        "BackendChanged",
        "SearchStarted",
        "SegmentRequested",
        "SegmentStarted",
    ]
    answered = hand.say(Question(0, X))
    assert kinds(answered.records) == ["ParameterSet"]
    value = answered.records[0].value  # type: ignore[union-attr]
    assert answered.instructions == [(0, Answer(value))]
    assert hand.study.trials[0].params == {"x": value}
    hand.say(Built(0, 7, "fit"))
    ended = hand.train()
    assert kinds(ended.records) == ["SegmentEnded", "ResultTold", "TrialEnded", "SearchEnded"]
    assert ended.records[1] == ResultTold(0, 3, 0.497, "reached")
    assert ended.records[2] == TrialEnded(0, "completed")
    assert ended.end == ended.records[3]
    assert ended.end.complete
    assert ended.end.exit_code == 0
    trial = hand.study.trials[0]
    assert (trial.objective, trial.best_epoch, trial.weight_count) == (0.497, 3, 7)


def test_messages_of_a_slot_that_runs_nothing_are_ignored() -> None:
    hand = ControllerByHand(slots=2, max_trials=1)
    hand.begin()
    assert hand.say(EpochDone(0, 0, 1, {"loss": 1.0}, 1.0), slot=1).records == []


def test_an_epoch_trained_twice_counts_once() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.say(Lost("killed"))
    hand.say(EpochDone(0, 0, 1, {"loss": 0.1}, 1.0))
    trial = hand.study.trials[0]
    assert (trial.epochs, trial.progress.trained, trial.objective) == (1, 2, 0.5)
    assert (hand.study.epochs, hand.study.trained) == (1, 2)


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_trial_is_retried_after_a_lost_process_and_fails_in_the_end() -> None:
    hand = ControllerByHand(retries=2)
    hand.begin()
    hand.build()
    for attempt in (1, 2):
        lost = hand.say(Lost("out of memory"))
        assert kinds(lost.records) == ["SegmentEnded", "SegmentStarted"]
        assert lost.records[1].trial == 0  # type: ignore[union-attr]
        assert lost.records[1].attempt == attempt  # type: ignore[union-attr]
    lost = hand.say(Lost("out of memory"))
    assert kinds(lost.records) == ["SegmentEnded", "ResultTold", "TrialEnded", "SegmentRequested", "SegmentStarted"]
    assert lost.records[2] == TrialEnded(0, "failed")
    assert hand.study.trials[0].error == "out of memory"


def test_progress_renews_the_retries_and_a_success_clears_the_error() -> None:
    hand = ControllerByHand(retries=1, max_trials=1)
    hand.begin()
    hand.build()
    for epoch in (1, 2):
        hand.say(EpochDone(0, 0, epoch, {"loss": 0.5}, 1.0))
        hand.say(Checkpointed(0, 0, epoch, epoch))
        again = hand.say(Lost("killed"))
        assert again.instructions == [(0, StartSegment(0, 0, 3, False))]
    ended = hand.train(epochs=(3,))
    assert ended.end is not None
    assert hand.study.trials[0].state == "completed"
    assert hand.study.trials[0].error is None


def test_a_process_lost_after_its_last_checkpoint_has_lost_nothing() -> None:
    hand = ControllerByHand(retries=0, max_trials=1)
    hand.begin()
    hand.build()
    for epoch in (1, 2, 3):
        hand.say(EpochDone(0, 0, epoch, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 3, 1))
    assert ResultTold(0, 3, 0.5, "reached") in hand.say(Lost("killed")).records


def test_a_trial_that_is_not_to_blame_goes_on_without_a_retry() -> None:
    hand = ControllerByHand(retries=0, max_trials=1)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 1, 1))
    for _ in range(3):
        lost = hand.say(Lost("its machine was taken away", fault=False))
        assert lost.records[0] == SegmentEnded(0, 0, "interrupted", 1, "its machine was taken away")
        assert starts(lost) == [(0, 0)]
    assert kinds(hand.say(Lost("killed")).records)[:3] == ["SegmentEnded", "ResultTold", "TrialEnded"]


def test_slots_that_close_and_open_are_left_and_used() -> None:
    hand = ControllerByHand(slots=2)
    assert starts(hand.begin()) == [(0, 0), (1, 1)]
    hand.build(0, slot=0)
    hand.build(1, slot=1)
    assert hand.handle(SlotChanged(0, SlotClosed("its machine was taken away"))).instructions == []
    # The worker ends in order: its trial waits until there is a slot.
    assert starts(hand.say(SegmentEnded(0, 0, "interrupted", 0))) == []
    assert starts(hand.handle(SlotChanged(2, SlotOpened("another machine")))) == [(2, 0)]
    assert starts(hand.handle(SlotChanged(0, SlotOpened("the same machine")))) == [(0, 2)]


def test_a_final_evaluation_without_a_slot_waits_for_one() -> None:
    hand = ControllerByHand(max_trials=1, evaluate_best=1, test=True)
    hand.begin()
    hand.build()
    hand.train(epochs=(1, 2))
    hand.handle(SlotChanged(0, SlotClosed("its machine was taken away")))
    assert hand.train(epochs=(3,)).end is None
    evaluation = StartEvaluation(0, True, True)
    assert hand.handle(SlotChanged(0, SlotOpened("another machine"))).instructions == [(0, evaluation)]
    # Of this machine, too, the trial's evaluation is not the reason.
    assert hand.say(Lost("its machine was taken away", fault=False)).instructions == [(0, evaluation)]
    assert hand.say(Lost("killed")).instructions == [(0, evaluation)]
    over = hand.say(Lost("killed"))
    assert over.end is not None


def evaluating(**limits: Any) -> tuple[ControllerByHand, Reaction]:
    """Return a search of two trials that has begun its final evaluation, and that reaction."""
    hand = ControllerByHand(max_trials=2, evaluate_best=2, test=True, **limits)
    hand.begin()
    for trial in range(2):
        hand.build(trial)
        reaction = hand.train(trial, loss=0.5 + trial)
    return hand, reaction


def test_a_final_evaluation_whose_process_dies_is_tried_again_and_then_named() -> None:
    hand, began = evaluating(retries=1)
    first, second = StartEvaluation(0, True, True), StartEvaluation(1, True, False)
    assert began.instructions == [(0, first)]
    lost = hand.say(Lost("its process was ended by SIGKILL"))
    assert (lost.instructions, lost.lines) == ([(0, second)], [])
    assert hand.say(Evaluated(1, {"loss": 0.1})).instructions == [(0, first)]
    over = hand.say(Lost("its process was ended by SIGKILL"))
    assert over.lines == [
        "trial 0's best model: its process was ended by SIGKILL (missing: its results on the test data, model.keras): "
        f"to try again: search resume {hand.study.name}"
    ]
    assert over.end is not None
    assert over.end.exit_code == 0
    again = hand.again()
    assert again.begin().instructions == [(0, first)]


def test_a_final_evaluation_that_used_up_the_time_of_a_trial_is_not_tried_again() -> None:
    hand, began = evaluating(trial_timeout=50.0)
    assert began.instructions == [(0, StartEvaluation(0, True, True))]
    hand.now += 51
    ((slot, kill),) = hand.handle(Tick()).instructions
    assert (slot, kill) == (0, Kill("no end in time (--trial-timeout 50s)"))
    lost = hand.say(Lost("no end in time (--trial-timeout 50s)"))
    assert lost.instructions == [(0, StartEvaluation(1, True, False))]
    assert "no end in time" in lost.lines[0]


def test_a_stop_lets_running_final_evaluations_end_and_a_resume_goes_on() -> None:
    hand, _ = evaluating()
    assert hand.handle(StopRequested()).end is None
    ended = hand.say(Evaluated(0, {"loss": 0.1}, signature={}))
    assert ended.instructions == []
    assert ended.end == SearchEnded("stopped by the user", complete=False, exit_code=130)
    again = hand.again()
    assert again.begin().instructions == [(0, StartEvaluation(1, True, False))]


def starts(reaction: Reaction) -> list[tuple[int, int]]:
    """Return (slot, trial) of the segments that are started."""
    return [(slot, start.trial) for slot, start in reaction.instructions if isinstance(start, StartSegment)]


def test_a_trial_out_of_memory_is_retried_alone_on_its_device() -> None:
    hand = ControllerByHand(slots=[{1}, {0}, set()])  # two shares of one GPU, and another GPU
    hand.begin()
    for slot in range(3):
        hand.build(slot, slot)
    out = hand.say(SegmentEnded(0, 0, "no_memory", 0, "out of memory: 3 GiB"), 0)
    assert starts(out) == []  # another trial runs on its GPU
    assert starts(hand.train(2, slot=2)) == [(2, 3)]  # a new trial on the other GPU
    assert starts(hand.train(1, slot=1)) in ([(0, 0)], [(1, 0)])
    trial = hand.study.trials[0]
    assert trial.resources.slot is not None
    hand.build(0, trial.resources.slot)
    assert starts(hand.train(0, slot=trial.resources.slot)) != []
    assert trial.error is None
    assert trial.state == "completed"
    assert {hand.study.trials[number].resources.slot for number in (4, 5)} == {0, 1}  # both shares are used again


def test_a_trial_out_of_memory_alone_has_failed() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.build()
    assert starts(hand.say(SegmentEnded(0, 0, "no_memory", 0, "out of memory: 3 GiB"))) == [(0, 0)]
    assert starts(hand.say(SegmentEnded(0, 0, "no_memory", 0, "out of memory: 3 GiB"))) == [(0, 1)]
    trial = hand.study.trials[0]
    assert (trial.state, trial.error) == ("failed", "out of memory: 3 GiB")


def test_a_trial_out_of_memory_runs_alone_after_a_resume_too() -> None:
    hand = ControllerByHand(slots=[{1}, {0}])
    hand.begin()
    hand.build(0, 0)
    hand.build(1, 1)
    hand.say(SegmentEnded(0, 0, "no_memory", 0, "out of memory"), 0)
    again = hand.again()
    assert starts(again.begin()) == [(0, 0)]
    again.build(0, 0)
    assert sorted(starts(again.train(0, slot=0))) == [(0, 1), (1, 2)]


def test_a_full_disk_ends_the_search_but_no_trial() -> None:
    hand = ControllerByHand(slots=2)
    hand.begin()
    hand.build(0, 0)
    hand.build(1, 1)
    full = hand.say(SegmentEnded(0, 0, "no_space", 0, "the disk is full: make room on the disk, and resume"), 0)
    assert full.instructions == [(1, Interrupt())]
    ended = hand.say(SegmentEnded(1, 0, "interrupted", 1), 1)
    assert ended.end is not None
    assert ended.end.exit_code == 2
    assert "make room on the disk, and resume" in ended.end.reason
    assert [trial.state for trial in hand.study.trials.values()] == ["paused", "paused"]
    assert sorted(trial for _, trial in starts(hand.again().begin())) == [0, 1]


def test_a_timed_out_trial_ends_with_its_epoch_and_keeps_its_best() -> None:
    hand = ControllerByHand(trial_timeout=60.0)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.now += 59
    assert hand.handle(Tick()).instructions == []
    hand.now += 1
    timed_out = hand.handle(Tick())
    assert timed_out.instructions == [(0, Interrupt())]
    assert kinds(timed_out.records) == ["TimedOut"]
    hand.now += 9
    assert hand.handle(Tick()).instructions == []  # its grace period is ten seconds
    hand.say(EpochDone(0, 0, 2, {"loss": 0.4}, 1.0))
    hand.say(Checkpointed(0, 0, 2, 2))
    ended = hand.say(SegmentEnded(0, 0, "interrupted", 2))
    assert [r for r in ended.records if isinstance(r, ResultTold)] == [ResultTold(0, 2, 0.4, "stopped_by_callback")]
    trial = hand.study.trials[0]
    assert (trial.state, trial.objective) == ("stopped", 0.4)
    assert trial.error == "it ran for longer than it may (--trial-timeout 60s)"
    assert starts(ended) == [(0, 1)]


@pytest.mark.parametrize(("epoch_seconds", "grace"), [(1.0, 10.0), (100.0, 300.0)])
def test_a_timed_out_trial_that_does_not_end_is_killed_and_has_failed(epoch_seconds: float, grace: float) -> None:
    hand = ControllerByHand(trial_timeout=60.0)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, epoch_seconds))
    hand.now += 60
    hand.handle(Tick())
    hand.now += grace - 1
    assert hand.handle(Tick()).instructions == []
    hand.now += 1
    ((slot, kill),) = hand.handle(Tick()).instructions
    assert isinstance(kill, Kill)
    hand.now += 100
    assert hand.handle(Tick()).instructions == []  # it is killed once
    lost = hand.say(Lost(kill.reason), slot)
    assert starts(lost) == [(0, 1)]
    trial = hand.study.trials[0]
    assert trial.state == "failed"
    assert "--trial-timeout 60s" in (trial.error or "")


def test_trial_timeout_counts_the_time_of_all_segments_and_nothing_else() -> None:
    hand = ControllerByHand(trial_timeout=60.0)
    hand.begin()
    hand.build()
    hand.now += 40
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    again = hand.again()  # killed: its last message came at 40 s
    again.now += 1000
    again.begin()
    again.build()
    again.now += 19
    assert again.handle(Tick()).instructions == []
    again.now += 1
    assert again.handle(Tick()).instructions == [(0, Interrupt())]
    assert starts(again.again().begin()) == [(0, 1)]  # killed once more: trial 0 is not started again
    assert again.study.trials[0].status == "expiring"


def test_a_trial_that_raised_an_exception_is_not_retried() -> None:
    hand = ControllerByHand(retries=5)
    hand.begin()
    failed = hand.say(SegmentEnded(0, 0, "failed", 0, "ValueError: x"))
    assert failed.records[1:3] == [ResultTold(0, 0, None, "failed"), TrialEnded(0, "failed")]
    assert failed.instructions == [(0, StartSegment(1, 0, 3, False))]


@pytest.mark.parametrize("last", ["SegmentEnded", "ResultTold"])
def test_a_trial_that_raised_an_exception_is_not_retried_after_a_kill(last: str) -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.say(SegmentEnded(0, 0, "failed", 0, "ValueError: x"))
    kept = kinds(entry.record for entry in hand.entries).index(last) + 1
    hand.entries = hand.entries[:kept]
    later = hand.again()
    reaction = later.begin()
    assert TrialEnded(0, "failed") in reaction.records
    assert later.study.trials[0].state == "failed"
    assert [start.trial for _, start in reaction.instructions if isinstance(start, StartSegment)] == [1]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_trial_whose_code_raises_is_tried_again_with_the_same_values(retries: int) -> None:
    hand = ControllerByHand(max_retries_per_trial=retries, retries=0)
    hand.begin()
    hand.build()
    for _ in range(retries):
        raised = hand.say(SegmentEnded(0, 0, "raised", 0, "OSError: no route"))
        assert kinds(raised.records) == ["SegmentEnded", "SegmentStarted"]
        assert starts(raised) == [(0, 0)]
        hand = hand.again()  # the count is journaled
        hand.begin()
        hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))  # progress does not renew it
    failed = hand.say(SegmentEnded(0, 0, "raised", 1, "OSError: no route"))
    assert failed.records[1:3] == [ResultTold(0, hand.study.trials[0].epochs, None, "failed"), TrialEnded(0, "failed")]
    assert hand.study.trials[0].error == "OSError: no route"
    assert len(hand.study.trials[0].params) == 1


def test_a_trial_that_succeeds_after_an_exception_has_not_failed() -> None:
    hand = ControllerByHand(max_retries_per_trial=1, max_trials=1)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 1, 1))
    hand.say(SegmentEnded(0, 0, "raised", 1, "OSError: no route"))
    assert hand.train(epochs=(2, 3)).end is not None
    trial = hand.study.trials[0]
    assert (trial.state, trial.error, trial.failed) == ("completed", None, False)


def test_an_exception_after_the_last_epoch_fails_the_trial() -> None:
    """Nothing is left to train again, so a retry would call nothing that may raise."""
    hand = ControllerByHand(max_retries_per_trial=5)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 3, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 3, 3))
    assert TrialEnded(0, "failed") in hand.say(SegmentEnded(0, 0, "raised", 3, "ValueError: at the end")).records


def test_a_killed_process_is_no_exception_of_the_last_segment() -> None:
    hand = ControllerByHand(max_retries_per_trial=5)
    hand.begin()
    hand.build()
    hand.say(SegmentEnded(0, 0, "raised", 0, "OSError: no route"))
    hand.say(EpochDone(0, 0, 3, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 3, 3))
    assert ResultTold(0, 3, 0.5, "reached") in hand.again().begin().records


def test_a_fatal_error_ends_the_search_and_other_trials_go_on_later() -> None:
    hand = ControllerByHand(slots=2, max_retries_per_trial=5, retries=5)
    hand.begin()
    hand.build(0, 0)
    hand.build(1, 1)
    fatal = hand.say(SegmentEnded(0, 0, "fatal", 0, "space.py:3: FatalError: no data"), 0)
    assert TrialEnded(0, "failed") in fatal.records
    assert fatal.instructions == [(1, Interrupt())]
    ended = hand.say(SegmentEnded(1, 0, "interrupted", 1), 1)
    assert ended.end == SearchEnded(
        "trial 0 ended the search, space.py:3: FatalError: no data: correct the cause, and resume", False, 2
    )
    assert [trial.state for trial in hand.study.trials.values()] == ["failed", "paused"]
    again = hand.again()
    assert starts(again.begin()) == [(0, 1), (1, 2)]


def stop_of_kerastuner(failed: list[bool], limit: int) -> int | None:
    """Return the number of trials after which KerasTuner's own check raises, None if it does not."""
    oracle = SimpleNamespace(trials={}, end_order=[], max_consecutive_failed_trials=limit)
    for number, fails in enumerate(failed):
        oracle.trials[number] = SimpleNamespace(status="FAILED" if fails else "COMPLETED", message="")
        oracle.end_order.append(number)
        try:
            keras_tuner.Oracle._check_consecutive_failures(oracle)
        except RuntimeError:
            return number + 1
    return None


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_failures_in_a_row_are_counted_as_by_kerastuner(limit: int, seed: int) -> None:
    rng = random.Random(seed)
    failed = [rng.random() < 0.5 for _ in range(12)]
    search = Simulation(
        Scenario(ask_x, lambda run, epoch: 1 / epoch, fails=lambda run: 1 if failed[run.trial] else None),
        lambda study: Optuna(study.objective, 0, max_epochs=3, sampler="random", pruner="none"),
        max_epochs=3,
        limits=Limits(max_trials=12, max_consecutive_failed_trials=limit),
    ).run()
    stop = stop_of_kerastuner(failed, limit)
    assert search.end is not None
    assert len(search.trials) == (stop or 12)
    assert search.end.exit_code == (0 if stop is None else 1)
    if stop is not None:
        trials = "1 trial" if limit == 1 else f"{limit} trials"
        assert search.end.reason.startswith(f"{trials} failed in a row, the last one with: ValueError")
        assert len(search.resume().run().trials) > stop, "the next process tries again"


def test_kerastuners_count_replaces_the_rules_of_a_search() -> None:
    """Neither five failures before a success nor a common error ends a search that may have thirty in a row."""
    search = Simulation(
        Scenario(ask_x, lambda run, epoch: 1 / epoch, fails=lambda run: 1),
        lambda study: Optuna(study.objective, 0, max_epochs=3, sampler="random", pruner="none"),
        max_epochs=3,
        limits=Limits(max_consecutive_failed_trials=30),
    ).run()
    assert len(search.trials) == 30


@pytest.mark.parametrize("retries", [1, 2])
def test_retries_of_trials_that_raise_survive_a_kill_at_any_record(retries: int) -> None:
    search = Simulation(
        Scenario(ask_x, lambda run, epoch: 1 / epoch, fails=lambda run: 2 if run.trial == 1 else None),
        lambda study: Optuna(study.objective, 0, max_epochs=3, sampler="random", pruner="none"),
        max_epochs=3,
        limits=Limits(max_trials=3, max_retries_per_trial=retries),
    ).run()
    assert [trial.progress.segments for trial in search.trials] == [1, retries + 1, 1]
    assert [trial.state for trial in search.trials] == ["completed", "failed", "completed"]
    for kept in range(1, len(search.entries)):
        assert search.resume(kept).run().history() == search.history()


def test_a_search_whose_first_trials_all_fail_aborts() -> None:
    hand = ControllerByHand(max_consecutive_failures=3)
    hand.begin()
    for trial in range(3):
        last = hand.say(SegmentEnded(trial, 0, "failed", 0, f"ValueError: {trial}"))
    assert last.end is not None
    assert last.end.exit_code == 1
    assert not last.end.complete
    assert "3 of 3" in last.end.reason


def ask_x(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)


def test_failures_after_a_success_do_not_abort_a_search() -> None:
    hand = ControllerByHand(max_consecutive_failures=3)
    hand.begin()
    hand.build()
    hand.train()
    for trial in range(1, 12):
        assert hand.say(SegmentEnded(trial, 0, "failed", 0, f"ValueError: {trial}")).end is None


@pytest.mark.parametrize(("good", "aborts"), [(1, True), (2, True), (3, False)])
def test_an_error_of_nine_in_ten_trials_aborts_a_search(good: int, aborts: bool) -> None:
    hand = ControllerByHand(max_consecutive_failures=100)
    hand.begin()
    for trial in range(good):
        hand.build(trial)
        hand.train(trial)
    for trial in range(good, 20):
        last = hand.say(SegmentEnded(trial, 0, "failed", 0, "OSError: no space left"))
        assert (last.end is not None) == (aborts and trial == 19)
    if aborts:
        assert last.end is not None
        assert "no space left" in last.end.reason


def test_trials_that_wait_for_a_promotion_count_as_successes() -> None:
    """In a rung of 81 trials a third fails. Those that finished the rung have succeeded."""
    search = Simulation(
        Scenario(ask_x, lambda params, epoch: noise(params, epoch), fails=lambda p: 1 if noise(p) < 0.34 else None),
        lambda study: Hyperband(study.objective, 0, max_epochs=81),
        max_epochs=81,
    ).run()
    assert search.end is not None
    assert search.end.complete
    assert sum(trial.state == "failed" for trial in search.trials) > 25


# Domains --------------------------------------------------------------------------------------------------------------


def test_a_domain_that_changes_between_trials_ends_the_search_and_names_both() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.say(Question(0, Parameter("act", Domain("choice", values=("relu", "tanh")))))
    hand.say(SegmentEnded(0, 0, "failed", 0, "x"))
    reaction = hand.say(Question(1, Parameter("act", Domain("choice", values=("relu", "gelu")))))
    (_, answer), (_, interrupt) = reaction.instructions
    assert isinstance(answer, Answer)
    assert answer.error is not None
    assert "'act'" in answer.error
    assert "['relu', 'tanh']" in answer.error
    assert "['relu', 'gelu']" in answer.error
    assert isinstance(interrupt, Interrupt)
    ended = hand.say(SegmentEnded(1, 0, "failed", 0, answer.error))
    assert ended.end is not None
    assert ended.end.exit_code == 2


def test_a_numeric_range_may_change() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.say(Question(0, Parameter("units", Domain("int", 1, 10))))
    hand.say(SegmentEnded(0, 0, "failed", 0, "x"))
    reaction = hand.say(Question(1, Parameter("units", Domain("int", 50, 60))))
    assert isinstance(reaction.records[0], ParameterSet)
    assert 50 <= reaction.records[0].value <= 60  # type: ignore[operator]


def test_a_fixed_value_may_take_the_place_of_a_domain_and_differ() -> None:
    """A factory may set a value of its own in some trials, depending on others."""
    act = Parameter("act", Domain("choice", values=("relu", "tanh")))
    hand = ControllerByHand(max_consecutive_failures=9)
    hand.begin()
    for trial, domain in enumerate(
        [act.domain, *(Domain("fixed", values=(v,)) for v in ("mine", "other")), act.domain]
    ):
        (record,) = hand.say(Question(trial, Parameter("act", domain))).records
        assert domain.contains(record.value)  # type: ignore[union-attr]
        hand.say(SegmentEnded(trial, 0, "failed", 0, "x"))
    reaction = hand.say(Question(4, Parameter("act", Domain("choice", values=("relu", "gelu")))))
    assert "changed its domain" in reaction.instructions[0][1].error  # type: ignore[union-attr]


def test_a_value_that_was_asked_for_already_is_not_changed() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.say(Question(0, Parameter("units", Domain("fixed", values=(3,)))))
    refused = hand.say(Question(0, Parameter("units", Domain("fixed", values=(5,)))))
    assert refused.records == []
    ((_, answer),) = refused.instructions
    assert isinstance(answer, Answer)
    assert answer.error is not None
    assert "'units' has the value 3, and hp.values or hp.merge set it to 5 afterwards: do so before" in answer.error
    assert hand.study.trials[0].params == {"units": 3}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("backend", ["hyperband", "optuna"])
@pytest.mark.parametrize("values", [{"units": 3, "act": "relu"}, {}])
def test_a_space_without_a_choice_runs_its_one_trial(values: dict[str, Any], backend: str, slots: int) -> None:
    """All is fixed, or nothing is tuned."""

    def ask(hp: Any) -> None:
        for name, value in values.items():
            hp.Fixed(name, value)

    search = Simulation(
        Scenario(ask, lambda run, epoch: 1 / epoch),
        lambda study: (Hyperband if backend == "hyperband" else Optuna)(study.objective, 0, max_epochs=9),
        slots=slots,
    ).run()
    assert search.end == SearchEnded("every configuration of the space was tried", True, 0)
    assert [(trial.params, trial.epochs) for trial in search.trials] == [(values, 9)]


def test_a_domain_may_change_if_the_user_accepted_it() -> None:
    hand = ControllerByHand()
    hand.begin()
    hand.say(Question(0, Parameter("act", Domain("choice", values=("relu", "tanh")))))
    hand.say(SegmentEnded(0, 0, "failed", 0, "x"))
    now = Parameter("act", Domain("choice", values=("relu", "gelu")))
    later = hand.again()
    later.begin(SpaceChanged("new", (now,)))
    reaction = later.say(Question(1, now))
    assert kinds(reaction.records) == ["ParameterSet"]


# Objectives -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [False, True])
def test_a_trial_whose_epochs_all_lack_the_objective_fails_and_the_search_goes_on(judged: bool) -> None:
    hand = ControllerByHand(judged=judged)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"val_accuracy": 0.5}, 1.0))
    reaction = hand.say(SegmentEnded(0, 0, "reached", 1))
    assert TrialEnded(0, "failed") in reaction.records
    assert reaction.end is None
    error = hand.study.trials[0].error
    assert error == "none of its epochs has logged the objective 'loss', only val_accuracy"
    assert any(isinstance(instruction, StartSegment) for _, instruction in reaction.instructions)


@pytest.mark.parametrize("judged", [False, True])
def test_an_epoch_may_lack_the_objective(judged: bool) -> None:
    hand = ControllerByHand(max_trials=1, judged=judged)
    hand.begin()
    hand.build()
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.say(EpochDone(0, 0, 2, {"accuracy": 0.5}, 1.0))
    hand.say(EpochDone(0, 0, 3, {"accuracy": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 3, 1))
    assert ResultTold(0, 3, 0.5, "reached") in hand.say(SegmentEnded(0, 0, "reached", 3)).records


def test_a_trial_without_a_finite_objective_has_failed() -> None:
    hand = ControllerByHand(max_trials=1)
    hand.begin()
    hand.build()
    last = hand.train(loss=float("nan"))
    assert TrialEnded(0, "failed") in last.records
    assert last.end is not None
    assert last.end.exit_code == 1


def test_the_best_epoch_counts() -> None:
    hand = ControllerByHand(max_trials=1)
    hand.begin()
    hand.build()
    for epoch, loss in enumerate([0.5, 0.2, 0.9], 1):
        hand.say(EpochDone(0, 0, epoch, {"loss": loss}, 1.0))
    hand.say(Checkpointed(0, 0, 3, 2))
    assert ResultTold(0, 3, 0.2, "reached") in hand.say(SegmentEnded(0, 0, "reached", 3)).records
    assert hand.study.trials[0].best_epoch == 2


# Judging --------------------------------------------------------------------------------------------------------------


def after_a_good_trial() -> ControllerByHand:
    """Return a controller after one good trial; a second trial is built, and will be worse after its first epoch."""
    hand = ControllerByHand(judged=True)
    hand.begin()
    hand.build()
    hand.train(loss=0.1)
    hand.build(1)
    return hand


def test_each_judged_epoch_but_the_last_gets_a_verdict() -> None:
    hand = ControllerByHand(judged=True)
    hand.begin()
    hand.build()
    for epoch in (1, 2):
        assert hand.say(EpochDone(0, 0, epoch, {"loss": 0.5}, 1.0)).instructions == [(0, Verdict(False))]
    assert hand.say(EpochDone(0, 0, 3, {"loss": 0.5}, 1.0)).instructions == []


def test_a_stop_is_journaled_before_its_verdict_is_sent_and_ends_the_trial() -> None:
    hand = after_a_good_trial()
    reaction = hand.say(EpochDone(1, 0, 1, {"loss": 0.9}, 1.0))
    assert kinds(reaction.records) == ["EpochDone", "Judged"]
    assert reaction.instructions == [(0, Verdict(True))]
    hand.say(Checkpointed(1, 0, 1, 1))
    ended = hand.say(SegmentEnded(1, 0, "stopped", 1))
    assert ended.records[1:3] == [ResultTold(1, 1, 0.9, "stopped"), TrialEnded(1, "stopped")]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_trial_killed_at_its_verdict_gets_the_same_one(lost: int) -> None:
    """With the decision journaled it is not trained again. Without, its epoch is trained and judged again."""
    hand = after_a_good_trial()
    hand.say(EpochDone(1, 0, 1, {"loss": 0.9}, 1.0))
    hand.entries = hand.entries[: len(hand.entries) - lost]
    later = hand.again()
    reaction = later.begin()
    if lost:
        assert reaction.instructions == [(0, StartSegment(1, 0, 3, True))]
        again = later.say(EpochDone(1, 0, 1, {"loss": 0.9}, 1.0))
        assert again.instructions == [(0, Verdict(True))]
    else:
        assert ResultTold(1, 1, 0.9, "stopped") in reaction.records


def test_a_callback_that_ends_a_trial_at_its_stop_changes_nothing() -> None:
    """A kill must not change the result that the back end is told, whichever of the two the journal has."""
    hand = after_a_good_trial()
    hand.say(EpochDone(1, 0, 1, {"loss": 0.9}, 1.0))
    hand.say(Checkpointed(1, 0, 1, 1, stopped_by_callback=True))
    ended = hand.say(SegmentEnded(1, 0, "stopped_by_callback", 1))
    assert ended.records[1:3] == [ResultTold(1, 1, 0.9, "stopped"), TrialEnded(1, "stopped")]


def test_the_epoch_that_the_budget_makes_the_last_is_judged_too() -> None:
    hand = ControllerByHand(judged=True, max_total_epochs=4)
    hand.begin()
    hand.build()
    assert hand.train(loss=0.1).instructions == [(0, StartSegment(1, 0, 1, True))]
    hand.build(1)
    reaction = hand.say(EpochDone(1, 0, 1, {"loss": 0.9}, 1.0))
    assert kinds(reaction.records) == ["EpochDone", "Judged"]
    assert reaction.instructions == []  # no worker waits for it
    hand.say(Checkpointed(1, 0, 1, 1))
    assert ResultTold(1, 1, 0.9, "stopped") in hand.say(SegmentEnded(1, 0, "reached", 1)).records


# Stops and budgets ----------------------------------------------------------------------------------------------------


def test_a_stop_interrupts_running_segments_and_waits_for_them() -> None:
    hand = ControllerByHand(slots=2)
    hand.begin()
    hand.build(0, 0)
    stop = hand.handle(StopRequested())
    assert stop.instructions == [(0, Interrupt()), (1, Interrupt())]
    assert stop.end is None
    assert hand.handle(StopRequested()).instructions == []
    assert hand.say(SegmentEnded(1, 0, "interrupted", 0), slot=1).end is None
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))
    hand.say(Checkpointed(0, 0, 1, 1))
    last = hand.say(SegmentEnded(0, 0, "interrupted", 1))
    assert last.end is not None
    assert last.end.exit_code == 130
    assert not last.end.complete
    assert all(trial.state == "paused" for trial in hand.study.trials.values())
    later = hand.again()
    reaction = later.begin()
    assert {start.trial for _, start in reaction.instructions if isinstance(start, StartSegment)} == {0, 1}
    assert [r.from_epoch for r in reaction.records if isinstance(r, SegmentStarted)] == [1, 0]


def test_the_time_of_all_processes_counts_and_that_between_them_does_not() -> None:
    hand = ControllerByHand(timeout=50)
    hand.begin()
    hand.build()
    hand.now += 30
    assert hand.handle(Tick()).end is None
    hand.say(EpochDone(0, 0, 1, {"loss": 0.5}, 1.0))  # killed after this: it ran for 30 s
    later = hand.again()
    later.begin()
    later.now += 19
    assert later.handle(Tick()).instructions == []
    later.now += 1
    assert later.handle(Tick()).instructions == [(0, Interrupt())]
    assert later.say(SegmentEnded(0, 0, "interrupted", 1)).end is not None
    assert later.study.seconds() == 50


@pytest.mark.parametrize(("direction", "target", "reached"), [("min", 0.5, 0.5), ("max", 0.5, 0.5), ("max", 0.5, 0.6)])
def test_a_target_ends_the_search(direction: Any, target: float, reached: float) -> None:
    hand = ControllerByHand(target=target)
    header = Header(FORMAT, "0", "study", 0, (Objective("loss", direction),), "", "", (X,), {})
    hand.begin(header, BackendChanged("optuna", {}))
    hand.build()
    short = target - 0.01 if direction == "max" else target + 0.01
    assert hand.say(EpochDone(0, 0, 1, {"loss": short}, 1.0)).instructions == []
    assert hand.say(EpochDone(0, 0, 2, {"loss": reached}, 1.0)).instructions == [(0, Interrupt())]
    last = hand.say(SegmentEnded(0, 0, "interrupted", 2))
    assert last.end is not None
    assert last.end.complete
    assert last.end.exit_code == 0


def test_the_last_segment_is_cut_to_the_budget_and_goes_on_with_a_larger_budget() -> None:
    hand = ControllerByHand(max_total_epochs=5)
    hand.begin()
    hand.build()
    second = hand.train()
    assert second.instructions == [(0, StartSegment(1, 0, 2, False))]
    hand.build(1)
    last = hand.train(1, (1, 2))
    assert last.end is not None
    assert last.end.complete
    assert hand.study.trials[1].state == "paused"
    later = hand.again(max_total_epochs=7)
    reaction = later.begin()
    assert reaction.instructions == [(0, StartSegment(1, 0, 3, False))]
    third = later.train(1, (3,))
    assert third.instructions == [(0, StartSegment(2, 0, 1, False))]


def test_epochs_of_running_segments_are_reserved() -> None:
    hand = ControllerByHand(slots=3, max_total_epochs=5)
    starts = [start for _, start in hand.begin().instructions]
    assert starts == [StartSegment(0, 0, 3, False), StartSegment(1, 0, 2, False)]
    hand.build(0, 0)
    # Another trial gets the epochs that one does not use.
    more = hand.say(SegmentEnded(0, 0, "failed", 0, "x"), slot=0)
    assert [start for _, start in more.instructions] == [StartSegment(2, 0, 3, False)]


# Back end phases ------------------------------------------------------------------------------------------------------


def test_another_back_end_begins_a_phase_and_open_trials_end() -> None:
    scenario = Scenario(ask_x, lambda params, epoch: noise(params, epoch))

    def make(study: Study) -> Any:
        return (Optuna if study.phases[-1].backend == "optuna" else Hyperband)(
            study.objective, study.seed, max_epochs=9
        )

    first = Simulation(scenario, make, backend="hyperband", slots=2).run(stop_after=40)
    states = [trial.state for trial in first.trials]
    assert "paused" in states
    for cut in (0, 1, 2, 3, 4):
        second = first.resume(backend="optuna", limits=Limits(max_trials=len(first.trials) + 5)).run()
        kept = len(first.entries) + 2 + cut  # among the records that end the first phase's trials
        third = second.resume(kept).run()
        for search in (second, third):
            assert len(search.trials) == len(first.trials) + 5
            for trial, state in zip(search.trials, states, strict=False):
                assert trial.state == ("stopped" if state == "paused" else state)
                assert trial.phase == 0
            assert all(trial.phase == 1 for trial in search.trials[len(states) :])
        requested = {r.trial for r in second.records[len(first.entries) :] if isinstance(r, SegmentRequested)}
        assert requested.isdisjoint(range(len(first.trials)))


def test_a_budget_of_trials_counts_those_of_all_phases() -> None:
    scenario = Scenario(ask_x, lambda params, epoch: noise(params, epoch))
    search = Simulation(scenario, lambda s: Hyperband(s.objective, s.seed, max_epochs=9), limits=Limits(max_trials=4))
    search.run()
    later = search.resume(backend="another").run()
    assert len(later.trials) == 4
    assert later.end is not None
    assert later.end.complete


# Order ----------------------------------------------------------------------------------------------------------------


def test_a_slot_waits_for_a_build_with_the_same_answers() -> None:
    domain = Domain("choice", values=("a", "b"))
    parameter = Parameter("kind", domain, "a")
    header = Header(FORMAT, "0", "study", 0, (Objective("loss", "min"),), "", "", (parameter,), {})
    hand = ControllerByHand(slots=3)
    hand.begin(header, BackendChanged("optuna", {}))
    assert len(hand.study.trials) == 2
    hand.say(Question(0, parameter), 0)
    first = hand.study.trials[0].params["kind"]
    hand.say(Question(1, parameter), 1)
    assert len(hand.study.trials) == 2
    values: Mapping[str, Any] = hand.study.trials[1].params
    if not values:  # it drew the same value, and waits until the other trial is built
        hand.say(Built(0, 1, "fit"), 0)
        values = hand.study.trials[1].params
    assert values["kind"] != first


def test_a_build_repeats_only_the_questions_that_waited_for_it() -> None:
    """In a finite space many workers wait for each other. The number of draws must not grow with their square."""
    drawn = 0

    class Counting(Hyperband):
        def suggest(self, *arguments: Any) -> Any:
            nonlocal drawn
            drawn += 1
            return super().suggest(*arguments)

    def ask(hp: Any) -> None:
        for name in "abcdefgh":
            hp.Int(name, 1, 6)

    search = Simulation(
        Scenario(ask, lambda params, epoch: noise(params, epoch)),
        lambda study: Counting(study.objective, study.seed, max_epochs=9, iterations=10),
        slots=120,
        limits=Limits(max_trials=120),
    ).run()
    values = sum(isinstance(record, ParameterSet) for record in search.records)
    # The simulation asks each query twice.
    assert drawn / 2 < 2 * values


def test_after_a_kill_trials_that_others_wait_for_go_first() -> None:
    """With one slot, a trial that waits for another one's build would keep that one from being built."""
    kind = Parameter("kind", Domain("choice", values=("a", "b")), "a")
    count = Parameter("count", Domain("int", 1, 9), 1)
    header = Header(FORMAT, "0", "study", 0, (Objective("loss", "min"),), "", "", (kind, count), {})
    hand = ControllerByHand(slots=2)
    hand.begin(header, BackendChanged("optuna", {}))
    hand.say(Question(1, kind), 1)
    hand.say(Question(1, count), 1)
    later = hand.again(slots=1)
    assert [start.trial for _, start in later.begin().instructions if isinstance(start, StartSegment)] == [1]
