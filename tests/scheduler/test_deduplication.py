"""The tree of tried configurations: by hand, and against a plain list."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.backends.grid import listed_domain
from search.scheduler.deduplication import ConfigurationTree
from search.space.domain import Domain, Parameter
from search.study.records import Built, ParameterSet, SegmentRequested, TrialEnded

KIND = Parameter("kind", Domain("choice", values=("a", "b")))
COUNT = Parameter("count", Domain("int", 1, 2))
RATE = Parameter("rate", Domain("float", 0.0, 1.0))


def begin(tree: ConfigurationTree, trial: int) -> None:
    """Request a new trial."""
    tree.apply(SegmentRequested(trial, 0, 3, None, None, False, 0))


def answer(tree: ConfigurationTree, trial: int, *answers: tuple[Parameter, Any]) -> None:
    """Answer questions of a trial."""
    for parameter, value in answers:
        tree.apply(ParameterSet(trial, parameter, value))


def build(tree: ConfigurationTree, trial: int, *answers: tuple[Parameter, Any]) -> None:
    """Begin a trial, answer its questions, and report its model as built."""
    begin(tree, trial)
    answer(tree, trial, *answers)
    tree.apply(Built(trial, 1, "fit"))


def test_a_value_is_explored_when_all_below_it_was_tried() -> None:
    tree = ConfigurationTree()
    build(tree, 0, (KIND, "a"), (COUNT, 1))
    begin(tree, 1)
    assert tree.explored_values(1) == frozenset()
    answer(tree, 1, (KIND, "a"))
    assert tree.explored_values(1) == {1}
    answer(tree, 1, (COUNT, 2))
    tree.apply(Built(1, 1, "fit"))
    assert tree.explored_values(2) == {"a"}
    assert not tree.exhausted
    build(tree, 2, (KIND, "b"))
    assert tree.exhausted


def test_a_continuum_is_never_explored() -> None:
    tree = ConfigurationTree([KIND])
    for trial, count in enumerate([1, 2, 1]):
        build(tree, trial, (KIND, "a"), (RATE, 0.5), (COUNT, count))
    assert tree.explored_values(9) == frozenset()
    build(tree, 3, (KIND, "b"))
    assert tree.explored_values(9) == {"b"}
    assert not tree.exhausted
    assert not tree.may_be_exhausted


def test_with_an_unconditional_continuum_nothing_can_repeat() -> None:
    tree = ConfigurationTree([KIND, RATE])
    build(tree, 0, (KIND, "a"))
    assert not tree.exhausted
    assert not tree.must_wait(1, "a")
    assert not tree.may_be_exhausted


def test_a_trial_waits_for_another_with_the_same_answers() -> None:
    tree = ConfigurationTree()
    begin(tree, 0)
    begin(tree, 1)
    answer(tree, 0, (KIND, "a"))
    assert tree.must_wait(1, "a")
    assert not tree.must_wait(1, "b")
    assert not tree.must_wait(0, 1)
    assert tree.apply(Built(0, 1, "fit"))
    assert not tree.must_wait(1, "a")
    assert tree.explored_values(1) == {"a"}


@pytest.mark.parametrize(("state", "tried"), [("failed", True), ("stopped", False)])
def test_a_configuration_that_fails_to_build_was_tried_and_one_stopped_before_was_not(state: Any, tried: bool) -> None:
    tree = ConfigurationTree()
    begin(tree, 0)
    answer(tree, 0, (KIND, "a"))
    assert tree.apply(TrialEnded(0, state))
    assert (tree.explored_values(1) == {"a"}) == tried
    assert not tree.must_wait(1, "a")


def test_a_failure_where_another_trial_got_further_leaves_the_rest_to_try() -> None:
    """Its process was lost, for instance: the other trial had the same answers until then."""
    tree = ConfigurationTree()
    build(tree, 0, (KIND, "a"), (COUNT, 1), (Parameter("more", Domain("int", 1, 2)), 1))
    begin(tree, 1)
    answer(tree, 1, (KIND, "a"))
    tree.apply(TrialEnded(1, "failed"))
    assert tree.explored_values(2) == frozenset()
    assert not tree.exhausted


def test_a_trial_that_failed_before_its_first_question_explored_nothing() -> None:
    tree = ConfigurationTree([KIND])
    begin(tree, 0)
    tree.apply(TrialEnded(0, "failed"))
    assert not tree.exhausted
    assert tree.explored_values(1) == frozenset()


def test_a_range_that_grew_has_room_again() -> None:
    tree = ConfigurationTree()
    build(tree, 0, (COUNT, 1))
    build(tree, 1, (Parameter("count", Domain("int", 1, 3)), 2))
    assert not tree.exhausted
    build(tree, 2, (Parameter("count", Domain("int", 1, 3)), 3))
    assert tree.exhausted


def test_values_that_a_moved_range_no_longer_has_do_not_count() -> None:
    tree = ConfigurationTree()
    now = Parameter("count", Domain("int", 2, 4))
    build(tree, 0, (COUNT, 1))
    build(tree, 1, (now, 2))
    build(tree, 2, (now, 3))
    assert not tree.exhausted
    build(tree, 3, (now, 4))
    assert tree.exhausted


def test_there_is_room_only_for_as_many_trials_as_configurations_are_left() -> None:
    tree = ConfigurationTree([KIND, COUNT])
    assert not tree.may_be_exhausted
    begin(tree, 0)
    assert not tree.may_be_exhausted
    begin(tree, 1)
    answer(tree, 0, (KIND, "a"))
    answer(tree, 1, (KIND, "b"))
    assert tree.may_be_exhausted  # whether there is more below is not known yet
    answer(tree, 1, (COUNT, 1))
    assert not tree.may_be_exhausted
    begin(tree, 2)
    assert tree.may_be_exhausted
    tree.apply(Built(1, 1, "fit"))
    tree.apply(Built(0, 1, "fit"))
    assert tree.may_be_exhausted
    assert tree.explored_values(2) == {"a"}
    answer(tree, 2, (KIND, "b"), (COUNT, 2))
    tree.apply(Built(2, 1, "fit"))
    assert tree.exhausted


def test_trials_of_another_space_are_ignored() -> None:
    tree = ConfigurationTree(ignored=[0])
    begin(tree, 0)
    answer(tree, 0, (COUNT, 1))
    tree.apply(Built(0, 1, "fit"))
    assert tree.explored_values(1) == frozenset()
    assert tree.explored_values(0) == frozenset()
    assert not tree.must_wait(0, 1)
    assert not tree.exhausted


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_every_configuration_of_a_random_tree_is_tried_once(seed: int, trials: int) -> None:
    """Several trials at a time, in any order, each with any unexplored value: every leaf once, then exhausted."""
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

    tree, paths, tried, number = ConfigurationTree(), {}, [], 0
    for _ in range(10_000):
        if len(paths) < trials and not tree.exhausted and not tree.may_be_exhausted:
            paths[number] = ()
            begin(tree, number)
            number += 1
        if not paths:
            break
        trial = rng.choice(sorted(paths))
        parameter = question(paths[trial])
        if parameter is None:
            tree.apply(Built(trial, 1, "fit"))
            tried.append(paths.pop(trial))
            continue
        left = [value for value in range(parameter.domain.size or 0) if value not in tree.explored_values(trial)]
        value = rng.choice(left)
        if not tree.must_wait(trial, value):
            answer(tree, trial, (parameter, value))
            paths[trial] = (*paths[trial], value)
    assert sorted(tried) == sorted(leaves())
    assert tree.exhausted


# Grids and long builds ------------------------------------------------------------------------------------------------


def test_a_trial_waits_only_if_others_may_take_all_that_is_left() -> None:
    tree = ConfigurationTree([Parameter("kind", KIND.domain, "a"), COUNT])  # the probe has seen the count below "a"
    begin(tree, 0)
    begin(tree, 1)
    begin(tree, 2)
    answer(tree, 0, (KIND, "a"), (COUNT, 1))
    assert not tree.must_wait(1, "a")  # count 2 is left
    answer(tree, 1, (KIND, "a"))
    assert tree.begun_values(1) == {1}
    assert tree.must_wait(1, 1)
    assert tree.must_wait(2, "a")
    answer(tree, 1, (COUNT, 2))
    tree.apply(Built(1, 1, "fit"))
    assert tree.must_wait(2, "a")
    assert not tree.must_wait(2, "b")


def test_a_continuum_of_a_grid_can_be_explored_and_has_more_for_another_back_end() -> None:
    tree = ConfigurationTree([Parameter("kind", KIND.domain, "a"), RATE])
    tree.begin_phase(for_grid=True)
    values = listed_domain(RATE).values
    for trial, (kind, value) in enumerate(itertools.product("ab", values)):
        assert not tree.exhausted
        build(tree, trial, (KIND, kind), (RATE, value))
    assert tree.exhausted
    tree.begin_phase(for_grid=False)
    assert not tree.exhausted
    assert tree.explored_values(99) == frozenset()


def test_what_is_finite_stays_explored_when_a_grid_ends() -> None:
    tree = ConfigurationTree([KIND])
    tree.begin_phase(for_grid=True)
    build(tree, 0, (KIND, "a"))
    for trial, value in enumerate(listed_domain(RATE).values, 1):
        build(tree, trial, (KIND, "b"), (RATE, value))
    assert tree.exhausted
    tree.begin_phase(for_grid=False)
    assert tree.explored_values(99) == {"a"}
    assert not tree.may_be_exhausted
