"""Hyperband's plan against KerasTuner's, whose logarithms are loops of divisions, and against known plans."""

from __future__ import annotations

import itertools
import math

import keras_tuner
import pytest

from search.backends.brackets import HyperbandPlan, plan_brackets

TABLE = [
    *[(r, 3) for r in (1, 2, 3, 4, 8, 9, 10, 26, 27, 28, 50, 81, 100, 242, 243, 244, 729, 1000, 2187)],
    *[(r, 2) for r in (1, 2, 3, 7, 8, 9, 64, 100, 1023, 1024)],
    *[(r, 4) for r in (5, 16, 63, 64, 65, 1024)],
    *[(r, 5) for r in (4, 24, 25, 125, 126, 625, 3125)],
    *[(r, 6) for r in (36, 216, 1296)],
    *[(r, 7) for r in (49, 343, 2401)],
    *[(r, 9) for r in (81, 729, 6561)],
    *[(r, 10) for r in (9, 10, 11, 100, 1000, 10_000)],
]
"""(max_epochs, factor). Many are powers, where `log(max_epochs, factor)` may fall short of a whole number."""


def has_inexact_log(max_epochs: int, factor: int) -> bool:
    """Return whether `max_epochs` is a power of `factor`, but its logarithm in floats is no whole number."""
    exact = next(s for s in range(100) if factor ** (s + 1) > max_epochs)
    return factor**exact == max_epochs and math.log(max_epochs) / math.log(factor) != exact


@pytest.mark.parametrize(("max_epochs", "factor"), TABLE)
def test_the_plan_is_keras_tuners(max_epochs: int, factor: int) -> None:
    theirs = keras_tuner.oracles.HyperbandOracle(
        objective=keras_tuner.Objective("val_loss", "min"), max_epochs=max_epochs, factor=factor
    )
    plan = plan_brackets(max_epochs, factor)
    count = theirs._get_num_brackets()
    assert len(plan.brackets) == count
    for bracket, number in zip(plan.brackets, range(count - 1, -1, -1), strict=True):
        assert [(rung.size, rung.epochs) for rung in bracket.rungs] == [
            (theirs._get_size(number, rung), theirs._get_epochs(number, rung)) for rung in range(number + 1)
        ]


def test_the_table_has_powers_with_inexact_logarithms() -> None:
    assert len(TABLE) >= 40
    assert {(243, 3), (1000, 10), (125, 5), (216, 6)} <= {pair for pair in TABLE if has_inexact_log(*pair)}


def test_well_known_plans() -> None:
    def rows(plan: HyperbandPlan) -> list[list[tuple[int, int]]]:
        return [[(rung.size, rung.epochs) for rung in bracket.rungs] for bracket in plan.brackets]

    assert rows(plan_brackets(27, 3)) == [
        [(27, 1), (9, 3), (3, 9), (1, 27)],
        [(12, 3), (4, 9), (2, 27)],
        [(6, 9), (2, 27)],
        [(4, 27)],
    ]
    assert plan_brackets(9, 3).total_epochs == 75
    assert plan_brackets(27, 3).total_epochs == 375
    assert plan_brackets(9, 3).trial_count == 9 + 5 + 3
    assert rows(plan_brackets(1, 3)) == [[(1, 1)]]


@pytest.mark.parametrize(("max_epochs", "factor"), [(0, 3), (-1, 3), (9, 1), (9, 0)])
def test_plans_that_cannot_be_are_refused(max_epochs: int, factor: int) -> None:
    with pytest.raises(ValueError, match="factor"):
        plan_brackets(max_epochs, factor)


@pytest.mark.parametrize(("max_epochs", "factor"), TABLE)
def test_rungs_shrink_and_epochs_grow_to_the_maximum(max_epochs: int, factor: int) -> None:
    for bracket in plan_brackets(max_epochs, factor).brackets:
        sizes = [rung.size for rung in bracket.rungs]
        epochs = [rung.epochs for rung in bracket.rungs]
        assert sizes == sorted(sizes, reverse=True)
        assert all(size >= 1 for size in sizes)
        assert all(a < b for a, b in itertools.pairwise(epochs))
        assert epochs[-1] == max_epochs
