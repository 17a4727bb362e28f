"""Freeze-thaw against its contract, on the spaces and curves that make it hard, and against random ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from search.backends.freeze_thaw.backend import FreezeThaw
from search.backends.freeze_thaw.first_round import FIRST_TRIALS, first_round
from search.backends.hyperband import Hyperband
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter
from search.study.records import (
    Built,
    Computed,
    EpochDone,
    ResultTold,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
)
from search.study.trial import Objective, Suggestion, Wait, derive_seed
from search.testing import BackEndContract, Scenario, Simulation
from search.testing.backends import SMOOTH
from search.testing.simulation import Hp


class TestContract(BackEndContract):
    trials, cuts = 34, 2

    def make(self, objective, seed, max_epochs, parameters):
        return FreezeThaw(objective, seed, max_epochs=max_epochs, parameters=parameters)


@pytest.mark.slow
class TestLongContract(TestContract):
    trials, cuts = 40, 6


def simulate(scenario: Scenario, *, epochs: int = 150, arguments: dict[str, Any] | None = None, **options: Any):
    """Return a search, run to its end."""
    max_epochs = options.setdefault("max_epochs", 27)
    options.setdefault("limits", Limits(max_total_epochs=epochs))

    def make(study):
        given = {"max_epochs": max_epochs, "parameters": study.parameters, **(arguments or {})}
        return FreezeThaw(study.objective, study.seed, **given)

    return Simulation(scenario, make, **options).run()


def ask_two(hp: Hp) -> None:
    hp.Float("rate", 1e-4, 1.0, sampling="log")
    hp.Float("dropout", 0.0, 1.0)


def bowl(params, epoch: int) -> float:
    """Return a loss whose best configuration is rate 0.01, dropout 0.3."""
    distance = (math.log10(params["rate"]) + 2) ** 2 / 4 + (params["dropout"] - 0.3) ** 2 * 4
    return distance + 1 / (1 + epoch)


BOWL = Scenario(ask_two, bowl)


# Decisions ------------------------------------------------------------------------------------------------------------


def best_distance(search: Simulation) -> float:
    """Return the loss of the best configuration of a search on `BOWL`, without its epochs' share."""
    return min(bowl(trial.params, 10**9) for trial in search.trials if trial.epochs == 27)


def test_it_comes_nearer_to_the_best_configuration_than_hyperband() -> None:
    found = [best_distance(simulate(BOWL, seed=seed, epochs=200)) for seed in range(3)]
    others = []
    for seed in range(3):
        search = Simulation(
            BOWL,
            lambda study: Hyperband(study.objective, study.seed, max_epochs=27, iterations=2),
            seed=seed,
            max_epochs=27,
            limits=Limits(max_total_epochs=200),
        ).run()
        others.append(best_distance(search))
    assert max(found) < 0.01
    assert np.mean(others) > 0.01


@pytest.mark.parametrize(
    ("direction", "scale", "offset"), [("min", 2.0**30, 0.0), ("max", -1.0, 0.0), ("max", -(2.0**-12), 0.0)]
)
def test_decisions_do_not_depend_on_the_unit_of_the_objective(direction, scale: float, offset: float) -> None:
    changed = Scenario(ask_two, lambda params, epoch: offset + scale * bowl(params, epoch))
    expected = [(trial.params, trial.epochs) for trial in simulate(BOWL, epochs=60).trials]
    search = simulate(changed, epochs=60, objective=Objective("val_loss", direction))
    assert [(trial.params, trial.epochs) for trial in search.trials] == expected


def test_a_region_of_failures_is_left() -> None:
    def fails(params) -> int | None:
        return 0 if params["dropout"] > 0.5 else None

    search = simulate(Scenario(ask_two, bowl, fails=fails), epochs=250)
    later = search.trials[20:]
    assert len(later) > 10
    # ASHA's share draws at random: half of its trials, an eighth of all, fail.
    assert sum(trial.state == "failed" for trial in later) / len(later) < 0.3
    assert sum(trial.state == "failed" for trial in search.trials[:FIRST_TRIALS]) > 1


def test_a_curve_that_is_constant_or_equal_to_others_is_no_fault() -> None:
    search = simulate(Scenario(ask_two, lambda params, epoch: 0.5), epochs=80)
    assert search.study.epochs == 80
    assert len(search.trials) > FIRST_TRIALS


def test_all_trials_failing_is_no_fault_of_the_back_end() -> None:
    search = simulate(Scenario(ask_two, bowl, infeasible=lambda run: True))
    assert search.end.exit_code == 1


def test_a_callback_that_ends_trials_early_leaves_their_best_value() -> None:
    search = simulate(Scenario(ask_two, bowl, finishes=lambda run: 5), epochs=120)
    assert {trial.state for trial in search.trials if trial.epochs == 5} == {"completed"}
    assert best_after(search, 5) < 0.3


def best_after(search: Simulation, epoch: int) -> float:
    return min(bowl(trial.params, epoch) for trial in search.trials if trial.epochs == epoch)


def test_one_configuration_is_trained_to_its_end() -> None:
    search = simulate(Scenario(lambda hp: hp.Fixed("rate", 1), lambda params, epoch: 1 / epoch), epochs=1000)
    assert [(trial.epochs, trial.state) for trial in search.trials] == [(27, "completed")]
    assert search.end.reason == "every configuration of the space was tried"


@pytest.mark.parametrize(
    ("max_epochs", "expected"), [(1, (1, 1)), (2, (2, 1)), (3, (5, 1)), (4, (9, 1)), (8, (9, 2)), (27, (9, 2))]
)
def test_the_first_round_is_smaller_if_trials_are_short(max_epochs: int, expected: tuple[int, int]) -> None:
    assert first_round(max_epochs, 3) == expected


def test_short_trials_are_trained_to_their_end_within_a_usual_budget() -> None:
    search = simulate(BOWL, epochs=11, max_epochs=3)
    assert max(trial.epochs for trial in search.trials) == 3


@pytest.mark.parametrize(
    ("epochs", "max_epochs", "trained"),
    [(1, 27, [1]), (5, 27, [2, 2, 1]), (17, 27, [2] * 8 + [1]), (1, 1, [1]), (5, 1, [1] * 5)],
)
def test_a_budget_below_the_first_round_cuts_it(epochs: int, max_epochs: int, trained: list[int]) -> None:
    search = simulate(BOWL, epochs=epochs, max_epochs=max_epochs)
    assert [trial.epochs for trial in search.trials] == trained
    assert search.end.complete


def test_a_larger_budget_goes_on_with_a_first_round_that_was_cut() -> None:
    cut, whole = simulate(BOWL, epochs=5), simulate(BOWL, epochs=40)
    later = cut.resume(limits=Limits(max_total_epochs=40)).run()
    assert [trial.params for trial in later.trials][:9] == [trial.params for trial in whole.trials][:9]
    assert later.study.epochs == 40


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_a_few_trials_are_trained_until_one_reaches_the_end(trials: int) -> None:
    search = simulate(BOWL, limits=Limits(max_trials=trials))
    assert len(search.trials) == trials
    assert max(trial.epochs for trial in search.trials) == 27
    assert search.end.complete


def test_two_configurations_are_trained_with_several_executions() -> None:
    scenario = Scenario(lambda hp: hp.Boolean("wide"), lambda params, epoch: params["wide"] + 1 / epoch)
    search = simulate(scenario, max_epochs=3, limits=Limits(max_total_epochs=100, executions=3))
    assert sorted(trial.params["wide"] for trial in search.trials) == [False, True]
    assert [len(trial.executions) for trial in search.trials] == [3, 3]
    assert search.end.reason == "every configuration of the space was tried"


def test_a_budget_of_trials_ends_the_search() -> None:
    search = simulate(BOWL, limits=Limits(max_trials=15))
    assert len(search.trials) == 15
    assert search.end.complete
    assert any(trial.epochs == 27 for trial in search.trials)
    assert search.study.epochs < 15 * 27


def test_a_larger_budget_of_trials_does_not_touch_those_that_ended() -> None:
    search = simulate(BOWL, limits=Limits(max_trials=15))
    ended = [(trial.number, trial.epochs) for trial in search.trials]
    later = search.resume(limits=Limits(max_trials=25)).run()
    assert len(later.trials) == 25
    assert [(trial.number, trial.epochs) for trial in later.trials[:15]] == ended


def test_initial_configurations_are_tried_first() -> None:
    search = simulate(BOWL, try_first=[{"rate": 0.01, "dropout": 0.3}], epochs=100)
    assert search.trials[0].params == {"rate": 0.01, "dropout": 0.3}
    # Nothing is better, and so it is trained to its end soon.
    requests = [record for record in search.records if isinstance(record, SegmentRequested)]
    assert next(n for n, record in enumerate(requests) if record.to_epoch == 27 and record.trial == 0) < 25


def test_the_mean_of_executions_counts() -> None:
    def value(run, epoch: int) -> float:
        return bowl(run, epoch) + (0.5 if run.execution else -0.5)

    search = simulate(Scenario(ask_two, value), limits=Limits(max_total_epochs=200, executions=2))
    plain = simulate(BOWL, epochs=100)
    assert [trial.params for trial in search.trials[:20]] == [trial.params for trial in plain.trials[:20]]


def test_a_slow_configuration_is_left_for_fast_ones() -> None:
    def flat(params, epoch: int) -> float:
        return 1 / epoch + 0.01 * params["dropout"]

    slow = Scenario(ask_two, flat, seconds=lambda run: 10.0 if run["rate"] > 0.01 else 1.0)
    by = {cost: simulate(slow, epochs=300, arguments={"cost": cost}, seed=1) for cost in ("seconds", "epochs")}
    share = {
        cost: sum(t.epochs for t in search.trials if t.params["rate"] > 0.01) / search.study.epochs
        for cost, search in by.items()
    }
    assert share["seconds"] < 0.7 * share["epochs"]


# Other spaces ---------------------------------------------------------------------------------------------------------


def ask_nested(hp: Hp) -> None:
    """Ask for parameters in an `if` of the user's: no condition says when they are there."""
    if hp.Choice("kind", ["plain", "deep", "wide"]) == "deep":
        layers = hp.Int("layers", 1, 3)
        for layer in range(layers):
            hp.Int(f"units_{layer}", 8, 64)
    elif hp.Boolean("gated"):
        hp.Float("gate", 0.0, 1.0)
    hp.Float("rate", 1e-4, 1.0, sampling="log")


def nested_loss(params, epoch: int) -> float:
    floor = {"plain": 0.6, "wide": 0.5, "deep": 0.3}[params["kind"]]
    if params["kind"] == "deep":
        floor -= 0.1 * (params["layers"] == 3) + 0.1 * (params.get("units_2", 0) > 40)
    return floor + 0.1 * (math.log10(params["rate"]) + 2) ** 2 + 1 / (1 + epoch)


def test_conditions_that_nobody_declares_are_learned() -> None:
    search = simulate(Scenario(ask_nested, nested_loss), epochs=300)
    planned = [
        (set(record.attributes["values"]), set(search.study.trials[record.trial].params))
        for record in search.records
        if isinstance(record, SegmentRequested) and record.from_epoch == 0
    ]
    later = planned[len(planned) // 2 :]
    assert sum(expected == used for expected, used in later) / len(later) > 0.9
    assert search.study.best is not None
    assert search.study.best.params["kind"] == "deep"
    assert search.study.best.params["layers"] == 3
    assert search.study.best.params["units_2"] > 40


def test_a_range_that_depends_on_other_values_is_searched() -> None:
    def ask(hp: Hp) -> None:
        high = hp.Int("first", 2, 50)
        hp.Int("second", 1, high)

    search = simulate(Scenario(ask, lambda p, epoch: abs(p["first"] - 40) + abs(p["second"] - 30) + 1 / epoch))
    assert search.study.best is not None
    assert search.study.best.objective < 12


def test_each_configuration_of_a_pool_is_tried_once() -> None:
    rng = random.Random(0)
    pool = [{"rate": 10 ** rng.uniform(-4, 0), "dropout": rng.random()} for _ in range(40)]
    search = simulate(BOWL, epochs=10**6, arguments={"pool": pool}, limits=Limits(max_trials=40))
    tried = [trial.params for trial in search.trials]
    assert len(tried) == 40
    assert all(params in pool for params in tried)
    assert all(tried.count(params) == 1 for params in tried)


@pytest.mark.parametrize("dimensions", [1, 100])
def test_one_and_a_hundred_dimensions(dimensions: int) -> None:
    def ask(hp: Hp) -> None:
        for index in range(dimensions):
            hp.Float(f"x{index}", 0.0, 1.0)

    def value(params, epoch: int) -> float:
        return sum((x - 0.5) ** 2 for x in params.values()) / dimensions + 1 / epoch

    search = simulate(Scenario(ask, value), epochs=60)
    assert search.study.epochs == 60


# Phases ---------------------------------------------------------------------------------------------------------------


def test_the_trials_of_an_earlier_phase_are_learned_from() -> None:
    earlier = Simulation(
        BOWL,
        lambda study: (
            Hyperband(study.objective, study.seed, max_epochs=27)
            if study.phases[-1].backend == "hyperband"
            else FreezeThaw(study.objective, study.seed, max_epochs=27, parameters=study.parameters)
        ),
        backend="hyperband",
        max_epochs=27,
    ).run()
    count = len(earlier.trials)
    search = earlier.resume(backend="freeze-thaw", limits=Limits(max_total_epochs=earlier.study.epochs + 60)).run()
    new = search.trials[count:]
    assert min(bowl(trial.params, 10**9) for trial in new) < min(bowl(t.params, 10**9) for t in search.trials[:count])


# Parallel -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [16, 64])
def test_no_worker_waits(slots: int) -> None:
    search = simulate(BOWL, slots=slots, epochs=slots * 8, computing=3.0)
    slot_of: dict[int, int] = {}
    free_since: dict[int, float] = {}
    waits = []
    for entry in search.entries:
        record = entry.record
        if isinstance(record, SegmentEnded):
            free_since[slot_of.pop(record.trial)] = entry.time
        elif isinstance(record, SegmentStarted):
            slot_of[record.trial] = record.slot
            if record.slot in free_since:
                waits.append(entry.time - free_since[record.slot])
    assert len(waits) > 2 * slots
    assert max(waits) == 0
    assert any(isinstance(record, Computed) for record in search.records)


def test_workers_are_sent_different_ways() -> None:
    search = simulate(BOWL, slots=16, epochs=300)
    rows = {(round(math.log10(trial.params["rate"]), 2), round(trial.params["dropout"], 2)) for trial in search.trials}
    # In the end the search refines the best ones: some are equal to two digits.
    assert len(rows) > 0.6 * len(search.trials)


# Random spaces --------------------------------------------------------------------------------------------------------


class RandomSpace:
    """A space drawn at random, with curves that are drawn for it."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.parts = [self._part(rng, index, 0) for index in range(rng.choice([1, 1, 2, 3, 5, 8]))]
        self.scale = rng.choice([1.0, 1e9, 1e-9, -1.0])
        self.kind = rng.choice(["falls", "falls", "rises", "constant", "noise", "two values", "late"])
        self.nan = rng.choice([0.0, 0.0, 0.1])
        self.seed = seed

    def _part(self, rng: random.Random, index: int, depth: int) -> Callable[[Hp], None]:
        name = f"p{depth}_{index}"
        kind = rng.choice(["float", "log", "int", "steps", "choice", "ordered", "boolean", "fixed", "branch", "scope"])
        inner = self._part(rng, index, depth + 1) if kind in ("branch", "scope") and depth < 2 else lambda hp: None
        values = [None, "a", 3, 0.5, True][: rng.randint(1, 5)]

        def ask(hp: Hp) -> None:
            match kind:
                case "float":
                    hp.Float(name, -5.0, 5.0)
                case "log":
                    hp.Float(name, 1e-6, 1e3, sampling="log")
                case "int":
                    hp.Int(name, 1, 10_000, sampling="log")
                case "steps":
                    hp.Int(name, 0, 12, step=3)
                case "choice" | "fixed":
                    hp.Choice(name, values if kind == "choice" else values[:1])
                case "ordered":
                    hp.Choice(name, [1, 2, 4, 8], ordered=True)
                case "boolean":
                    hp.Boolean(name)
                case "branch":
                    if hp.Choice(name, ["in", "out"]) == "in":
                        inner(hp)
                case "scope":
                    hp.Boolean(name)
                    with hp.when(name, True):
                        inner(hp)

        return ask

    def ask(self, hp: Hp) -> None:
        for part in self.parts:
            part(hp)

    def value(self, run, epoch: int) -> float:
        text = repr(sorted(run.items(), key=repr))
        level = derive_seed(self.seed, text) / 2**31
        noise = derive_seed(self.seed, text, epoch) / 2**31
        if noise < self.nan:
            return math.nan
        found = {
            "falls": level + 1 / epoch,
            "rises": level - 1 / epoch,
            "constant": 1.0,
            "noise": noise,
            "two values": float(level > 0.5),
            "late": 1.0 if epoch < 9 else level,
        }
        return self.scale * found[self.kind]


def search_at_random(seed: int) -> Simulation:
    """Return a search of a random space with random options, run to its end."""
    rng = random.Random(seed)
    space = RandomSpace(seed)
    scenario = Scenario(
        space.ask,
        space.value,
        fails=lambda run: rng.choice([None]) if derive_seed(seed, "fails", run.trial) % 9 else 0,
        infeasible=lambda run: derive_seed(seed, "infeasible", run.trial) % 11 == 0,
        finishes=lambda run: 1 + run.trial % 7 if seed % 4 == 0 else None,
        dies=lambda trial, attempt: 1 if (trial + attempt) % 13 == 0 and seed % 3 == 0 else None,
        seconds=lambda run: 0.1 + derive_seed(seed, "seconds", run.trial) / 2**31,
        size=lambda run: 10 ** (1 + run.trial % 8),
    )
    limits = Limits(
        max_trials=rng.choice([None, 3, 20]),
        max_total_epochs=rng.choice([30, 90]),
        executions=rng.choice([1, 1, 2]),
        max_consecutive_failures=1000,
    )
    return simulate(
        scenario,
        seed=seed,
        max_epochs=rng.choice([1, 2, 5, 9, 27, 100]),
        slots=rng.choice([1, 1, 3, 16, 64]),
        objective=Objective("val_loss", rng.choice(["min", "max"])),
        limits=limits,
        computing=rng.choice([0.01, 5.0]),
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_spaces_are_searched(seed: int) -> None:
    assert search_at_random(seed).end is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_hundred_random_spaces_are_searched() -> None:
    for seed in range(100, 600):
        assert search_at_random(seed).end is not None, seed


# Models that cannot be paused -----------------------------------------------------------------------------------------


def train(backend: FreezeThaw, number: int, suggestion: Suggestion, **built) -> None:
    """Let a back end see a training of one of the user's `fit`s, which begins anew in each segment."""
    first, last = suggestion.from_epoch, suggestion.to_epoch
    backend.apply(SegmentRequested(number, first, last, None, None, False, 1, attributes=suggestion.attributes))
    backend.apply(SegmentStarted(number, 0, 1, 0, first, last))
    backend.apply(Built(number, 10, "a runner", own_fit=True, **built))
    for epoch in [last] if built.get("black_box") else range(1, last + 1):
        backend.apply(EpochDone(number, 0, epoch, {"val_loss": 1 / epoch + number}, 1.0))
    backend.apply(ResultTold(number, last, 1 / last + number, "reached"))


def test_a_black_box_is_trained_whole() -> None:
    backend = FreezeThaw(Objective("val_loss", "min"), 0, max_epochs=27, parameters=BOWL.parameters())
    for number in range(20):
        suggestion = backend.ask(new=True, child=True)
        if isinstance(suggestion, Wait):
            computation = backend.computation()
            backend.apply(Computed(computation.number, computation.run()))
            suggestion = backend.ask(new=True, child=True)
        assert suggestion.trial in (None, 0)
        assert suggestion.to_epoch == (27 if number else 2)
        if suggestion.trial == 0:
            break
        train(backend, number, suggestion, black_box=True)


def test_a_fit_that_begins_anew_is_trained_whole_from_then_on() -> None:
    backend = FreezeThaw(Objective("val_loss", "min"), 0, max_epochs=27, parameters=BOWL.parameters())
    first = backend.ask(new=True, child=True)
    train(backend, 0, first)
    assert backend.ask(new=True, child=True).to_epoch == 2
    train(backend, 0, Suggestion(0, 2, 4))
    assert backend.ask(new=True, child=True).to_epoch == 27


# A model factory's questions ------------------------------------------------------------------------------------------


def test_a_value_that_was_explored_is_drawn_again() -> None:
    parameter = Parameter("kind", Domain("choice", values=("a", "b", "c")), "a")
    backend = FreezeThaw(Objective("val_loss", "min"), 0, parameters=[parameter])
    suggestion = backend.ask(new=True, child=True)
    assert isinstance(suggestion, Suggestion)
    planned = suggestion.attributes["values"]["kind"]
    backend.apply(SegmentRequested(0, 0, 2, None, None, False, 1, attributes=suggestion.attributes))
    assert backend.suggest(0, parameter).value == planned
    assert backend.suggest(0, parameter, {planned}).value in {"a", "b", "c"} - {planned}


def test_the_trials_least_likely_to_go_on_come_first() -> None:
    noisy = BOWL.disturbed(noise=lambda rng: rng.gauss(0, 0.05))
    search = simulate(noisy, epochs=150)
    backend = search.controller._backend.inner
    paused = [trial.number for trial in search.trials if trial.state == "paused"]
    order = list(backend.expendable(paused))
    assert sorted(order) == sorted(paused)
    ends = [bowl(search.study.trials[number].params, 10**9) for number in order]
    half = len(ends) // 2
    assert np.mean(ends[:half]) > 2 * np.mean(ends[half:])


def test_asha_compares_trials_at_the_same_epoch() -> None:
    search = simulate(BOWL, epochs=150)
    ladder = search.controller._backend.inner._ladder
    for rung in ladder.rungs:
        for number, cost in rung.costs.items():
            curve = [epoch.logs["val_loss"] for epoch in search.study.trials[number].curve[: rung.epochs]]
            assert cost == min(curve)


def test_smooth_space_is_searched_with_all_kinds_of_parameters() -> None:
    search = simulate(SMOOTH, epochs=150)
    assert search.study.best is not None
    assert search.study.best.objective < 0.2
