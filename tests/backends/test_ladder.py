"""The rungs of ASHA against a search through all trials."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.backends.ladder import Ladder, ladder_epochs


@pytest.mark.parametrize(
    ("max_epochs", "factor", "epochs"),
    [
        (1, 3, (1,)),
        (2, 3, (1, 2)),
        (3, 3, (1, 3)),
        (27, 3, (1, 3, 9, 27)),
        (52, 3, (1, 3, 9, 27, 52)),
        (243, 3, (1, 3, 9, 27, 81, 243)),
        (1000, 10, (1, 10, 100, 1000)),
        (16, 2, (1, 2, 4, 8, 16)),
        (9, 100, (1, 9)),
    ],
)
def test_rungs_are_powers_below_the_maximum_and_the_maximum(max_epochs, factor, epochs) -> None:
    assert ladder_epochs(max_epochs, factor) == epochs


@pytest.mark.parametrize(("max_epochs", "factor"), [(0, 3), (9, 1)])
def test_ladders_that_cannot_be_are_refused(max_epochs, factor) -> None:
    with pytest.raises(ValueError, match="factor"):
        Ladder(max_epochs, factor)


def ladder_of(*costs: float) -> Ladder:
    """Return a ladder of rungs 1, 3 and 9, with a trial at the first rung for each of `costs`."""
    ladder = Ladder(9, 3)
    for trial, cost in enumerate(costs):
        ladder.send(trial, 1)
        ladder.note(trial, 1, cost)
    return ladder


def test_one_of_three_is_promoted_and_no_second() -> None:
    assert ladder_of(0.3, 0.1).promotion() is None
    ladder = ladder_of(0.3, 0.1, 0.2)
    assert ladder.promotion() == (1, 3)
    ladder.send(1, 3)
    assert ladder.promotion() is None


def test_a_better_trial_that_comes_later_takes_the_place() -> None:
    ladder = ladder_of(0.3, 0.1, 0.2)
    ladder.send(1, 3)
    ladder.note(3, 1, 0.05)
    assert ladder.promotion() == (3, 3)
    ladder.send(3, 3)
    ladder.note(4, 1, 0.4)
    ladder.note(5, 1, 0.5)
    assert ladder.promotion() is None  # two places, which trials 1 and 3 hold


def test_the_highest_rung_goes_first_and_ties_by_number() -> None:
    ladder = ladder_of(*[0.1] * 9)
    assert ladder.promotion() == (0, 3)
    for trial in range(3):
        ladder.send(trial, 3)
        ladder.note(trial, 3, 0.05)
    ladder.note(9, 1, 0.0)
    assert ladder.promotion() == (0, 9)
    assert ladder.promotion(excluded={0}) == (9, 3)  # trial 1 is not in the top third
    ladder.send(0, 9)
    ladder.note(0, 9, 0.01)
    assert ladder.promotion() == (9, 3)


def test_an_excluded_trial_keeps_its_place() -> None:
    ladder = ladder_of(0.3, 0.1, 0.2)
    assert ladder.promotion(excluded=[1]) is None
    ladder = ladder_of(*range(6))
    assert ladder.promotion(excluded=[0]) == (1, 3)


def test_a_trial_given_up_keeps_its_place() -> None:
    ladder = ladder_of(0.3, 0.1, 0.2)
    ladder.withdraw(1)
    assert ladder.promotion() is None
    for trial in (3, 4, 5):
        ladder.note(trial, 1, 0.4)
    assert ladder.promotion() == (2, 3)


def test_a_failed_trial_is_the_worst() -> None:
    ladder = ladder_of(0.3, 0.1)
    ladder.send(2, 1)
    ladder.note(2, 1, math.inf)
    ladder.withdraw(2)
    assert ladder.promotion() == (1, 3)


def test_a_trial_trained_to_any_epoch_counts_at_the_rungs_that_it_reached() -> None:
    ladder = ladder_of(0.3, 0.2)
    ladder.send(2, 4)
    for epoch, cost in enumerate([0.5, 0.4, 0.15, 0.12], 1):
        ladder.note(2, epoch, cost)
    assert [rung.costs.get(2) for rung in ladder.rungs] == [0.5, 0.15, None]
    assert ladder.promotion() == (1, 3)
    for trial in (3, 4):
        ladder.note(trial, 4, 0.2)
    assert ladder.promotion() == (2, 9)


def test_a_trial_short_of_the_next_rung_still_waits() -> None:
    ladder = ladder_of(0.3, 0.2)
    ladder.send(2, 2)
    ladder.note(2, 1, 0.1)
    ladder.note(2, 2, 0.1)
    assert ladder.promotion(excluded={2}) is None
    assert ladder.promotion() == (2, 3)


def test_a_trial_that_its_callback_ended_counts_at_every_rung() -> None:
    ladder = ladder_of(0.3, 0.2, 0.1)
    ladder.note(2, 9, 0.1)
    assert [rung.costs.get(2) for rung in ladder.rungs] == [0.1, 0.1, 0.1]
    ladder.note(0, 3, 0.3)
    ladder.note(1, 3, 0.2)
    assert ladder.promotion() == (2, 9)


def test_a_second_value_of_the_same_epoch_replaces_the_first() -> None:
    ladder = ladder_of(0.3, 0.1, 0.2)
    ladder.note(1, 1, 0.4)
    assert ladder.rungs[0].ranked == [(0.2, 2), (0.3, 0), (0.4, 1)]
    assert ladder.promotion() == (2, 3)


def test_the_best_trial_of_the_highest_rung_is_found() -> None:
    assert Ladder(9, 3).best_waiting() is None
    ladder = ladder_of(0.3, 0.1)
    assert ladder.best_waiting() == (1, 3)
    ladder.send(0, 3)
    ladder.note(0, 3, 0.2)
    assert ladder.best_waiting() == (0, 9)
    ladder.send(0, 9)
    assert ladder.best_waiting() == (1, 3)
    ladder.withdraw(1)
    assert ladder.best_waiting() is None


class SlowLadder:
    """The same rungs from the whole history, for each query anew."""

    def __init__(self, max_epochs: int, factor: int) -> None:
        self.epochs = ladder_epochs(max_epochs, factor)
        self.factor = factor
        self.costs: dict[int, dict[int, float]] = {}
        self.sent: dict[int, int] = {}

    def promotion(self, excluded: set[int]) -> tuple[int, int] | None:
        for epochs, following in reversed(list(zip(self.epochs, self.epochs[1:], strict=False))):
            at_rung = []
            for trial, costs in self.costs.items():
                if max(costs) >= epochs:
                    reached = min(epoch for epoch in costs if epoch >= epochs)
                    at_rung.append((costs[reached], trial))
            top = sorted(at_rung)[: len(at_rung) // self.factor]
            for _, trial in top:
                if trial not in excluded and self.sent.get(trial, 0) < following:
                    return trial, following
        return None


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False), st.sampled_from([(9, 3), (27, 3), (20, 2), (5, 4)]))
def test_promotions_are_those_of_a_search_through_all_trials(random, size) -> None:
    ladder, slow = Ladder(*size), SlowLadder(*size)
    now: dict[int, int] = {}
    for _ in range(80):
        chosen = ladder.promotion() if random.random() < 0.6 else None
        if chosen is None:
            trial = random.randrange(len(now) + 2)
            chosen = trial, min(now.get(trial, 0) + random.randint(1, 4), size[0])
        trial, to_epoch = chosen
        ladder.send(trial, to_epoch)
        slow.sent[trial] = max(to_epoch, slow.sent.get(trial, 0))
        if random.random() < 0.1:
            ladder.withdraw(trial)
            slow.sent[trial] = size[0]
        for epoch in range(now.get(trial, 0) + 1, to_epoch + 1):
            cost = random.randrange(5)  # many ties
            ladder.note(trial, epoch, cost)
            slow.costs.setdefault(trial, {})[epoch] = cost
            now[trial] = epoch
        excluded = {random.randrange(len(now) + 1) for _ in range(random.randrange(4))}
        assert ladder.promotion(excluded) == slow.promotion(excluded)
        assert ladder.promotion() == slow.promotion(set())
