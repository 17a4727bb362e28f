"""The limit of the disk for checkpoints: which are dropped, and the training of their trials from the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pausing import Pausing

from search.backends.base import BackEnd
from search.backends.hyperband import Hyperband
from search.scheduler.disk import CheckpointSpace
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.records import (
    CheckpointDropped,
    Checkpointed,
    EpochDone,
    ResultTold,
    SegmentEnded,
    SegmentRequested,
    TrialEnded,
)
from search.study.study import Study, fold
from search.study.trial import Objective, Suggestion
from search.testing import BackEndContract, Hp, Run, Scenario, Simulation
from search.testing.backends import ROUGH
from search.testing.simulation import PATHS

SIZE = 1000


class TestPausing(BackEndContract):
    def make(self, objective: Objective, seed: int, max_epochs: int, parameters: Sequence[Parameter]) -> BackEnd:
        return Pausing(objective, seed, max_epochs=max_epochs)


def ask(hp: Hp) -> None:
    hp.Float("x", 0.0, 1.0)


def loss(run: Run, epoch: int) -> float:
    x = run["x"]
    assert isinstance(x, float)
    return x + 1 / epoch + 0.2 * run.random("loss", epoch).random()


SCENARIO = Scenario(ask, loss, bytes=lambda run: SIZE)


def pausing(study: Study) -> Pausing:
    return Pausing(study.objective, study.seed, max_epochs=9)


def simulate(checkpoints: float | None = 3, scenario: Scenario = SCENARIO, **options: Any) -> Simulation:
    """Return a search, not yet run, with room for so many checkpoints of paused trials."""
    limit = None if checkpoints is None else int(checkpoints * SIZE)
    others = {"max_trials": 20, **options.pop("limits", {})}
    return Simulation(scenario, pausing, limits=Limits(checkpoint_bytes=limit, **others), **{"seed": 3, **options})


def dropped(search: Simulation) -> list[int]:
    return [record.trial for record in search.records if isinstance(record, CheckpointDropped)]


@pytest.fixture(scope="module")
def search() -> Simulation:
    return simulate().run()


def test_a_limited_search_equals_one_without_a_limit_and_trains_epochs_again(search: Simulation) -> None:
    free = simulate(None).run()
    assert not dropped(free)
    assert search.history() == free.history()
    assert free.study.trained == free.study.epochs == search.study.epochs < search.study.trained
    again = [number for number in set(dropped(search)) if search.trials[number].epochs > 2]
    assert again, "no dropped trial went on"


def test_a_dropped_trial_is_trained_again_from_its_first_epoch(search: Simulation) -> None:
    gone, seen = set[int](), 0
    epochs: dict[int, list[EpochDone]] = {}
    for record in search.records:
        match record:
            case CheckpointDropped():
                gone.add(record.trial)
            case SegmentRequested():
                epochs[record.trial] = []
            case EpochDone():
                epochs[record.trial].append(record)
            case SegmentEnded() if record.trial in gone:
                gone.discard(record.trial)
                assert [done.epoch for done in epochs[record.trial]] == list(range(1, record.epoch + 1))
                curve = search.trials[record.trial].curve
                assert [done.logs for done in epochs[record.trial]] == [done.logs for done in curve[: record.epoch]]
                seen += 1
    assert seen > 2


def test_the_least_likely_trials_are_dropped_and_no_more_than_needed(search: Simulation) -> None:
    """The simulation checks the limit after each message."""
    for kept, record in enumerate(search.records):
        if isinstance(record, CheckpointDropped):
            trials = fold(search.entries[:kept]).trials.values()
            costs = {t.number: t.objective for t in trials if t.state == "paused" and not t.open and not t.dropped}
            assert len(costs) == 4
            assert costs[record.trial] == max(map(Objective("val_loss", "min").cost, costs.values()))


@pytest.mark.parametrize("slots", [1, 3])
def test_the_limit_holds_whatever_happens(slots: int) -> None:
    """The simulation checks the limit after each message."""
    scenario = Scenario(
        ROUGH.ask,
        ROUGH.value,
        ROUGH.infeasible,
        ROUGH.fails,
        ROUGH.finishes,
        ROUGH.dies,
        bytes=lambda run: 100 + 20 * run.trial,
    )
    search = simulate(1, scenario, slots=slots, limits={"executions": 2, "max_consecutive_failures": 99}).run()
    assert len(dropped(search)) > 5
    assert all(trial.ended for trial in search.trials)


@pytest.mark.parametrize("step", [60, pytest.param(11, marks=pytest.mark.slow)])
def test_a_search_cut_after_any_record_is_the_same(search: Simulation, step: int) -> None:
    for kept in range(11, len(search.entries), step):
        resumed = search.resume(kept).run()
        assert resumed.history() == search.history(), f"after record {kept}"
        assert dropped(resumed) == dropped(search), f"after record {kept}"


def test_the_same_after_a_power_failure_that_the_deletion_outlived(search: Simulation) -> None:
    """The disk of the last process lacks checkpoints that the journal, cut before they were dropped, still names."""
    places = [(i, record.trial) for i, record in enumerate(search.records) if isinstance(record, CheckpointDropped)]
    for kept, trial in places[::8]:
        resumed = search.resume(kept)
        resumed.executor.drop(PATHS.trial(trial))
        assert resumed.run().history() == search.history(), f"after record {kept}"


def test_a_search_stopped_by_the_user_and_resumed_drops_the_same(search: Simulation) -> None:
    for messages in (30, 61):
        stopped = simulate().run(stop_after=messages)
        resumed = stopped.resume().run()
        assert (resumed.history(), dropped(resumed)) == (search.history(), dropped(search)), messages


def test_a_search_that_goes_on_with_a_larger_budget_drops_the_same() -> None:
    whole = simulate(2, limits={"max_trials": None, "max_total_epochs": 70}).run()
    for epochs in (29, 40, 53):
        cut = simulate(2, limits={"max_trials": None, "max_total_epochs": epochs}).run()
        more = cut.resume(limits=Limits(max_total_epochs=70, checkpoint_bytes=2 * SIZE)).run()
        assert (more.history(), dropped(more)) == (whole.history(), dropped(whole))


def test_a_lower_limit_of_a_resumed_search_holds_at_once() -> None:
    stopped = simulate(None).run(stop_after=80)
    resumed = stopped.resume(limits=Limits(max_trials=20, checkpoint_bytes=SIZE)).run(
        until=lambda record: isinstance(record, EpochDone)
    )
    paused = [t for t in resumed.trials if t.state == "paused" and not t.open and not t.dropped]
    assert len(paused) <= 1
    assert len(dropped(resumed)) > 2


def test_epochs_that_are_trained_again_cost_no_budget() -> None:
    free, bound = (simulate(limit, limits={"max_trials": None, "max_total_epochs": 61}).run() for limit in (None, 1))
    assert bound.study.epochs == free.study.epochs == 61
    assert bound.history() == free.history()
    assert bound.study.trained > 61


def test_with_no_epoch_left_a_dropped_trial_is_not_trained_again() -> None:
    """An open trial of a killed search, whose epochs are worth nothing without further ones."""
    whole = simulate(1, limits={"max_trials": None, "max_total_epochs": 61}).run()
    again = (
        i
        for i, record in enumerate(whole.records)
        if isinstance(record, SegmentRequested) and CheckpointDropped(record.trial) in whole.records[:i]
    )
    kept = next(again) + 1
    study = fold(whole.entries[:kept])
    limits = Limits(max_total_epochs=study.epochs, checkpoint_bytes=SIZE)
    resumed = whole.resume(kept, limits=limits).run()
    assert resumed.end is not None
    assert resumed.end.complete
    assert resumed.study.trained == study.trained


def test_a_trial_with_several_executions_loses_and_regains_all_checkpoints() -> None:
    free, bound = (simulate(limit, limits={"executions": 2}).run() for limit in (None, 5))
    assert bound.history() == free.history()
    assert dropped(bound)
    sizes = Counter[int]()
    for record in bound.records:
        if isinstance(record, Checkpointed):
            assert record.bytes == SIZE
            sizes[record.trial] += 1
    assert min(sizes[trial] for trial in set(dropped(bound))) >= 2


def test_a_checkpoint_larger_than_the_limit_ends_the_search_with_one_line() -> None:
    search = simulate(0.5).run()
    assert search.end is not None
    assert (search.end.exit_code, search.end.complete) == (2, False)
    assert search.end.reason == ("the checkpoint of trial 0 takes 1kB, and --disk is 500B: resume with a larger one")
    assert search.resume(limits=Limits(max_trials=20, checkpoint_bytes=3 * SIZE)).run().end is not None


def space_of(*sizes: int) -> CheckpointSpace:
    """Return room for ten bytes, with paused trials that have checkpoints of these `sizes`."""
    space, study = CheckpointSpace(10), Study()
    for trial, size in enumerate(sizes):
        space.apply(Checkpointed(trial, 0, 1, 1, bytes=size), study)
        space.apply(ResultTold(trial, 1, 0.5, "reached"), study)
    return space


RANKING: Any = SimpleNamespace(expendable=sorted)
SAYS_MORE: Any = SimpleNamespace(expendable=lambda _: [5, 1, 1, 0])


def test_with_a_back_end_that_ranks_no_trials_nothing_is_dropped() -> None:
    space = space_of(7, 7)
    assert space.choose_dropped(Hyperband(Objective("val_loss", "min"), 0)) == []
    assert space.choose_dropped(RANKING) == [0]


def test_checkpoints_of_unknown_size_are_kept() -> None:
    assert space_of(0, 7, 7).choose_dropped(RANKING) == [1]


def test_trials_that_were_not_asked_about_are_kept() -> None:
    assert space_of(7, 7).choose_dropped(SAYS_MORE) == [1]


def test_a_trial_that_has_ended_needs_no_room() -> None:
    space = space_of(70)
    assert space.check(Study(), 0.0) is not None
    space.apply(TrialEnded(0, "failed"), Study())
    assert (space.check(Study(), 0.0), space.choose_dropped(RANKING)) == (None, [])


def test_a_trial_whose_checkpoint_was_dropped_is_no_parent() -> None:
    class Parent(Pausing):
        def ask(self, *, new: bool, child: bool) -> Any:
            if self.dropped:
                return Suggestion(None, self._epochs[self.dropped[0]], 9, parent=self.dropped[0])
            return super().ask(new=new, child=child)

    search = Simulation(
        SCENARIO,
        lambda study: Parent(study.objective, study.seed, max_epochs=9),
        limits=Limits(max_trials=20, checkpoint_bytes=SIZE),
    )
    with pytest.raises(AssertionError, match=r"trial \d+ cannot be a parent: its checkpoint was dropped"):
        search.run()
