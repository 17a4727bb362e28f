"""The contract kit of stop rules run on ours, and what each rule says."""

from __future__ import annotations

from typing import Any

import pytest

from search.backends.hyperband import Hyperband
from search.plugins.loading import STOP_RULES
from search.scheduler.limits import Limits
from search.scheduler.stopping import (
    CommonError,
    ConsecutiveFailures,
    FailuresInARow,
    OnlyInfeasible,
    StopRule,
    Target,
    Timeout,
    rules_of,
)
from search.study.records import SearchEnded
from search.study.study import Study
from search.testing import Simulation, StopRuleContract
from search.testing.backends import SMOOTH, RandomSearch
from search.testing.rules import FAILING, INFEASIBLE


class TestTimeout(StopRuleContract):
    def make(self) -> StopRule:
        return Timeout(20.0)


class TestTarget(StopRuleContract):
    def make(self) -> StopRule:
        return Target(0.2)


class TestConsecutiveFailures(StopRuleContract):
    def make(self) -> StopRule:
        return ConsecutiveFailures(3)


class TestFailuresInARow(StopRuleContract):
    def make(self) -> StopRule:
        return FailuresInARow(2)


class TestCommonError(StopRuleContract):
    trials = 25

    def make(self) -> StopRule:
        return CommonError()


class TestOnlyInfeasible(StopRuleContract):
    def make(self) -> StopRule:
        return OnlyInfeasible(5)


KITS: list[type[StopRuleContract]] = [
    TestTimeout,
    TestTarget,
    TestConsecutiveFailures,
    TestFailuresInARow,
    TestCommonError,
    TestOnlyInfeasible,
]


@pytest.mark.parametrize("kit", KITS)
def test_each_rule_ends_a_search_of_its_kit(kit: type[StopRuleContract]) -> None:
    scenarios = {TestTimeout: "smooth", TestTarget: "smooth", TestOnlyInfeasible: "infeasible"}
    search, rule = kit().search(scenarios.get(kit, "failing"))
    assert rule.answers[-1][2] is not None
    assert search.end is not None
    assert search.end.reason == rule.answers[-1][2].reason
    assert len(search.trials) < kit.trials


def test_every_rule_has_a_name_and_passes_the_kit() -> None:
    classes = {STOP_RULES.find(name) for name in STOP_RULES.own}
    assert classes == {type(kit().make()) for kit in KITS}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [OnlyInfeasible, ConsecutiveFailures, CommonError]),
        ({"timeout": 5.0, "target": 1.0}, [OnlyInfeasible, Timeout, Target, ConsecutiveFailures, CommonError]),
        ({"max_consecutive_failed_trials": 2}, [OnlyInfeasible, FailuresInARow]),
    ],
)
def test_limits_become_rules(limits: dict[str, Any], expected: list[type]) -> None:
    assert [type(rule) for rule in rules_of(Limits(**limits))] == expected


class Says:
    """A rule that speaks after some trials."""

    protocol = 1

    def __init__(self, reason: str, trials: int, exit_code: int = 0) -> None:
        self.end = SearchEnded(reason, complete=True, exit_code=exit_code)
        self.trials = trials
        self.asked = 0

    def check(self, study: Study, now: float) -> SearchEnded | None:
        self.asked += 1
        return self.end if len(study.trials) >= self.trials else None


def search(*rules: Any, scenario: Any = SMOOTH) -> Simulation:
    return Simulation(scenario, lambda _: RandomSearch(), limits=Limits(max_trials=8), rules=rules).run()


def test_the_first_rule_that_speaks_wins_and_is_the_last_one_asked() -> None:
    early, late = Says("early", 2), Says("late", 4)
    done = search(late, early)
    assert done.end == SearchEnded("early", complete=True, exit_code=0)
    assert len(done.trials) == 2
    assert late.asked == early.asked
    both = search(Says("one", 3), Says("other", 3))
    assert both.end is not None
    assert both.end.reason == "one"


def test_an_end_without_an_objective_exits_with_1() -> None:
    assert search(Says("enough", 1), scenario=FAILING).end == SearchEnded("enough", complete=True, exit_code=1)


def test_a_search_without_feasible_configurations_ends_with_what_it_has() -> None:
    def make_backend(study: Study) -> Hyperband:
        return Hyperband(study.objective, study.seed, max_epochs=27)

    done = Simulation(INFEASIBLE, make_backend, max_epochs=27, slots=2).run()
    assert done.end == SearchEnded(
        "the last 100 trials were infeasible, the last one as the factory refuses these values",
        complete=False,
        exit_code=0,
    )
    assert [trial.state for trial in done.trials[:3]] == ["paused"] * 3  # a resume may go on with them


def test_a_rule_may_give_a_search_up() -> None:
    assert search(Says("hopeless", 2, exit_code=1)).end == SearchEnded("hopeless", complete=True, exit_code=1)
