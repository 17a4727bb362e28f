"""The contract of a stop rule, as tests to run on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search.errors import UNFINISHED
from search.plugins.loading import STOP_RULES
from search.scheduler.limits import Limits
from search.scheduler.stopping import StopRule, counting
from search.study.records import Record, SearchEnded
from search.study.study import Study
from search.testing.backends import ROUGH, SMOOTH, RandomSearch
from search.testing.simulation import Simulation

__all__ = ["StopRuleContract"]

FAILING = replace(SMOOTH, fails=lambda params: 1)
"""Every trial fails."""

INFEASIBLE = replace(SMOOTH, infeasible=lambda run: run.trial > 2)
"""Only the first three trials are feasible."""

SCENARIOS = {"smooth": SMOOTH, "rough": ROUGH, "failing": FAILING, "infeasible": INFEASIBLE}


COMPARED = 40
"""The study is compared before and after each check of so many."""


class _CheckedRule:
    """A stop rule whose every answer is checked and kept.

    Args:
        rule: the stop rule.

    Attributes:
        answers: for each check, the number of records that the rule had been told, the time, and the answer.
    """

    protocol = 1

    def __init__(self, rule: StopRule) -> None:
        self.answers: list[tuple[int, float, SearchEnded | None]] = []
        self._rule = rule
        self._counting = counting([rule])
        self._told = 0

    def apply(self, record: Record, study: Study) -> None:
        self._told += 1
        for rule in self._counting:
            rule.apply(record, study)

    def check(self, study: Study, now: float) -> SearchEnded | None:
        compares = len(self.answers) % COMPARED == 0
        before = repr(vars(study)) if compares else ""
        answer = self._rule.check(study, now)
        assert answer == self._rule.check(study, now), "asked twice, it gave two answers"
        assert not compares or before == repr(vars(study)), "a check changed the study"
        if answer is not None:
            assert isinstance(answer, SearchEnded)
            assert answer.reason.strip(), "it gives no reason"
            assert "\n" not in answer.reason, "the reason is one line"
            assert answer.exit_code in (0, 1, 2, UNFINISHED), "0 evaluates the best trials, other codes do not"
        self.answers.append((self._told, now, answer))
        return answer


class StopRuleContract:
    """The tests that every stop rule must pass.

    Subclass it with a name that begins with `Test`, and return a new rule from `make`. Choose arguments with which the
    rule ends a search of a few trials. The tests show that a check is pure, and that a process that resumes the search
    comes to the same answers.

    Attributes:
        trials: the most trials of a search.

    Example:
        ::

            from search.testing import StopRuleContract

            class TestMine(StopRuleContract):
                def make(self):
                    return Mine(trials=5)
    """

    trials = 12

    _searches: dict[str, tuple[Simulation, _CheckedRule]]

    def make(self) -> StopRule:
        """Return a new rule. Subclasses define this."""
        raise NotImplementedError

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._searches = {}

    def search(self, name: str) -> tuple[Simulation, _CheckedRule]:
        """Return a search of the scenario `name` with the rule that has run to its end, and the rule.

        It runs once for all tests of the class, which only read it.
        """
        if name not in self._searches:
            rule = _CheckedRule(self.make())
            limits = Limits(max_trials=self.trials)
            search = Simulation(SCENARIOS[name], lambda _: RandomSearch(), limits=limits, slots=2, rules=[rule])
            # Only the rule under test may end a search whose trials all fail.
            del search.controller.rules[:-1]
            self._searches[name] = search.run(), rule
        return self._searches[name]

    def test_it_states_the_protocol(self) -> None:
        assert type(self.make()).protocol == STOP_RULES.protocol

    def test_it_can_be_asked_before_the_first_record(self) -> None:
        rule = self.make()
        assert rule.check(Study(), 1e9) == rule.check(Study(), 1e9)

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_a_check_is_pure_and_the_first_end_is_that_of_the_search(self, name: str) -> None:
        search, rule = self.search(name)
        assert search.end is not None
        if ends := [answer for _, _, answer in rule.answers if answer is not None]:
            assert search.end.reason == ends[0].reason

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_a_later_process_comes_to_the_same_answers(self, name: str) -> None:
        search, live = self.search(name)
        rule, study, told = self.make(), Study(), 0
        for count, now, answer in live.answers:
            for entry in search.entries[told:count]:
                study.apply(entry.record, entry.time)
                for each in counting([rule]):
                    each.apply(entry.record, study)
            told = count
            assert rule.check(study, now) == answer, f"after record {count}"
