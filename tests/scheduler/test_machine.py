"""Searches with every kind of failure, in any order: real driver, real controller, simulated workers.

Hypothesis begins a study, and lets its workers send messages, die, raise exceptions, diverge, stall and stop early.
Nodes die, drain, are slow, come back and join. It kills the driver, loses the end of what it wrote, stops it, and
resumes it with other slots, limits and back ends. A `Ledger` reads the journal with rules of its own, and asserts at
each record what must hold. The state that is rebuilt from the journal's text is compared with the live state.

`SEARCH_EXAMPLES=2000 pytest tests/scheduler/test_machine.py` tries that many searches instead of the few of
`make test`, different ones in each run; `SEARCH_SEED=7` makes them the same again. A failure is printed as a program:
its lines are calls of the rules below. Pasted into a test after `state = Search()`, they repeat the failure.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
from averaging import Averaging
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from search.backends.asha import Asha
from search.backends.base import BackEnd
from search.backends.brackets import HyperbandPlan, plan_brackets
from search.backends.brackets import Rung as PlannedRung
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.driver.computations import compute
from search.executors.simulated import SimulatedCheckpoint
from search.executors.simulated_nodes import NodeDies, NodeDrains, NodeEvent, NodeJoins, NodeSlows
from search.scheduler.controller import Controller
from search.scheduler.limits import Limits
from search.study import journal
from search.study.journal import Entry, format_line
from search.study.records import (
    BackendChanged,
    Built,
    CheckpointDropped,
    Checkpointed,
    Computed,
    ConfigurationAdded,
    EpochDone,
    Header,
    Judged,
    LimitsChanged,
    ParameterSet,
    Record,
    ResultTold,
    SearchContinued,
    SearchEnded,
    SearchPaused,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
    TrialStopRequested,
)
from search.study.requests import (
    Action,
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    StopTrial,
)
from search.study.study import Study, fold
from search.study.trial import Objective, derive_seed
from search.study.trials import Trial
from search.testing import Hp, Run, Scenario, Simulation
from search.testing.backends import noise

EXAMPLES = int(os.environ.get("SEARCH_EXAMPLES", "0"))
SEED = os.environ.get("SEARCH_SEED")

# Workers and their disk -----------------------------------------------------------------------------------------------


def ask_endless(hp: Hp) -> None:
    """Ask for values of a space in which every configuration is new."""
    hp.Float("x", 0.0, 1.0)
    if hp.Choice("kind", ["plain", "deep"]) == "deep":
        hp.Int("layers", 1, 3)


def ask_finite(hp: Hp) -> None:
    """Ask for one of ten configurations; the questions depend on the answers."""
    hp.Fixed("version", 1)
    if hp.Choice("kind", ["plain", "deep"]) == "deep":
        hp.Int("layers", 1, 2)
        hp.Boolean("norm")
    hp.Int("units", 1, 2)


SPACES = {"endless": ask_endless, "finite": ask_finite}
TRY_FIRST = {
    "endless": ({"x": 0.5}, {"x": 0.25, "kind": "deep", "layers": 2}),
    "finite": ({"kind": "plain"}, {"kind": "plain", "units": 1}),
}
"""The initial configurations of each space."""

TICK = 1 / 16
"""The unit of all virtual times, in seconds: the journal's four decimals hold its multiples."""


class World:
    """The behaviour of simulated workers, as the machine sets it.

    Attributes:
        dooms: by trial, (event, epoch) from its next segment on.
        slow: by trial, the factor by which its epochs take longer from now on.
        latency: the most ticks that a message is on its way.
        drift: added to values; another number in another process, as no training on a GPU is repeatable.
    """

    def __init__(self) -> None:
        self.dooms: dict[int, tuple[str, int]] = {}
        self.slow: dict[int, int] = {}
        self.latency = 0
        self.drift = 0.0

    def scenario(self, space: str, rough: bool) -> Scenario:
        """Return a scenario that follows these attributes; if `rough`, some values alone end a trial early."""
        return Scenario(
            SPACES[space],
            self._value,
            infeasible=lambda run: (
                self._doom(run.trial, "refuse") is not None or (rough and noise(run, "infeasible") < 0.15)
            ),
            fails=lambda run: self._doom(run.trial, "raise") or (2 if rough and noise(run, "fails") < 0.15 else None),
            finishes=lambda run: (
                self._doom(run.trial, "stop early") or (3 if rough and noise(run, "ends") < 0.15 else None)
            ),
            dies=lambda trial, attempt: self._doom(trial, "die"),
            seconds=lambda run: TICK * (1 + int(20 * noise(run, "seconds"))),
            pace=lambda run, epoch: float(self.slow.get(run.trial, 1)),
            latency=lambda run, message: TICK * int((self.latency + 1) * noise(run, "latency", message)),
            bytes=lambda run: 1,
        )

    def _doom(self, trial: int, event: str) -> int | None:
        doomed, epoch = self.dooms.get(trial, ("", 0))
        return epoch if doomed == event else None

    def _value(self, run: Run, epoch: int) -> float:
        at = self._doom(run.trial, "diverge")
        if at is not None and epoch >= at:
            return math.nan
        # With one decimal, so that many values are equal.
        return round(noise(run) + 0.5 * noise(run, epoch) + 1 / epoch + self.drift, 1)


class VersionedDisk(dict[tuple[str, int], SimulatedCheckpoint]):
    """A disk that remembers overwritten checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[tuple[str, int], list[SimulatedCheckpoint]] = defaultdict(list)

    def __setitem__(self, key: tuple[str, int], value: SimulatedCheckpoint) -> None:
        self.before[key].append(value)
        super().__setitem__(key, value)

    def lose(self, pick: int, writes: int) -> None:
        """Undo the last `writes` of one checkpoint: they never reached the disk."""
        if not self:
            return
        key = list(self)[pick % len(self)]
        del self.before[key][-writes:]
        if self.before[key]:
            super().__setitem__(key, self.before[key][-1])
        else:
            del self[key]


# The ledger -----------------------------------------------------------------------------------------------------------


@dataclass
class LedgerTrial:
    """A trial in the ledger.

    Attributes:
        place: its (bracket, rung).
        open: whether the back end waits for its result.
        slot, training, until: of its running segment: the slot, the execution, the last epoch.
        curves: the objective after each epoch, by execution.
        saved: the epoch of the last checkpoint, by execution.
        exhausted: the executions that a callback has ended.
        told: whether its result was told since it was last asked for.
        lost: processes lost since its last progress.
    """

    number: int
    phase: int
    executions: int = 1
    to_epoch: int = 0
    place: tuple[int, int] | None = None
    open: bool = True
    slot: int | None = None
    training: int = 0
    until: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    curves: list[list[float]] = field(default_factory=lambda: [[]])
    saved: dict[int, int] = field(default_factory=dict)
    exhausted: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    built: bool = False
    failed: bool = False
    stopped: bool = False
    told: bool = False
    lost: int = 0
    raised: int = 0
    raising: bool = False
    refused: bool = False
    ended: str | None = None
    told_to_stop: bool = False
    extra: bool = False

    def best(self, objective: Objective) -> list[float]:
        """Return the best value of each execution that has one."""
        found = [objective.best(curve) for curve in self.curves]
        return [value for value in found if value is not None]

    def score(self, objective: Objective) -> float | None:
        """Return the mean of these values; None if there are none."""
        values = self.best(objective)
        return statistics.fmean(values) if values else None

    @property
    def is_exhausted(self) -> bool:
        return self.exhausted == set(range(self.executions)) or self.is_stopped

    @property
    def is_stopped(self) -> bool:
        """True if the user told the trial to stop, it has a value, and no epoch of its is lost."""
        finite = [n for n, curve in enumerate(self.curves) if any(map(math.isfinite, curve))]
        kept = (n in self.exhausted or n in self.dropped or self.saved.get(n, 0) >= len(self.curves[n]) for n in finite)
        return self.told_to_stop and bool(finite) and all(kept)

    @property
    def fulfilled(self) -> bool:
        """True if each execution has reached the epoch that was asked for, or was stopped by its callback."""
        return self.is_stopped or all(
            n in self.exhausted or self.saved.get(n, 0) >= self.to_epoch for n in range(self.executions)
        )


@dataclass
class LedgerRung:
    """A rung of a bracket in the ledger.

    Attributes:
        entered: trials that came here.
        told: their scores here.
        promoted: trials that were promoted from here, with the trials that each had to beat; None for all.
    """

    entered: list[int] = field(default_factory=list)
    told: dict[int, float | None] = field(default_factory=dict)
    promoted: dict[int, frozenset[int] | None] = field(default_factory=dict)


def phase_name(backend: str, max_epochs: int, option: Any) -> str:
    """Return a back end name that also says its options; `make_backend` reads it."""
    return f"{backend}:{max_epochs}:{option}"


class Ledger:
    """The laws of a journal, checked record by record, without knowledge of the code that wrote it."""

    def __init__(self, finite: bool) -> None:
        self.objective = Objective("val_loss", "min")
        self.trials: dict[int, LedgerTrial] = {}
        self.rungs: dict[tuple[int, int], LedgerRung] = defaultdict(LedgerRung)
        self.slots: dict[int, int] = {}
        self.limits = Limits()
        self.epochs = 0
        self.ended: SearchEnded | None = None
        self._finite = finite
        self._seed = 0
        self._phase = -1
        self._backend = ""
        self._max_epochs = 0
        self._plan: HyperbandPlan | None = None
        self._iterations = 1
        self._computed = 0
        self._before = 0.0
        self._began_at: float | None = None
        self._last = 0.0
        self._initial: list[str] = []
        self._added: list[str] = []
        self.paused = False

    def apply(self, record: Record, time: float) -> None:
        """Take in the next record, and assert that it may follow the records before."""
        assert time >= self._last, "time goes backwards"
        if self.ended is not None:
            assert isinstance(record, (BackendChanged, SearchStarted)), "something happened after the end"
        previous, self._last = self._last, time
        match record:
            case Header():
                assert not self.trials
                self.objective, self._seed = record.objective, record.seed
            case BackendChanged():
                self._backend_changed(record)
            case SearchStarted():
                if self._began_at is not None:
                    self._before += previous - self._began_at
                self._began_at, self.ended = None if self.paused else time, None
                options = dict(record.options)
                del options["slots"]
                self.limits = Limits(**options)
                self.slots.clear()
                for trial in self.trials.values():
                    trial.slot = None
            case SegmentRequested():
                self._segment_requested(record)
            case ParameterSet():
                params = self.trials[record.trial].params
                assert record.parameter.name not in params, "a value changed"
                params[record.parameter.name] = record.value
            case Computed():
                assert record.number == self._computed, "a computation was recorded twice, or is missing"
                self._computed += 1
            case SegmentStarted():
                self._segment_started(record, time)
            case Built():
                self._built(self.trials[record.trial])
            case EpochDone():
                self._epoch_done(record)
            case Judged():
                trial = self.trials[record.trial]
                assert trial.slot is not None
                assert not trial.stopped
                trial.stopped |= record.stop
            case Checkpointed():
                trial = self.trials[record.trial]
                assert trial.slot is not None
                assert record.epoch <= len(trial.curves[record.execution]), (
                    "a checkpoint of an epoch that was not journaled"
                )
                trial.saved[record.execution] = record.epoch
                trial.dropped.discard(record.execution)
                trial.exhausted |= {record.execution} if record.stopped_by_callback else set()
            case CheckpointDropped():
                trial = self.trials[record.trial]
                assert trial.saved, "a checkpoint was dropped twice"
                assert not trial.open, "the checkpoint of an open trial was dropped"
                assert trial.ended is None
                trial.saved.clear()
                trial.dropped |= set(range(len(trial.curves)))
            case SegmentEnded():
                self._segment_ended(record)
            case ResultTold():
                self._result_told(record)
            case TrialEnded():
                self._trial_ended(record)
            case SearchEnded():
                self._search_ended(record, time)
            case _:
                self._steered(record, time)

    def _steered(self, record: Record, time: float) -> None:
        match record:
            case ConfigurationAdded():
                self._added.append(repr(record.values))
            case TrialStopRequested():
                trial = self.trials[record.trial]
                assert trial.ended is None
                assert not trial.told_to_stop
                trial.told_to_stop = True
            case SearchPaused():
                assert not self.paused
                assert self._began_at is not None
                self._before, self._began_at = self._before + time - self._began_at, None
                self.paused = True
            case SearchContinued():
                assert self.paused
                self._began_at, self.paused = time, False
            case LimitsChanged():
                self.limits = replace(self.limits, **record.options)

    def _backend_changed(self, record: BackendChanged) -> None:
        assert record.backend != self._backend, "a phase began without a change"
        self._phase += 1
        self._backend = record.backend
        name, epochs, option = record.backend.split(":", 2)
        self._max_epochs, self._plan, self._computed = int(epochs), None, 0
        self.rungs.clear()
        if name == "hyperband":
            factor, iterations = map(int, option.split("x"))
            self._plan, self._iterations = plan_brackets(self._max_epochs, factor), iterations

    def _segment_requested(self, record: SegmentRequested) -> None:
        assert 0 < record.to_epoch <= self._max_epochs
        assert record.executions == self.limits.executions
        trial = self.trials.get(record.trial)
        enough = self.limits.max_trials is not None and len(self.trials) >= self.limits.max_trials
        if trial is None:
            assert record.trial == len(self.trials), "a number was skipped"
            assert record.from_epoch == 0
            added = repr(record.initial_values) in self._added
            assert added or not enough, "more trials than max_trials"
            assert added or not record.extra, "an extra trial that nobody asked for"
            assert record.seed == derive_seed(self._seed, "train", record.trial, 0)
            if record.initial_values:
                assert repr(record.initial_values) not in self._initial, "an initial configuration was tried twice"
                self._initial.append(repr(record.initial_values))
            trial = self.trials[record.trial] = LedgerTrial(record.trial, self._phase, extra=record.extra)
        else:
            assert not trial.open, "a trial is asked for while it is open"
            assert trial.slot is None
            assert trial.ended is None, "a trial that had ended goes on"
            assert not trial.failed, "a failed trial goes on"
            assert not trial.stopped, "a stopped trial goes on"
            assert trial.phase == self._phase, "a trial of an earlier back end goes on"
            assert record.from_epoch == trial.to_epoch < record.to_epoch
        place = None
        if self._plan is not None and not record.extra:
            assert record.bracket is not None
            assert record.rung is not None
            place = (record.bracket, record.rung)
            self._enter_rung(trial, place, record.to_epoch, enough)
        trial.open, trial.told, trial.to_epoch, trial.place = True, False, record.to_epoch, place
        trial.executions = max(record.executions, len(trial.curves))

    # Hyperband ------------------------------------------------------------------------------------------------------

    def _planned(self, place: tuple[int, int]) -> PlannedRung:
        assert self._plan is not None
        return self._plan.brackets[place[0] % len(self._plan.brackets)].rungs[place[1]]

    def _enter_rung(self, trial: LedgerTrial, place: tuple[int, int], to_epoch: int, enough: bool) -> None:
        assert self._plan is not None
        assert place[0] < self._iterations * len(self._plan.brackets)
        bracket, rung = place
        assert to_epoch == self._planned(place).epochs
        if rung > 0:
            assert trial.place == (bracket, rung - 1), "a promotion that skips a rung"
            below = self.rungs[bracket, rung - 1]
            waiting = [
                other for other, score in below.told.items() if score is not None and other not in below.promoted
            ]
            assert trial.number in waiting, "a promotion of a trial that has not finished its rung"
            assert trial.number == self._ranked(below, waiting)[0], "a promotion of another trial than the best"
            # If there can be no more trials, only those in the bracket count. In a finite space this depends on the
            # state of all questions, so there, too, only those in the bracket count.
            rivals = frozenset(self.rungs[bracket, 0].entered) if enough or self._finite else None
            below.promoted[trial.number] = rivals
        else:
            assert trial.place is None
        self.rungs[place].entered.append(trial.number)
        assert len(self.rungs[place].entered) <= self._planned(place).size, "more trials than the rung has places"
        if rung > 0:
            self._check_earned((bracket, rung - 1))

    def _ranked(self, rung: LedgerRung, among: Sequence[int]) -> list[int]:
        return sorted(among, key=lambda number: (self.objective.cost(rung.told[number]), number))

    def _check_earned(self, place: tuple[int, int]) -> None:
        """Assert that each promoted trial is among the best, with all results that came since."""
        rung = self.rungs[place]
        places = self._planned((place[0], place[1] + 1)).size if rung.promoted else 0
        for number, rivals in rung.promoted.items():
            among = [n for n, score in rung.told.items() if score is not None and (rivals is None or n in rivals)]
            assert number in self._ranked(rung, among)[:places], "a promotion that was not earned"

    def _check_brackets(self) -> None:
        """Assert that no bracket has left out a promotion."""
        for place, rung in list(self.rungs.items()):
            assert set(rung.told) == set(rung.entered), "a trial never finished a rung"
            if (place[0], place[1] + 1) in self.rungs or rung.promoted:
                places = self._planned((place[0], place[1] + 1)).size
                finished = [number for number, score in rung.told.items() if score is not None]
                assert len(rung.promoted) == min(places, len(finished)), "a place was left empty"

    # Training -------------------------------------------------------------------------------------------------------

    def _segment_started(self, record: SegmentStarted, time: float) -> None:
        trial = self.trials[record.trial]
        assert record.slot not in self.slots, "a slot runs two trials"
        assert trial.slot is None, "a trial runs twice"
        assert trial.open
        assert trial.ended is None
        assert not trial.failed
        assert not trial.stopped, "a stopped trial is trained"
        assert trial.phase == self._phase
        assert trial.lost <= self.limits.retries, "a trial is tried more often than it may be"
        assert not trial.raising or trial.raised <= self.limits.max_retries_per_trial, "a failed trial is tried again"
        trial.raising = False
        assert record.execution < trial.executions
        assert record.execution not in trial.exhausted, "a trial stopped by its callback is trained on"
        assert trial.saved.get(record.execution, 0) < trial.to_epoch, "a fulfilled suggestion is trained again"
        curve = trial.curves[record.execution] if record.execution < len(trial.curves) else []
        assert record.from_epoch == len(curve)
        assert record.to_epoch <= trial.to_epoch
        assert not self.paused, "a start while the search is paused"
        assert self._began_at is not None
        if trial.told_to_stop and trial.best(self.objective):
            assert record.to_epoch == len(curve), "a trial that was told to stop has a new epoch"
        if self.limits.timeout is not None:
            assert self._before + time - self._began_at < self.limits.timeout, "a start after the time is up"
        if self.limits.target is not None:
            best = self.best()
            assert best is None or self.objective.better(self.limits.target, best), "a start after the target"
        self.slots[record.slot] = record.trial
        trial.slot, trial.training, trial.until = record.slot, record.execution, record.to_epoch
        while len(trial.curves) <= record.execution:
            trial.curves.append([])

    def _built(self, trial: LedgerTrial) -> None:
        assert trial.slot is not None
        if self._finite and not trial.built:
            others = [other.params for other in self.trials.values() if other.built]
            assert trial.params not in others, "a configuration was tried twice"
        trial.built = True

    def _epoch_done(self, record: EpochDone) -> None:
        trial = self.trials[record.trial]
        assert trial.slot is not None, "an epoch of a trial that does not run"
        assert record.execution == trial.training
        curve = trial.curves[record.execution]
        assert record.epoch <= len(curve) + 1, "an epoch was skipped"
        if record.epoch <= len(curve):
            return  # trained again: the first record stands
        assert record.epoch <= trial.until <= trial.to_epoch, "trained for longer than was asked for"
        curve.append(record.logs["val_loss"])
        trial.lost = 0
        self.epochs += 1
        limit = self.limits.max_total_epochs
        assert limit is None or self.epochs <= limit, "more epochs than max_total_epochs"

    def _segment_ended(self, record: SegmentEnded) -> None:
        trial = self.trials[record.trial]
        assert trial.slot is not None
        assert record.execution == trial.training
        del self.slots[trial.slot]
        trial.slot = None
        trial.lost += record.outcome == "lost"
        trial.failed |= record.outcome in ("failed", "fatal")
        trial.raising = record.outcome == "raised"
        trial.raised += trial.raising
        if record.outcome == "infeasible":
            assert not any(trial.curves), "a trial that has cost epochs is infeasible"
            trial.refused = True
        if record.outcome == "stopped_by_callback":
            trial.exhausted.add(record.execution)
        if record.outcome == "reached":
            trial.saved[record.execution] = max(trial.saved.get(record.execution, 0), record.epoch)

    def _result_told(self, record: ResultTold) -> None:
        trial = self.trials[record.trial]
        assert trial.open
        assert trial.slot is None
        assert trial.ended is None
        score = trial.score(self.objective)
        done = trial.stopped or trial.is_exhausted or trial.fulfilled
        told = trial.told_to_stop and trial.best(self.objective)
        retried = trial.raised <= self.limits.max_retries_per_trial
        if trial.failed or (trial.raising and ((done and not told) or not retried)):
            expected = "failed"
        elif trial.refused:
            expected = "infeasible"
        elif trial.stopped:
            expected = "stopped"
        elif trial.is_exhausted:
            expected = "stopped_by_callback"
        elif trial.fulfilled:
            expected = "reached"
        else:
            assert trial.lost > self.limits.retries, "given up before its time"
            expected = "failed"
        expected = "failed" if score is None and expected != "infeasible" else expected
        assert record.outcome == expected
        assert record.score == (None if expected == "failed" else score)
        assert record.epoch == len(trial.curves[0])
        trial.open, trial.told = False, True
        trial.failed |= expected == "failed"
        if trial.refused and trial.place is not None:
            self.rungs[trial.place].entered.remove(record.trial)  # another one takes its place
        elif trial.place is not None:
            self.rungs[trial.place].told[record.trial] = record.score
            self._check_earned(trial.place)

    def _trial_ended(self, record: TrialEnded) -> None:
        trial = self.trials[record.trial]
        assert trial.ended is None, "a trial ended twice"
        assert trial.slot is None
        assert not trial.open or trial.phase < self._phase, "a trial ended before its suggestion did"
        if trial.failed:
            assert record.state == "failed"
        elif trial.refused:
            assert record.state == "infeasible"
        elif not trial.stopped and (trial.is_exhausted or len(trial.curves[0]) >= self._max_epochs):
            assert record.state == "completed"
        else:
            assert record.state == "stopped"
        trial.ended = record.state

    def best(self) -> float | None:
        """Return the best score of trials whose executions all have one, or whose result was told with fewer."""
        scores = [
            trial.score(self.objective)
            for trial in self.trials.values()
            if not trial.failed and (trial.told or len(trial.best(self.objective)) == trial.executions)
        ]
        return self.objective.best(score for score in scores if score is not None)

    def _search_ended(self, record: SearchEnded, time: float) -> None:
        self.ended = record
        if not self.paused:
            assert self._began_at is not None
            self._before, self._began_at = self._before + time - self._began_at, None
        assert not self.slots, "a segment runs at the end"
        if record.reason == "stopped by the user":
            assert (record.exit_code, record.complete) == (130, False)
        elif " trials failed, " in record.reason or "failed in a row, " in record.reason:
            assert (record.exit_code, record.complete) == (1, False)
        else:
            assert record.exit_code == (1 if self.best() is None else 0)
        if record.reason == "the time is up":
            assert self.limits.timeout is not None
            assert self._before >= self.limits.timeout
        if record.complete and " is trained" not in record.reason and "target" not in record.reason:
            for trial in self.trials.values():
                assert trial.ended is not None, "a trial was lost"
            if self._plan is not None:
                self._check_brackets()
        if " is trained" in record.reason:
            assert self.limits.max_total_epochs is not None
            assert self.epochs >= self.limits.max_total_epochs  # more if this process has a lower limit


# A process ------------------------------------------------------------------------------------------------------------


class Process:
    """A search's process, as a thread: either it or the test runs, and the other waits."""

    def __init__(self, search: Simulation) -> None:
        self.search = search
        self.over = False
        self._error: BaseException | None = None
        self._messages = 0
        self._test_may_run, self._search_may_run = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def go_on(self, messages: int) -> None:
        """Handle that many messages, or as many as there are."""
        self._messages = messages
        self._search_may_run.release()
        self._test_may_run.acquire()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        self._search_may_run.acquire()
        try:
            self.search.run(before_message=self._before_message)
        except BaseException as error:
            self._error = error
        self.over = True
        self._test_may_run.release()

    def _before_message(self) -> None:
        while self._messages == 0:
            self._test_may_run.release()
            self._search_may_run.acquire()
        self._messages -= 1


def make_backend(study: Study) -> BackEnd:
    """Return the back end that the phase's name describes."""
    name, epochs, option = study.phases[-1].backend.split(":", 2)
    if name == "optuna":
        return Optuna(study.objective, study.seed, max_epochs=int(epochs), sampler="random", pruner=option)
    if name == "averaging":
        return Averaging(study.objective, study.seed, max_epochs=int(epochs), every=int(option))
    if name == "asha":
        return Asha(study.objective, study.seed, max_epochs=int(epochs), factor=int(option))
    factor, iterations = map(int, option.split("x"))
    return Hyperband(study.objective, study.seed, max_epochs=int(epochs), factor=factor, iterations=iterations)


# The machine ----------------------------------------------------------------------------------------------------------

backends = st.one_of(
    st.builds(
        lambda epochs, factor, iterations: phase_name("hyperband", epochs, f"{factor}x{iterations}"),
        st.sampled_from([4, 9, 10]),
        st.integers(2, 4),
        st.integers(1, 2),
    ),
    st.builds(
        lambda epochs, factor: phase_name("asha", epochs, str(factor)), st.sampled_from([4, 9, 10]), st.integers(2, 4)
    ),
    st.builds(
        lambda epochs, pruner: phase_name("optuna", epochs, pruner),
        st.sampled_from([3, 6]),
        st.sampled_from(["hyperband", "median:n_startup_trials=1", "asha", "none"]),
    ),
    st.builds(lambda epochs, every: phase_name("averaging", epochs, every), st.sampled_from([2, 4]), st.integers(1, 3)),
)


def rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.none() | strategy


limits = st.builds(
    Limits,
    max_trials=rarely(st.integers(1, 25)),
    max_total_epochs=rarely(st.integers(1, 80)),
    timeout=rarely(st.integers(1, 40).map(float)),
    target=rarely(st.integers(1, 12).map(lambda tenths: tenths / 10)),
    retries=st.integers(0, 2),
    max_retries_per_trial=st.integers(0, 2),
    max_consecutive_failed_trials=rarely(st.integers(1, 4)),
    executions=st.sampled_from([1, 1, 1, 2]),
    evaluate_best=st.integers(0, 2),
    test=st.booleans(),
    checkpoint_bytes=rarely(st.integers(2, 5)),
)
slot_counts = st.integers(1, 5)
ticks = st.integers(0, 60).map(lambda number: TICK * number)
nodes = st.integers(0, 4)
node_events = st.one_of(
    st.builds(NodeDies, st.just(0.0), nodes, st.booleans(), ticks, ticks),
    st.builds(NodeDrains, st.just(0.0), nodes, ticks, ticks),
    st.builds(NodeJoins, st.just(0.0), st.integers(1, 2)),
    st.builds(NodeSlows, st.just(0.0), nodes, st.just(3.0), ticks),
)


actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(
        lambda values: AddConfigurations((values,)),
        st.sampled_from([{"x": 0.75}, {"x": 0.125, "kind": "deep"}, {"kind": "deep", "layers": 1}, {"units": 2}])
        | st.builds(lambda number: {"x": number / 1024}, st.integers(0, 1024)),
    ),
    st.builds(StopTrial, st.integers(0, 6)),
    st.just(PauseSearch()),
    st.just(ContinueSearch()),
    st.builds(
        ChangeLimits,
        st.fixed_dictionaries({"max_trials": st.integers(1, 25)})
        | st.fixed_dictionaries({"max_total_epochs": st.integers(1, 80)})
        | st.fixed_dictionaries({"timeout": st.integers(1, 40).map(float)})
        | st.fixed_dictionaries({"target": st.integers(1, 12).map(lambda tenths: tenths / 10)}),
    ),
)


def folded_parts(controller: Controller) -> dict[str, str]:
    """Return what a controller folds from records, beside its study and its back end."""
    counts = {type(rule).__name__: repr(vars(rule)) for rule in controller.rules}
    return {"domains": repr(controller.questions.domains), **counts}


class Search(RuleBasedStateMachine):
    """A study over all of its processes, as a state machine whose rules are the events."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.disk = VersionedDisk()
        self.lines: list[bytes] = []
        self.parsed: list[Entry] = []
        self.process: Process | None = None
        self.made: list[BackEnd] = []
        self.processes = 0
        self.broken = False
        self.stopped_at: int | None = None

    # Rules ----------------------------------------------------------------------------------------------------------

    @initialize(
        backend=backends,
        space=st.sampled_from(["endless", "endless", "finite"]),
        direction=st.sampled_from(["min", "max"]),
        seed=st.integers(0, 99),
        rough=st.booleans(),
        drifts=st.booleans(),
        initial=st.integers(0, 2),
        slots=slot_counts,
        limits=limits,
        latency=st.integers(0, 8),
        computing=st.integers(0, 40),
    )
    def begin(
        self,
        backend: str,
        space: str,
        direction: Any,
        seed: int,
        rough: bool,
        drifts: bool,
        initial: int,
        slots: int,
        limits: Limits,
        latency: int,
        computing: int,
    ) -> None:
        self.drifts, self.world.latency = drifts, latency
        self.finite = space == "finite"
        self.ledger = Ledger(self.finite)
        self.arguments: dict[str, Any] = {
            "scenario": self.world.scenario(space, rough),
            "objective": Objective("val_loss", direction),
            "seed": seed,
            "try_first": TRY_FIRST[space][:initial],
            "slots": slots,
            "limits": limits,
            "backend": backend,
            "computing": TICK * computing,
        }
        with self.watched():
            self.start()

    @precondition(lambda self: self.process is not None)
    @rule(messages=st.integers(1, 60))
    def receive(self, messages: int) -> None:
        """Receive messages of workers."""
        with self.watched():
            self.go_on(messages)

    @precondition(lambda self: self.process is not None)
    @rule(slot=slot_counts, unheard=st.booleans(), messages=st.integers(0, 20))
    def lose_a_worker(self, slot: int, unheard: bool, messages: int) -> None:
        """Kill a worker; if `unheard`, its messages on the way are lost too."""
        assert self.process is not None
        self.process.search.executor.end_process(slot - 1, lose_messages=unheard)
        self.receive(messages + 1)

    @precondition(lambda self: self.process is not None)
    @rule(event=node_events, messages=st.integers(0, 20))
    def lose_or_find_a_node(self, event: NodeEvent, messages: int) -> None:
        """Let something happen to a node, or a new one join. A dead node comes back, so that the search can end."""
        assert self.process is not None
        executor = self.process.search.executor
        if isinstance(event, NodeJoins):
            executor.happen(event)
        else:
            executor.happen(replace(event, node=event.node % executor.nodes))
        self.receive(messages + 1)

    @rule(
        trial=st.integers(0, 9),
        event=st.sampled_from(["raise", "diverge", "stop early", "die", "refuse"]),
        epoch=st.integers(1, 6),
    )
    def doom(self, trial: int, event: str, epoch: int) -> None:
        """Let something happen to one of the last trials, or of those to come."""
        self.world.dooms[max(0, len(self.ledger.trials) + 3 - trial)] = event, epoch

    @rule(trial=st.integers(0, 9), factor=st.sampled_from([1, 1000]))
    def stall(self, trial: int, factor: int) -> None:
        """Change the pace of one of the last trials."""
        self.world.slow[max(0, len(self.ledger.trials) - trial)] = factor

    @rule(latency=st.integers(0, 8))
    def slow_down(self, latency: int) -> None:
        """Let messages take longer from now on, some more than others."""
        self.world.latency = latency

    @precondition(lambda self: self.process is not None)
    @rule(messages=st.integers(0, 60))
    def stop(self, messages: int) -> None:
        """Ask for a stop as the user would, and receive that many messages."""
        assert self.process is not None
        with self.watched():
            self.process.search.stop()
            self.stopped_at = len(self.process.search.entries)
            self.go_on(messages + 1)

    @precondition(lambda self: self.process is not None)
    @rule(
        lost=st.just(0) | st.integers(0, 12),
        torn=st.integers(0, 200),
        writes=st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3)), max_size=3),
    )
    def crash(self, lost: int, torn: int, writes: list[tuple[int, int]]) -> None:
        """Kill the driver's process and its workers; a power failure takes the last records and checkpoints."""
        with self.watched():
            self.end(lost, torn)
            for pick, count in writes:
                self.disk.lose(pick, count)

    @precondition(lambda self: self.process is None)
    @rule(slots=st.none() | slot_counts, limits=st.none() | limits, backend=rarely(rarely(backends)))
    def resume(self, slots: int | None, limits: Limits | None, backend: str | None) -> None:
        """Begin the next process, with some options changed."""
        changes = {"slots": slots, "limits": limits, "backend": backend}
        self.arguments |= {name: value for name, value in changes.items() if value is not None}
        with self.watched():
            self.start()

    @precondition(lambda self: self.process is not None)
    @rule(action=actions, messages=st.integers(0, 40))
    def steer(self, action: Action, messages: int) -> None:
        """Send a request as the user would, and receive that many messages."""
        assert self.process is not None
        search = self.process.search
        if isinstance(action, StopTrial):
            action = StopTrial(len(self.ledger.trials) - action.trial)
        with self.watched():
            request = search.steer(action)
            self.go_on(messages + 1)
            reply = search.replies.get(request)
            if isinstance(action, ChangeLimits) and reply is not None and reply.accepted:
                self.arguments["limits"] = replace(self.arguments["limits"], **action.options)

    @rule()
    def replay(self) -> None:
        """Compare the live state with the journal's."""
        if self.process is not None:
            with self.watched():
                self.compare()

    def teardown(self) -> None:
        if self.processes == 0:
            return
        try:
            if not self.broken:
                self.finish()
        finally:
            if self.process is not None and not self.process.over:
                self.process.search.kill()
                self.process.go_on(1)

    # Carrying out the rules -----------------------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note an exception, so that `teardown` does not go on after it."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def start(self) -> None:
        """Start a process, which finds the journal and the disk, up to its first message."""
        self.processes += 1
        self.stopped_at = None
        if self.drifts:
            self.world.drift = self.processes % 3 / 10
        search = Simulation(
            make_backend=self._make_backend,
            entries=self.parsed,
            checkpoints=self.disk,
            order=self.processes,
            max_epochs=int(self.arguments["backend"].split(":")[1]),
            **self.arguments,
        )
        self.process = Process(search)
        self.go_on(0)

    def _make_backend(self, study: Study) -> BackEnd:
        self.made.append(make_backend(study))
        return self.made[-1]

    def go_on(self, messages: int) -> None:
        """Receive messages, check what was journaled, and end the process if the search has ended."""
        process = self.process
        assert process is not None
        process.go_on(messages)
        self.read()
        if process.over:
            end = process.search.end
            assert end is not None
            assert end == self.ledger.ended
            assert process.search.executor.busy == 0
            best = self.process.search.study.best if self.process else None
            assert (None if best is None else best.objective) == self.ledger.best()
            self.compare()
            self.end(0, 0)

    def read(self) -> None:
        """Take in the records journaled since the last call."""
        assert self.process is not None
        entries = self.process.search.entries
        for entry in entries[len(self.lines) :]:
            if self.stopped_at is not None and len(self.lines) >= self.stopped_at:
                assert not isinstance(entry.record, (SegmentStarted, SegmentRequested)), "a start after the user's stop"
            previous = journal.checksum_of(self.lines[-1]) if self.lines else journal.FIRST
            line = format_line(entry.record, entry.time, previous)
            self.lines.append(line)
            self.parsed.append(Entry(*journal.parse_line(line), 0))
            self.ledger.apply(entry.record, entry.time)

    def end(self, lost: int, torn: int) -> None:
        """End the process, and read the journal from a file again, without the last `lost` records."""
        process, self.process = self.process, None
        assert process is not None
        if not process.over:
            process.search.kill()
            process.go_on(1)
        kept = max(2, len(self.lines) - lost)
        tail = self.lines[kept][:torn] if kept < len(self.lines) else b""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "journal.jsonl"
            path.write_bytes(b"".join(self.lines[:kept]) + tail)
            self.parsed = list(journal.read(path))
        assert kept <= len(self.parsed) <= kept + 1  # all of the line may have been written
        self.lines = self.lines[: len(self.parsed)]
        if lost:
            self.ledger = Ledger(self.finite)
            for entry in self.parsed:
                self.ledger.apply(entry.record, entry.time)

    def compare(self) -> None:
        """Assert that the state rebuilt from the journal's text is the live state."""
        assert self.process is not None
        search = self.process.search
        live, again = search.study, Study()
        made: list[BackEnd] = []

        def remake(_: BackendChanged) -> BackEnd:
            made.append(make_backend(again))
            return made[-1]

        arguments = self.arguments
        controller = Controller(
            again,
            remake,
            search.controller.limits,  # the user may have changed them
            arguments["slots"],
            search.controller.max_epochs,
            arguments["try_first"],
        )
        controller.replay(self.parsed)
        for study in (again, fold(self.parsed)):
            assert_alike(study, live)
        assert folded_parts(controller) == folded_parts(search.controller)
        one, other = made[-1], self.made[-1]
        for new in (True, False):
            assert one.ask(new=new, child=new) == other.ask(new=new, child=new)
        if isinstance(one, Averaging) and isinstance(other, Averaging):
            due, again_due = one.computation(), other.computation()
            assert due == again_due
            assert due is None or again_due is None or compute(due) == compute(again_due)
        if isinstance(one, Asha) and isinstance(other, Asha):
            assert one.expendable(live.trials) == other.expendable(live.trials)
        for trial in live.trials.values():
            if not trial.open or trial.phase < live.phase:
                continue
            parameter = search.scenario.question(trial.params)
            if parameter is not None:
                assert one.suggest(trial.number, parameter) == other.suggest(trial.number, parameter)
            if trial.progress.judged and trial.epochs:
                assert one.judge(trial.number, trial.epochs) == other.judge(trial.number, trial.epochs)

    def finish(self) -> None:
        """Run on under the present limits, then to the search's end."""
        forever = 10**9
        if self.process is not None:
            self.go_on(200)
        if self.process is not None:
            self.end(0, 0)
        self.arguments["limits"] = Limits(
            max_trials=len(self.ledger.trials) + 2, max_consecutive_failures=forever, evaluate_best=1, test=True
        )
        self.start()
        if self.process is not None:
            self.process.search.steer(ContinueSearch())
            self.go_on(forever)
        end = self.ledger.ended
        assert end is not None
        # Nearly all trials may have been doomed.
        assert end.complete or " trials failed, " in end.reason
        assert self.process is None


def assert_alike(one: Study, other: Study) -> None:
    """Assert that two studies are the same in everything, times as far as a journal holds them."""
    for name in vars(one).keys() - {"trials", "best"}:
        if not name.startswith("_"):
            assert repr(getattr(one, name)) == repr(getattr(other, name)), name
    assert_close(one.seconds(), other.seconds())
    assert (one.best and one.best.number) == (other.best and other.best.number)
    assert list(one.trials) == list(other.trials)
    for a, b in zip(one.trials.values(), other.trials.values(), strict=True):
        x, y = known_of(a), known_of(b)
        for name in x:
            if name in TIMES:
                assert_close(x[name], y[name])
            else:
                # Compared as text: NaN equals nothing.
                assert repr(x[name]) == repr(y[name]), f"trial {a.number}: {name}"


TIMES = ("began_at", "end.at")


def known_of(trial: Trial) -> dict[str, Any]:
    """Return all that is known of a trial, by name; that of a group by the group's name and its own."""
    found = {}
    for part in fields(trial):
        value = getattr(trial, part.name)
        if part.name in ("values", "progress", "best", "resources", "end"):
            found |= {f"{part.name}.{each.name}": getattr(value, each.name) for each in fields(value)}
        else:
            found[part.name] = value
    return found


def assert_close(one: float | None, other: float | None) -> None:
    assert (one is None) == (other is None)
    assert one is None or other is None or math.isclose(one, other, rel_tol=0, abs_tol=1e-3)


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_no_trial_is_lost_repeated_or_promoted_unearned() -> None:
    fixed = settings(
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        max_examples=EXAMPLES or 100,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    machine: Any = Search
    if SEED is not None:
        machine = hypothesis.seed(int(SEED))(machine)
    run_state_machine_as_test(machine, settings=fixed)
