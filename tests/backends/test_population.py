"""The contract kit run on a back end that names parents, and the trials that it may not name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from population import PopulationBased

from search.backends.base import BackEnd
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.records import ResultTold, SegmentRequested
from search.study.study import Study
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait
from search.testing import BackEndContract, Hp, Run, Scenario, Simulation, recorded
from search.testing.backends import DECISIONS, first_decision


class TestPopulationBased(BackEndContract):
    def make(self, objective: Objective, seed: int, max_epochs: int, parameters: Sequence[Parameter]) -> BackEnd:
        return PopulationBased(objective, seed, max_epochs=max_epochs, size=3)


# Searches with children -----------------------------------------------------------------------------------------------


def ask(hp: Hp) -> None:
    if hp.Choice("optimizer", ["sgd", "adam"]) == "sgd":
        hp.Float("momentum", 0.0, 0.9)
    hp.Float("rate", 0.0, 1.0)


def loss(run: Run, epoch: int) -> float:
    """Return the loss after `epoch`: each epoch so far, also those of ancestors, has lowered it by its rate."""
    return 9.0 - sum(float(run.values_at(each)["rate"]) for each in range(1, epoch + 1))  # type: ignore[arg-type]


def population(study: Study) -> PopulationBased:
    return PopulationBased(study.objective, study.seed, max_epochs=6, size=3, step=2)


def simulate(**options: Any) -> Simulation:
    options = {"limits": Limits(max_trials=12), "max_epochs": 6, "seed": 2, **options}
    return Simulation(Scenario(ask, loss), population, **options)


@pytest.fixture(scope="module")
def search() -> Simulation:
    return simulate().run()


def test_a_child_continues_its_parent_with_its_own_values(search: Simulation) -> None:
    children = [trial for trial in search.trials if trial.parent is not None]
    assert len(children) >= 3
    grandchild = False
    for trial in children:
        assert trial.parent is not None
        parent = search.trials[trial.parent.trial]
        first, before = trial.curve[0], parent.executions[0].find(trial.parent.epochs[0])
        assert before is not None
        assert first.epoch == before.epoch + 1
        assert first.logs["val_loss"] == pytest.approx(before.logs["val_loss"] - trial.params["rate"])  # type: ignore[operator]
        assert trial.objective == min(epoch.logs["val_loss"] for epoch in trial.curve)
        assert trial.progress.trained == trial.executions[0].own_epochs == len(trial.curve)
        assert {"rate", "optimizer"} <= trial.params.keys()
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        grandchild |= parent.parent is not None
    assert grandchild
    assert search.study.epochs == search.study.trained == sum(len(trial.curve) for trial in search.trials)


def test_a_child_has_the_values_that_it_was_given_and_its_parents_others(search: Simulation) -> None:
    for record in search.records:
        if isinstance(record, SegmentRequested) and record.parent is not None:
            trial = search.trials[record.trial]
            assert trial.params.items() <= record.values.items() or "momentum" in trial.params.keys() - record.values


def test_after_any_record_a_resume_decides_the_same(search: Simulation) -> None:
    for kept in range(len(search.entries)):
        resumed = search.resume(kept).run(until=lambda record: isinstance(record, DECISIONS))
        assert first_decision(resumed.records[kept:]) == first_decision(search.records[kept:]), f"after record {kept}"


def test_a_search_cut_where_a_child_begins_is_the_same(search: Simulation) -> None:
    """Cut after the child is journaled, before and after its parent has handed on, and after its first epoch."""
    requests = [(i, record) for i, record in enumerate(search.records) if isinstance(record, SegmentRequested)]
    for index in [i for i, record in requests if record.parent is not None]:
        for kept in range(index, index + 9):
            assert search.resume(kept).run().history() == search.history(), f"after record {kept}"


@pytest.mark.parametrize("executions", [1, 2])
def test_several_slots_and_executions_lose_no_trial(executions: int) -> None:
    limits = Limits(max_trials=8, executions=executions)
    search = simulate(slots=3, limits=limits).run()
    assert any(trial.parent is not None for trial in search.trials)
    for kept in range(0, len(search.entries), 7):
        resumed = search.resume(kept).run()
        assert all(trial.ended and trial.ended != "failed" for trial in resumed.trials), f"after record {kept}"


def test_each_execution_continues_the_same_one_of_its_parent_or_the_first() -> None:
    search = simulate(limits=Limits(max_trials=7, executions=2)).run(
        until=lambda record: isinstance(record, SegmentRequested) and record.parent is not None
    )
    assert search.trials[-1].parent is not None
    assert search.trials[-1].parent.epochs == (2, 2)
    later = search.resume(limits=Limits(max_trials=7, executions=3)).run()
    child = next(trial for trial in later.trials if trial.parent is not None and trial.progress.planned == 3)
    assert [execution.begins_after for execution in child.executions] == [child.parent.epochs[0]] * 3  # type: ignore[union-attr]


def test_a_child_whose_parents_state_is_gone_fails_with_one_line() -> None:
    search = simulate()
    search.executor.hand_on = lambda *_, **__: None  # type: ignore[method-assign]
    search.run()
    failed = {trial.error for trial in search.trials if trial.state == "failed"}
    assert any("trial 3 cannot continue trial" in str(error) for error in failed), failed


# What is refused ------------------------------------------------------------------------------------------------------


class Naming:
    """A back end that trains one trial for two epochs, and then makes the given suggestion."""

    protocol = 1

    def __init__(self, suggestion: Suggestion, *, give_up: bool = False, early: bool = False) -> None:
        self._suggestion, self._give_up, self._early = suggestion, give_up, early
        self._asked = self._told = 0

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        if self._asked == 0:
            return Suggestion(None, 0, 2)
        if self._told > 1:
            return Done()
        return self._suggestion if self._told or self._early else Wait()

    def suggest(self, trial: int, parameter: Parameter, explored: object = ()) -> Draw:
        return Draw(parameter.domain.at(0.5))

    def judge(self, trial: int, epoch: int) -> Decision:
        return Decision()

    def apply(self, record: object) -> Sequence[int]:
        self._asked += isinstance(record, SegmentRequested)
        if isinstance(record, ResultTold):
            self._told += 1
            return [record.trial] if self._give_up or self._told > 1 else []
        return []

    def learn(self, trials: object) -> None:
        pass


@pytest.mark.parametrize(
    ("suggestion", "options", "words"),
    [
        (Suggestion(None, 2, 4, parent=7), {}, "there is no trial 7"),
        (Suggestion(None, 1, 4, parent=0), {}, "begins after epoch 2, the parent's last, not after 1"),
        (Suggestion(None, 2, 2, parent=0), {}, "nothing to train"),
        (Suggestion(None, 2, 4, parent=0), {"give_up": True}, "trial 0 has ended"),
        (Suggestion(None, 0, 4, parent=0), {"early": True}, "trial 0 has not fulfilled its last suggestion"),
        (Suggestion(None, 2, 4, parent=0, values={"rate": 3.0}), {}, "rate cannot be 3.0: it takes"),
        (Suggestion(0, 2, 4, parent=0), {}, "only a new trial may be given a parent"),
        (Suggestion(None, 0, 4, values={"rate": 0.5}), {}, "only a trial with a parent may be given values"),
    ],
)
def test_a_wrong_parent_ends_the_search_with_one_line(suggestion: Suggestion, options: Any, words: str) -> None:
    search = Simulation(
        Scenario(ask, loss), lambda _: Naming(suggestion, **options), limits=Limits(max_trials=3), slots=2
    )
    # The kit's own check speaks first, with the same words.
    with pytest.raises(AssertionError, match=words.replace("(", ".")):
        search.run()
    search = Simulation(
        Scenario(ask, loss), lambda _: Naming(suggestion, **options), limits=Limits(max_trials=3), slots=2
    )
    search.controller._make_backend = lambda _: Naming(suggestion, **options)
    search.run()
    assert search.end is not None
    assert search.end.exit_code == 2
    assert not search.end.complete
    assert search.end.reason.startswith("back end tested makes a wrong suggestion: ")
    assert words in search.end.reason
    assert "\n" not in search.end.reason


def test_a_child_needs_room_in_the_budget_of_trials() -> None:
    suggestion = Suggestion(None, 2, 4, parent=0)
    search = Simulation(Scenario(ask, loss), lambda _: Naming(suggestion), limits=Limits(max_trials=1))
    with pytest.raises(AssertionError, match="the budget has no room for a trial with a parent"):
        search.run()


def test_a_child_may_have_an_explored_configuration_and_takes_no_initial_one() -> None:
    """The space has one configuration, so that no new trial may follow. A child does."""
    scenario = Scenario(lambda hp: hp.Choice("rate", [0.5, 0.5]) and hp.Fixed("x", 1), loss)
    search = Simulation(
        scenario,
        lambda _: Naming(Suggestion(None, 2, 4, parent=0)),
        limits=Limits(max_trials=2),
        try_first=[{"rate": 0.5}, {"x": 1}],
    )
    search.run()
    first, child = search.trials
    assert child.params == first.params
    assert child.parent is not None
    assert (first.values.initial, child.values.initial) == ({"rate": 0.5}, {})
    assert [epoch.epoch for epoch in child.curve] == [3, 4]


def test_a_child_draws_a_value_that_its_range_no_longer_has() -> None:
    def ask_ranges(hp: Hp) -> None:
        hp.Int("units", 1, 8 if hp.Boolean("wide") else 4)

    search = Simulation(
        Scenario(ask_ranges, lambda run, epoch: 1 / epoch),
        lambda _: Naming(Suggestion(None, 2, 4, parent=0, values={"wide": False})),
        limits=Limits(max_trials=2),
    ).run()
    assert [trial.params for trial in search.trials] == [{"wide": True, "units": 5}, {"wide": False, "units": 3}]


def test_a_trial_that_its_callback_ended_may_be_a_parent() -> None:
    scenario = Scenario(ask, loss, finishes=lambda run: 1 if run.trial == 0 else None)
    search = Simulation(scenario, lambda _: Naming(Suggestion(None, 1, 3, parent=0)), limits=Limits(max_trials=2)).run()
    assert search.trials[0].exhausted
    assert [epoch.epoch for epoch in search.trials[1].curve] == [2, 3]


def test_a_recorded_curve_that_ends_before_a_child_begins_is_an_error() -> None:
    scenario = recorded(ask, lambda values: [0.5, 0.4])
    search = Simulation(scenario, lambda _: Naming(Suggestion(None, 2, 4, parent=0)), limits=Limits(max_trials=2))
    with pytest.raises(ValueError, match="ends before epoch 3, at which a trial continues its parent"):
        search.run()
