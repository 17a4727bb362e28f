"""The parts that options name: a stop rule of a user's that fails decides nothing."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from search.driver import named_parts
from search.errors import OptionError
from search.options import Options
from search.scheduler.limits import Limits
from search.study.records import EpochDone, SearchEnded
from search.testing import Simulation
from search.testing.backends import SMOOTH, RandomSearch


class Failing:
    """A stop rule that fails at its third check."""

    protocol = 1

    def __init__(self, gives: Any = None) -> None:
        self.checks = 0
        self.gives = gives

    def check(self, study: Any, now: float) -> Any:
        self.checks += 1
        if self.checks == 3 and self.gives is None:
            raise ValueError("no")
        return self.gives


class FailingCount(Failing):
    """A stop rule that fails when it counts."""

    def check(self, study: Any, now: float) -> None:
        pass

    def apply(self, record: Any, study: Any) -> None:
        if isinstance(record, EpochDone):
            raise KeyError("epoch")


class Epochs:
    """A stop rule that counts epochs, and ends the search after some."""

    protocol = 1

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self.limit, self.count = limit, 0

    def apply(self, record: Any, study: Any) -> None:
        self.count += isinstance(record, EpochDone)

    def check(self, study: Any, now: float) -> SearchEnded | None:
        return SearchEnded("enough epochs", complete=True, exit_code=0) if self.count >= self.limit else None


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"Failing": Failing, "FailingCount": FailingCount, "Epochs": Epochs}
    monkeypatch.setitem(sys.modules, "parts_of_mine", SimpleNamespace(**parts))  # type: ignore[arg-type]


def search(*specs: str) -> tuple[Simulation, list[str]]:
    """Return a search with these stop rules, and the lines that they made."""
    lines: list[str] = []
    rules = named_parts.make_rules(Options(stop_rule=specs), lambda line, details: lines.append(line))
    limits = Limits(max_trials=4)
    return Simulation(SMOOTH, lambda _: RandomSearch(), limits=limits, rules=rules).run(), lines


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("Failing", "it failed (ValueError: no)"),
        ("FailingCount", "it failed (KeyError: 'epoch')"),
        ("Failing:gives=True", "its check gave True, which is neither a SearchEnded nor None"),
    ],
)
def test_a_rule_that_fails_decides_nothing_and_says_so_once(spec: str, words: str) -> None:
    done, lines = search(f"parts_of_mine:{spec}")
    assert done.history() == search()[0].history()
    name = spec.partition(":")[0]
    assert lines == [f"stop rule parts_of_mine:{name} decides nothing more: {words}; the search goes on"]


def test_a_rule_that_fails_leaves_the_others_alone() -> None:
    done, _ = search("parts_of_mine:Failing", "parts_of_mine:Epochs:limit=12")
    assert done.study.epochs == 12
    assert done.end == SearchEnded("enough epochs", complete=True, exit_code=0)


def test_our_rules_may_be_named() -> None:
    assert search("timeout:seconds=5")[0].end == SearchEnded("the time is up", complete=False, exit_code=0)


def test_a_rule_that_refuses_its_arguments_is_refused_before_the_search() -> None:
    with pytest.raises(OptionError, match=r"^--stop-rule 'parts_of_mine:Epochs:limit=0' cannot be used .*at least 1"):
        named_parts.check_parts(Options(stop_rule=("parts_of_mine:Epochs:limit=0",)), {})
