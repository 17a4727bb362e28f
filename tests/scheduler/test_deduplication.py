"""The trie of what was tried: by hand, and against a plain list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.scheduler.deduplication import ExploredValues
from search.space.domain import Domain, Parameter
from search.study.records import Built, ParameterSet, SegmentRequested, TrialEnded

KIND = Parameter("kind", Domain("choice", values=("a", "b")))
COUNT = Parameter("count", Domain("int", 1, 2))
RATE = Parameter("rate", Domain("float", 0.0, 1.0))


def ask(values: ExploredValues, trial: int) -> None:
    values.apply(SegmentRequested(trial, 0, 3, None, None, False, 0))


def answer(values: ExploredValues, trial: int, *answers: tuple[Parameter, Any]) -> None:
    for parameter, value in answers:
        values.apply(ParameterSet(trial, parameter, value))


def build(values: ExploredValues, trial: int, *answers: tuple[Parameter, Any]) -> None:
    ask(values, trial)
    answer(values, trial, *answers)
    values.apply(Built(trial, 1, "fit"))


def test_a_value_is_taken_when_all_below_it_was_tried() -> None:
    values = ExploredValues()
    build(values, 0, (KIND, "a"), (COUNT, 1))
    ask(values, 1)
    assert values.explored(1) == frozenset()
    answer(values, 1, (KIND, "a"))
    assert values.explored(1) == {1}
    answer(values, 1, (COUNT, 2))
    values.apply(Built(1, 1, "fit"))
    assert values.explored(2) == {"a"}
    assert not values.exhausted
    build(values, 2, (KIND, "b"))
    assert values.exhausted


def test_a_continuum_is_never_taken() -> None:
    values = ExploredValues([KIND])
    for trial, count in enumerate([1, 2, 1]):
        build(values, trial, (KIND, "a"), (RATE, 0.5), (COUNT, count))
    assert values.explored(9) == frozenset()
    build(values, 3, (KIND, "b"))
    assert values.explored(9) == {"b"}
    assert not values.exhausted
    assert not values.claimed


def test_with_an_unconditional_continuum_nothing_is_watched() -> None:
    values = ExploredValues([KIND, RATE])
    build(values, 0, (KIND, "a"))
    assert not values.exhausted
    assert not values.follows(1, "a")
    assert not values.claimed


def test_a_trial_waits_for_one_that_is_ahead_on_its_way() -> None:
    values = ExploredValues()
    ask(values, 0)
    ask(values, 1)
    answer(values, 0, (KIND, "a"))
    assert values.follows(1, "a")
    assert not values.follows(1, "b")
    assert not values.follows(0, 1)
    assert values.apply(Built(0, 1, "fit"))
    assert not values.follows(1, "a")
    assert values.explored(1) == {"a"}


@pytest.mark.parametrize(("state", "tried"), [("failed", True), ("stopped", False)])
def test_what_fails_in_its_build_was_tried_and_what_is_given_up_there_was_not(state: Any, tried: bool) -> None:
    values = ExploredValues()
    ask(values, 0)
    answer(values, 0, (KIND, "a"))
    assert values.apply(TrialEnded(0, state))
    assert (values.explored(1) == {"a"}) == tried
    assert not values.follows(1, "a")


def test_what_fails_where_another_got_further_leaves_the_rest_to_try() -> None:
    """Its process was lost, say: the other one had the same answers until then."""
    values = ExploredValues()
    build(values, 0, (KIND, "a"), (COUNT, 1), (Parameter("more", Domain("int", 1, 2)), 1))
    ask(values, 1)
    answer(values, 1, (KIND, "a"))
    values.apply(TrialEnded(1, "failed"))
    assert values.explored(2) == frozenset()
    assert not values.exhausted


def test_a_trial_that_failed_before_its_first_question_takes_nothing() -> None:
    values = ExploredValues([KIND])
    ask(values, 0)
    values.apply(TrialEnded(0, "failed"))
    assert not values.exhausted
    assert values.explored(1) == frozenset()


def test_a_range_that_grew_has_room_again() -> None:
    values = ExploredValues()
    build(values, 0, (COUNT, 1))
    build(values, 1, (Parameter("count", Domain("int", 1, 3)), 2))
    assert not values.exhausted
    build(values, 2, (Parameter("count", Domain("int", 1, 3)), 3))
    assert values.exhausted


def test_of_a_range_that_moved_only_what_it_still_has_counts() -> None:
    values = ExploredValues()
    now = Parameter("count", Domain("int", 2, 4))
    build(values, 0, (COUNT, 1))
    build(values, 1, (now, 2))
    build(values, 2, (now, 3))
    assert not values.exhausted
    build(values, 3, (now, 4))
    assert values.exhausted


def test_there_is_room_only_for_as_many_as_are_left() -> None:
    values = ExploredValues([KIND, COUNT])
    assert not values.claimed
    ask(values, 0)
    assert not values.claimed
    ask(values, 1)
    answer(values, 0, (KIND, "a"))
    answer(values, 1, (KIND, "b"))
    assert values.claimed  # nobody knows yet whether there is more below
    answer(values, 1, (COUNT, 1))
    assert not values.claimed
    ask(values, 2)
    assert values.claimed
    values.apply(Built(1, 1, "fit"))
    values.apply(Built(0, 1, "fit"))
    assert values.claimed
    assert values.explored(2) == {"a"}
    answer(values, 2, (KIND, "b"), (COUNT, 2))
    values.apply(Built(2, 1, "fit"))
    assert values.exhausted


def test_strangers_are_not_followed() -> None:
    values = ExploredValues(strangers=[0])
    ask(values, 0)
    answer(values, 0, (COUNT, 1))
    values.apply(Built(0, 1, "fit"))
    assert values.explored(1) == frozenset()
    assert values.explored(0) == frozenset()
    assert not values.follows(0, 1)
    assert not values.exhausted


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_random_trees_are_walked_once_each(seed: int, walkers: int) -> None:
    """Several trials at a time, in any order, each taking any value not explored: every leaf once, then exhausted."""
    rng = random.Random(seed)

    def question(path: tuple[int, ...]) -> Parameter | None:
        shape = random.Random(f"{seed}{path}")
        if len(path) == 4 or (path and shape.random() < 0.35):
            return None
        return Parameter("q" + "".join(map(str, path)), Domain("int", 0, shape.randint(0, 2)))

    def leaves(path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
        parameter = question(path)
        if parameter is None:
            return [path]
        return [leaf for value in range(parameter.domain.size or 0) for leaf in leaves((*path, value))]

    values, paths, tried, number = ExploredValues(), {}, [], 0
    for _ in range(10_000):
        if len(paths) < walkers and not values.exhausted and not values.claimed:
            paths[number] = ()
            ask(values, number)
            number += 1
        if not paths:
            break
        trial = rng.choice(sorted(paths))
        parameter = question(paths[trial])
        if parameter is None:
            values.apply(Built(trial, 1, "fit"))
            tried.append(paths.pop(trial))
            continue
        left = [value for value in range(parameter.domain.size or 0) if value not in values.explored(trial)]
        value = rng.choice(left)
        if not values.follows(trial, value):
            answer(values, trial, (parameter, value))
            paths[trial] = (*paths[trial], value)
    assert sorted(tried) == sorted(leaves())
    assert values.exhausted
