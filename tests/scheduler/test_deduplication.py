"""The trie of what was tried: by hand, and against a plain list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.scheduler.deduplication import Novelty
from search.space.domain import Domain, Parameter
from search.study.records import Asked, Built, TrialEnded, Valued

KIND = Parameter("kind", Domain("choice", values=("a", "b")))
COUNT = Parameter("count", Domain("int", 1, 2))
RATE = Parameter("rate", Domain("float", 0.0, 1.0))


def ask(novelty: Novelty, trial: int) -> None:
    novelty.apply(Asked(trial, 0, 3, None, None, False, 0))


def answer(novelty: Novelty, trial: int, *answers: tuple[Parameter, Any]) -> None:
    for parameter, value in answers:
        novelty.apply(Valued(trial, parameter, value))


def build(novelty: Novelty, trial: int, *answers: tuple[Parameter, Any]) -> None:
    ask(novelty, trial)
    answer(novelty, trial, *answers)
    novelty.apply(Built(trial, 1, "fit"))


def test_a_value_is_taken_when_all_below_it_was_tried() -> None:
    novelty = Novelty()
    build(novelty, 0, (KIND, "a"), (COUNT, 1))
    ask(novelty, 1)
    assert novelty.taken(1) == frozenset()
    answer(novelty, 1, (KIND, "a"))
    assert novelty.taken(1) == {1}
    answer(novelty, 1, (COUNT, 2))
    novelty.apply(Built(1, 1, "fit"))
    assert novelty.taken(2) == {"a"}
    assert not novelty.exhausted
    build(novelty, 2, (KIND, "b"))
    assert novelty.exhausted


def test_a_continuum_is_never_taken() -> None:
    novelty = Novelty([KIND])
    for trial, count in enumerate([1, 2, 1]):
        build(novelty, trial, (KIND, "a"), (RATE, 0.5), (COUNT, count))
    assert novelty.taken(9) == frozenset()
    build(novelty, 3, (KIND, "b"))
    assert novelty.taken(9) == {"b"}
    assert not novelty.exhausted
    assert not novelty.claimed


def test_with_an_unconditional_continuum_nothing_is_watched() -> None:
    novelty = Novelty([KIND, RATE])
    build(novelty, 0, (KIND, "a"))
    assert not novelty.exhausted
    assert not novelty.follows(1, "a")
    assert not novelty.claimed


def test_a_trial_waits_for_one_that_is_ahead_on_its_way() -> None:
    novelty = Novelty()
    ask(novelty, 0)
    ask(novelty, 1)
    answer(novelty, 0, (KIND, "a"))
    assert novelty.follows(1, "a")
    assert not novelty.follows(1, "b")
    assert not novelty.follows(0, 1)
    assert novelty.apply(Built(0, 1, "fit"))
    assert not novelty.follows(1, "a")
    assert novelty.taken(1) == {"a"}


@pytest.mark.parametrize(("state", "tried"), [("failed", True), ("stopped", False)])
def test_what_fails_in_its_build_was_tried_and_what_is_given_up_there_was_not(state: Any, tried: bool) -> None:
    novelty = Novelty()
    ask(novelty, 0)
    answer(novelty, 0, (KIND, "a"))
    assert novelty.apply(TrialEnded(0, state))
    assert (novelty.taken(1) == {"a"}) == tried
    assert not novelty.follows(1, "a")


def test_what_fails_where_another_got_further_leaves_the_rest_to_try() -> None:
    """Its process was lost, say: the other one had the same answers until then."""
    novelty = Novelty()
    build(novelty, 0, (KIND, "a"), (COUNT, 1), (Parameter("more", Domain("int", 1, 2)), 1))
    ask(novelty, 1)
    answer(novelty, 1, (KIND, "a"))
    novelty.apply(TrialEnded(1, "failed"))
    assert novelty.taken(2) == frozenset()
    assert not novelty.exhausted


def test_a_trial_that_failed_before_its_first_question_takes_nothing() -> None:
    novelty = Novelty([KIND])
    ask(novelty, 0)
    novelty.apply(TrialEnded(0, "failed"))
    assert not novelty.exhausted
    assert novelty.taken(1) == frozenset()


def test_a_range_that_grew_has_room_again() -> None:
    novelty = Novelty()
    build(novelty, 0, (COUNT, 1))
    build(novelty, 1, (Parameter("count", Domain("int", 1, 3)), 2))
    assert not novelty.exhausted
    build(novelty, 2, (Parameter("count", Domain("int", 1, 3)), 3))
    assert novelty.exhausted


def test_of_a_range_that_moved_only_what_it_still_has_counts() -> None:
    novelty = Novelty()
    now = Parameter("count", Domain("int", 2, 4))
    build(novelty, 0, (COUNT, 1))
    build(novelty, 1, (now, 2))
    build(novelty, 2, (now, 3))
    assert not novelty.exhausted
    build(novelty, 3, (now, 4))
    assert novelty.exhausted


def test_there_is_room_only_for_as_many_as_are_left() -> None:
    novelty = Novelty([KIND, COUNT])
    assert not novelty.claimed
    ask(novelty, 0)
    assert not novelty.claimed
    ask(novelty, 1)
    answer(novelty, 0, (KIND, "a"))
    answer(novelty, 1, (KIND, "b"))
    assert novelty.claimed  # nobody knows yet whether there is more below
    answer(novelty, 1, (COUNT, 1))
    assert not novelty.claimed
    ask(novelty, 2)
    assert novelty.claimed
    novelty.apply(Built(1, 1, "fit"))
    novelty.apply(Built(0, 1, "fit"))
    assert novelty.claimed
    assert novelty.taken(2) == {"a"}
    answer(novelty, 2, (KIND, "b"), (COUNT, 2))
    novelty.apply(Built(2, 1, "fit"))
    assert novelty.exhausted


def test_strangers_are_not_followed() -> None:
    novelty = Novelty(strangers=[0])
    ask(novelty, 0)
    answer(novelty, 0, (COUNT, 1))
    novelty.apply(Built(0, 1, "fit"))
    assert novelty.taken(1) == frozenset()
    assert novelty.taken(0) == frozenset()
    assert not novelty.follows(0, 1)
    assert not novelty.exhausted


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_random_trees_are_walked_once_each(seed: int, walkers: int) -> None:
    """Several trials at a time, in any order, each taking any value not taken: every leaf once, then exhausted."""
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

    novelty, paths, tried, number = Novelty(), {}, [], 0
    for _ in range(10_000):
        if len(paths) < walkers and not novelty.exhausted and not novelty.claimed:
            paths[number] = ()
            ask(novelty, number)
            number += 1
        if not paths:
            break
        trial = rng.choice(sorted(paths))
        parameter = question(paths[trial])
        if parameter is None:
            novelty.apply(Built(trial, 1, "fit"))
            tried.append(paths.pop(trial))
            continue
        values = [value for value in range(parameter.domain.size or 0) if value not in novelty.taken(trial)]
        value = rng.choice(values)
        if not novelty.follows(trial, value):
            answer(novelty, trial, (parameter, value))
            paths[trial] = (*paths[trial], value)
    assert sorted(tried) == sorted(leaves())
    assert novelty.exhausted
