"""Hyperband with a sampler: its model, its benefit, and its use of trials that it did not draw."""

from __future__ import annotations

import importlib.util
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from search.backends.base import BackEnd, values_in_space
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.backends.rungs import RungModel
from search.backends.samplers import SAMPLERS
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter
from search.study.records import EpochDone, ParameterSet, ResultTold, SegmentRequested
from search.study.study import Study
from search.study.transitions import Status
from search.study.trial import Objective
from search.study.trials import Trial, Values
from search.testing import Scenario, Simulation
from search.testing.backends import FINITE_CONFIGURATIONS, ask_finite, configuration_text, epoch_seconds, noise_loss

X, Y = (Parameter(name, Domain("float", 0.0, 1.0)) for name in "xy")
MIN = Objective("val_loss", "min")
NEEDS_GP = pytest.mark.skipif(
    not all(importlib.util.find_spec(package) for package in ("torch", "scipy")), reason="needs torch and scipy"
)


def ask_two(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)
    hp.Float("y", 0.0, 1.0)


def regret(params: Any) -> float:
    """Return the distance from the best loss that there is."""
    return float((params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2)


BOWL = Scenario(ask_two, lambda params, epoch: regret(params) + 0.3 / epoch)


def hyperband(sampler: str = "random", **options: Any) -> Callable[[Study], BackEnd]:
    return lambda study: Hyperband(
        study.objective, study.seed, max_epochs=9, sampler=sampler, parameters=study.parameters, **options
    )


def optuna(sampler: str = "tpe", pruner: str = "hyperband") -> Callable[[Study], BackEnd]:
    return lambda study: Optuna(
        study.objective, study.seed, max_epochs=9, sampler=sampler, pruner=pruner, parameters=study.parameters
    )


# The model ------------------------------------------------------------------------------------------------------------


class ModelByHand:
    """A model of two parameters with budgets of 1, 3 and 9 epochs, told of trials one by one."""

    def __init__(self, sampler: str = "tpe:n_startup_trials=3", direction: Any = "min") -> None:
        self.objective = Objective("val_loss", direction)
        self.model = RungModel(self.objective, 0, sampler, [1, 3, 9], (X, Y))
        self.trials = 0

    def train(self, *losses: float, told: Any = "reached", to: int | None = None) -> int:
        """Train a new trial whose epochs end with `losses`. `told` is its outcome, None if it goes on."""
        trial, self.trials = self.trials, self.trials + 1
        self.model.apply(SegmentRequested(trial, 0, to or len(losses), 0, 0, False, 0))
        for parameter in (X, Y):
            self.model.apply(ParameterSet(trial, parameter, (trial + 1) / 100))
        for epoch, loss in enumerate(losses, 1):
            self.model.apply(EpochDone(trial, 0, epoch, {"val_loss": loss}, 1.0))
        if told is not None:
            score = None if told == "failed" else self.objective.best(losses)
            self.model.apply(ResultTold(trial, len(losses), score, told))
        return trial

    def seen(self) -> list[tuple[str, float | None]]:
        """Return the state and value of each trial as a sampler sees them."""
        return [(trial.state.name, trial.value) for trial in self.model.sampler.visible_trials()]


def test_the_highest_budget_with_enough_observations_is_modelled() -> None:
    """Enough is d + 3 = 5: N_min + 2 with N_min = d + 1."""
    hand = ModelByHand()
    for enough, (losses, budget) in enumerate([((0.5,), 1), ((0.5, 0.4, 0.3), 3), ((0.5,) * 9, 9)]):
        for _ in range(4):
            hand.train(*losses)
            assert hand.model.modelled_budget == [1, 1, 3][enough]
        hand.train(*losses)
        assert hand.model.modelled_budget == budget


def test_no_budget_has_enough_if_the_sampler_would_draw_at_random() -> None:
    hand = ModelByHand("tpe:n_startup_trials=7")
    for _ in range(6):
        hand.train(0.5, 0.4, 0.3)
        assert hand.model.modelled_budget == 1
    hand.train(0.5, 0.4, 0.3)
    assert hand.model.modelled_budget == 3


def test_a_score_is_the_best_value_so_far() -> None:
    hand = ModelByHand()
    for _ in range(5):
        hand.train(0.1, 0.4, 0.3, 0.05)
    assert hand.model.modelled_budget == 3
    assert hand.seen() == [("COMPLETE", 0.1)] * 5


def test_what_a_sampler_sees_of_each_trial() -> None:
    hand = ModelByHand()
    for _ in range(5):
        hand.train(0.5, 0.5, 0.5)
    hand.train(0.2)  # waits for its promotion
    hand.train(0.3, told="failed", to=9)
    hand.train(0.3, told="stopped_by_callback")  # its score at 9 epochs, too
    hand.train(0.1, told=None, to=9)
    hand.train(told=None, to=1)
    rest = [("FAIL", None), ("COMPLETE", math.inf), ("COMPLETE", 0.3), ("RUNNING", None), ("RUNNING", None)]
    assert hand.seen() == [("COMPLETE", 0.5)] * 5 + rest


def test_failures_are_worst_and_no_observations() -> None:
    hand = ModelByHand(direction="max")
    for _ in range(4):
        hand.train(0.5, 0.5, 0.5)
    for _ in range(4):
        hand.train(0.5, 0.5, 0.5, told="failed")
    assert hand.model.modelled_budget == 1
    assert hand.seen()[4:] == [("COMPLETE", -math.inf)] * 4


def test_an_epoch_that_is_trained_again_changes_nothing() -> None:
    hand = ModelByHand()
    trial = hand.train(0.5, told=None, to=3)
    hand.model.apply(EpochDone(trial, 0, 1, {"val_loss": 0.1}, 1.0))
    hand.model.apply(EpochDone(trial, 0, 2, {"val_loss": 0.4}, 1.0))
    assert hand.seen() == [("COMPLETE", 0.5)]


@pytest.mark.parametrize(
    "sampler", ["cmaes", pytest.param("gp:n_startup_trials=2", marks=[pytest.mark.slow, NEEDS_GP])]
)
def test_a_build_that_failed_half_way_removes_nothing_from_a_joint_space(sampler: str) -> None:
    hand = ModelByHand(sampler)
    hand.train(0.5, 0.5, 0.5)
    hand.model.apply(SegmentRequested(1, 0, 3, 0, 0, False, 0))
    hand.model.apply(ParameterSet(1, X, 0.5))
    hand.model.apply(ResultTold(1, 0, None, "failed"))
    visible = hand.model.sampler.visible_trials()
    assert [trial.state for trial in visible] == [TrialState.COMPLETE, TrialState.FAIL]


# Its benefit ----------------------------------------------------------------------------------------------------------


def late_regret(sampler: str) -> float:
    """Return the median regret of the last 20 draws, in the median of three searches with fixed seeds."""

    def drawn(seed: int) -> float:
        limits = Limits(max_total_epochs=500)
        search = Simulation(BOWL, hyperband(sampler, iterations=9), seed=seed, slots=2, limits=limits).run()
        assert search.study.epochs == 500
        return statistics.median(regret(trial.params) for trial in search.trials[-20:])

    return statistics.median(map(drawn, range(3)))


@pytest.fixture(scope="module")
def late_regret_at_random() -> float:
    return late_regret("random")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "tpe:multivariate=False", "cmaes"])
def test_a_sampler_is_better_than_chance_after_the_same_epochs(sampler: str, late_regret_at_random: float) -> None:
    assert late_regret(sampler) < 0.6 * late_regret_at_random


@pytest.mark.slow
@NEEDS_GP
@pytest.mark.parametrize("make", [hyperband("gp"), optuna("gp", "none")], ids=["hyperband", "optuna"])
def test_a_gaussian_process_uses_trials_of_another_back_end(make: Callable[[Study], BackEnd]) -> None:
    def pick(study: Study) -> BackEnd:
        return (optuna("random", "none") if study.phases[-1].backend == "first" else make)(study)

    begun = Simulation(BOWL, pick, backend="first", limits=Limits(max_trials=20)).run()
    search = begun.resume(backend="second", limits=Limits(max_trials=len(begun.trials) + 4)).run()
    assert min(regret(trial.params) for trial in search.trials[-4:]) < 1e-3


@pytest.mark.parametrize("sampler", [*sorted(SAMPLERS.keys() - {"gp"})])
def test_any_sampler_goes_with_hyperband_and_none_tries_a_configuration_twice(sampler: str) -> None:
    if sampler == "qmc":
        pytest.importorskip("scipy")
    scenario = Scenario(ask_finite, noise_loss, seconds=epoch_seconds)
    search = Simulation(scenario, hyperband(sampler), slots=3).run()
    assert sorted(configuration_text(trial.params) for trial in search.trials) == sorted(
        map(configuration_text, FINITE_CONFIGURATIONS)
    )
    assert search.resume(len(search.entries) // 2).run().end == search.end


def test_hyperband_without_a_sampler_does_not_import_optuna() -> None:
    code = """
import sys
from search.backends.registry import make_backend
from search.space.domain import Domain, Parameter
from search.study.trial import Objective
for sampler in ({}, {"sampler": "random"}):
    backend = make_backend("hyperband", {"max_epochs": 9, **sampler}, Objective("loss", "min"), 0)
    backend.suggest(0, Parameter("x", Domain("float", 0.0, 1.0)))
    backend.learn([])
print(*sorted(set(sys.modules) & {"optuna", "numpy", "torch", "scipy"}))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


# Trials of other back ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (hyperband(iterations=3), optuna()),
        (hyperband(iterations=3), optuna("cmaes", "none")),
        (optuna("random", "none"), hyperband("tpe", iterations=3)),
        (optuna("random", "none"), hyperband("cmaes", iterations=3)),
    ],
    ids=["hyperband-tpe", "hyperband-cmaes", "random-hyperband+tpe", "random-hyperband+cmaes"],
)
def test_the_next_back_end_uses_trials_of_the_first(
    first: Callable[[Study], BackEnd], second: Callable[[Study], BackEnd]
) -> None:
    """Its first trials are better than those of a search without earlier trials; the seeds are fixed."""

    def make(study: Study) -> BackEnd:
        return (first if study.phases[-1].backend == "first" else second)(study)

    def drawn(search: Simulation) -> float:
        return statistics.median(regret(trial.params) for trial in search.trials[-12:])

    imported, fresh = [], []
    for seed in range(3):
        begun = Simulation(BOWL, make, seed=seed, backend="first", limits=Limits(max_trials=60)).run()
        more = begun.resume(backend="second", limits=Limits(max_trials=len(begun.trials) + 12)).run()
        imported.append(drawn(more))
        fresh.append(drawn(Simulation(BOWL, make, seed=seed, backend="second", limits=Limits(max_trials=12)).run()))
    assert statistics.median(imported) < 0.7 * statistics.median(fresh)
    assert more.resume(len(begun.entries) + 20).run().history() == more.history()


def other_trial(
    *losses: float, x: float = 0.5, y: float | None = 0.5, exhausted: bool = False, status: Status = "paused"
) -> Trial:
    """Return a trial of another study or phase."""
    trial = Trial(0, 0, -1, status=status, values=Values({"x": x}, [X]))
    if y is not None:
        trial.values = Values({"x": x, "y": y}, [X, Y])
    execution = trial.execution(0)
    execution.curve = [EpochDone(0, 0, epoch, {"val_loss": loss}, 1.0) for epoch, loss in enumerate(losses, 1)]
    execution.exhausted = exhausted
    trial.best.objective = MIN.best(losses)
    return trial


def test_an_imported_trial_counts_at_the_rungs_that_its_epochs_reached() -> None:
    hand = ModelByHand()
    hand.model.learn(
        [
            other_trial(0.5, 0.6, 0.4, 0.1),  # half-finished: four epochs
            other_trial(0.7),
            other_trial(0.3, 0.2, exhausted=True),
            other_trial(0.3, status="failed"),
            other_trial(),  # nothing to learn
        ]
    )
    found = {
        budget: [observations[number].value for number in sorted(observations)]
        for budget, observations in hand.model.observations.items()
    }
    assert found == {1: [0.5, 0.7, 0.3, math.inf], 3: [0.4, 0.2, math.inf], 9: [0.2, math.inf]}
    assert len(hand.seen()) == 4


def test_optuna_imports_a_trial_as_if_it_had_trained_it() -> None:
    back_end = Optuna(MIN, 0, max_epochs=3)
    back_end.learn(
        [
            other_trial(0.5, 0.4, 0.3, 0.2),  # the fourth epoch is beyond max_epochs
            other_trial(0.5, 0.4),
            other_trial(0.5, exhausted=True),
            other_trial(0.5, status="failed"),
        ]
    )
    imported = back_end.sampler.study.get_trials()
    assert [(trial.state.name, trial.value) for trial in imported] == [
        ("COMPLETE", 0.3),
        ("PRUNED", 0.4),
        ("COMPLETE", 0.5),
        ("COMPLETE", math.inf),
    ]
    assert imported[0].intermediate_values == {1: 0.5, 2: 0.4, 3: 0.3}


def test_a_trial_with_a_value_outside_the_space_is_not_imported() -> None:
    narrow = Parameter("x", Domain("float", 0.0, 0.2))
    assert values_in_space(other_trial(0.5, x=0.5), [narrow, Y]) is None
    assert values_in_space(other_trial(0.5, x=0.1), [narrow, Y]) == [(narrow, 0.1), (Y, 0.5)]
    assert values_in_space(other_trial(0.5), [Parameter("z", X.domain)]) is None
    # A parameter that the probe did not see may be asked for under conditions. A trial may lack a new one.
    assert values_in_space(other_trial(0.5), [X]) == [(X, 0.5), (Y, 0.5)]
    assert values_in_space(other_trial(0.5, y=None), [X, Y]) == [(X, 0.5)]
    fixed = Parameter("y", Domain("fixed", values=(0.5,)))
    assert values_in_space(other_trial(0.5), [X, fixed]) == [(X, 0.5)]


def test_samplers_of_joint_draws_ignore_imported_trials_that_lack_a_parameter() -> None:
    """Otherwise they would draw the new parameter at random for good."""
    for sampler, state in (("tpe", "COMPLETE"), ("cmaes", "FAIL")):
        back_end = Optuna(MIN, 0, max_epochs=1, sampler=sampler, parameters=(X, Y))
        back_end.learn([other_trial(0.5, y=None)])
        assert [trial.state.name for trial in back_end.sampler.visible_trials()] == [state]
