"""Hyperband against its contract, and against the synchronous algorithm of the paper."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.backends.brackets import HyperbandPlan, plan_brackets
from search.backends.hyperband import Hyperband
from search.scheduler.limits import Limits
from search.study.journal import Entry
from search.study.records import ResultTold, SegmentRequested, SegmentStarted
from search.study.trial import Suggestion, derive_seed
from search.testing import BackEndContract, Scenario, Simulation
from search.testing.backends import epoch_seconds, noise

# The same examples on every machine.
fixed_examples = settings(derandomize=True, deadline=None, max_examples=40)


HAS_GP = all(importlib.util.find_spec(package) for package in ("torch", "scipy"))


class TestContract(BackEndContract):
    sampler = "random"

    def make(self, objective, seed, max_epochs, parameters):
        return Hyperband(objective, seed, max_epochs=max_epochs, sampler=self.sampler, parameters=parameters)


class TestTPE(TestContract):
    sampler = "tpe:multivariate=False,n_startup_trials=3"


class TestMultivariateTPE(TestContract):
    sampler = "tpe:multivariate=True,n_startup_trials=3"


class TestCMAES(TestContract):
    sampler = "cmaes:n_startup_trials=2"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_GP, reason="needs torch and scipy")
class TestGP(TestContract):
    sampler = "gp:n_startup_trials=2"
    trials, cuts = 6, 1


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="needs scipy")
class TestQMC(TestContract):
    sampler = "qmc"


def simulate(scenario: Scenario, *, iterations: int = 1, factor: int = 3, **options: Any) -> Simulation:
    max_epochs = options.setdefault("max_epochs", 9)
    return Simulation(
        scenario,
        lambda study: Hyperband(
            study.objective, study.seed, max_epochs=max_epochs, factor=factor, iterations=iterations
        ),
        **options,
    )


def ask_x(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)


def unrelated_losses(params: Any, epoch: int) -> float:
    """Return a loss that has nothing to do with those of other epochs."""
    return noise(params, epoch)


UNRELATED = Scenario(ask_x, unrelated_losses, seconds=epoch_seconds)


def entrants(search: Simulation) -> dict[tuple[int, int], list[int]]:
    """Return the trials that came to each (bracket, rung), in order."""
    found = defaultdict(list)
    for record in search.records:
        if isinstance(record, SegmentRequested):
            found[record.bracket, record.rung].append(record.trial)
    return found


def scores(search: Simulation) -> dict[tuple[int, int], dict[int, float]]:
    """Return the trials' scores at each (bracket, rung), without trials that failed."""
    found: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    place: dict[int, tuple[int, int]] = {}
    for record in search.records:
        if isinstance(record, SegmentRequested):
            place[record.trial] = (record.bracket, record.rung)
        elif isinstance(record, ResultTold) and record.score is not None:
            found[place[record.trial]][record.trial] = record.score
    return found


def assert_synchronous(search: Simulation, plan: HyperbandPlan) -> None:
    """Assert that of all trials which ever came to a rung the best were promoted, as in the synchronous algorithm."""
    entered, told = entrants(search), scores(search)
    for number, bracket in enumerate(plan.brackets):
        assert len(entered[number, 0]) == bracket.rungs[0].size
        for rung in range(1, len(bracket.rungs)):
            below = told[number, rung - 1]
            best = sorted(below, key=lambda trial: (below[trial], trial))[: bracket.rungs[rung].size]
            assert sorted(entered[number, rung]) == sorted(best), f"bracket {number}, rung {rung}"


@fixed_examples
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(0, 100), st.sampled_from([(9, 3), (27, 3), (16, 4)]))
def test_promotions_are_those_of_the_synchronous_algorithm(seed, slots, order, size) -> None:
    max_epochs, factor = size
    search = simulate(UNRELATED, seed=seed, slots=slots, order=order, max_epochs=max_epochs, factor=factor).run()
    plan = plan_brackets(max_epochs, factor)
    assert_synchronous(search, plan)
    assert search.study.epochs == plan.total_epochs


@fixed_examples
@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0.0, 0.6))
def test_failed_trials_are_the_worst_and_others_take_their_places(seed, slots, share) -> None:
    scenario = Scenario(
        ask_x,
        unrelated_losses,
        fails=lambda params: int(9 * noise(params, "when")) if noise(params, "fails") < share else None,
    )
    limits = Limits(max_consecutive_failures=100)
    search = simulate(scenario, seed=seed, slots=slots, limits=limits).run()
    plan = plan_brackets(9, 3)
    assert_synchronous(search, plan)
    assert all(trial.ended for trial in search.trials)


def test_a_bracket_with_failures_still_trains_one_trial_to_the_end() -> None:
    scenario = Scenario(ask_x, unrelated_losses, fails=lambda params: 1 if noise(params, "fails") < 0.25 else None)
    search = simulate(scenario, max_epochs=27).run()
    sizes = [len(entrants(search)[0, rung]) for rung in range(4)]
    assert sum(trial.state == "failed" for trial in search.trials) > 10
    assert sizes == [27, 9, 3, 1]


@fixed_examples
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 100))
def test_no_slot_idles_while_a_bracket_has_work(seed, slots, order) -> None:
    plan = plan_brackets(9, 3)

    def earned(search: Simulation) -> list[tuple[int, int, int]]:
        """Return (bracket, rung, trial) of promotions that no trial still to finish can change."""
        entered, told, found = entrants(search), scores(search), []
        for number, bracket in enumerate(plan.brackets):
            for rung, following in enumerate(bracket.rungs[1:], 1):
                below, size = told[number, rung - 1], bracket.rungs[rung - 1].size
                for trial in set(below) - set(entered[number, rung]):
                    better = sum((below[other], other) < (below[trial], trial) for other in below)
                    if better + size - len(below) < following.size:
                        found.append((number, rung, trial))
        return found

    class CheckedForIdleSlots(Simulation):
        def check(self, records):
            super().check(records)
            if self.executor.busy < slots and self.end is None:
                begun = sum(isinstance(record, SegmentRequested) and record.rung == 0 for record in self.records)
                assert begun == plan.trial_count
                assert not earned(self)

    CheckedForIdleSlots(
        UNRELATED,
        lambda study: Hyperband(study.objective, study.seed, max_epochs=9),
        seed=seed,
        slots=slots,
        order=order,
    ).run()


class ExhaustiveHyperband(Hyperband):
    """A back end that looks through all open brackets, and compares."""

    def ask(self, *, new, child):
        answer = super().ask(new=new, child=child)
        earned = [(n, *found) for n, bracket in self.open_brackets.items() if (found := bracket.promotion(new))]
        if isinstance(answer, Suggestion) and answer.trial is not None:
            assert (answer.bracket, answer.rung, answer.trial) == earned[0]
        else:
            assert not earned
            room = [n for n, b in self.open_brackets.items() if all(rung.free_places > 0 for rung in b.rungs)]
            if isinstance(answer, Suggestion):
                assert [answer.bracket] == (room or [self.opened])
            else:
                assert not (new and room)
        return answer


@fixed_examples
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 50))
def test_the_first_of_many_brackets_with_a_promotion_is_found(seed, slots, trials) -> None:
    scenario = Scenario(
        ask_x, unrelated_losses, fails=lambda params: 1 if noise(params, "fails") < 0.1 else None, seconds=epoch_seconds
    )
    search = Simulation(
        scenario,
        lambda study: ExhaustiveHyperband(study.objective, study.seed, max_epochs=9, iterations=4),
        seed=seed,
        slots=slots,
        limits=Limits(max_trials=trials, max_consecutive_failures=100),
    ).run()
    larger = search.resume(len(search.entries) * 2 // 3, limits=Limits(max_consecutive_failures=100)).run()
    assert larger.end is not None
    assert larger.end.complete
    assert len(larger.trials) > 4 * plan_brackets(9, 3).trial_count - 10  # a bracket cut short is not opened again


@pytest.mark.parametrize("slots", [1, 4])
def test_a_space_of_eight_points_still_promotes(slots: int) -> None:
    def ask(hp: Any) -> None:
        hp.Int("a", 1, 4)
        hp.Boolean("b")

    search = simulate(Scenario(ask, unrelated_losses, seconds=epoch_seconds), max_epochs=27, slots=slots).run()
    assert len({tuple(trial.params.items()) for trial in search.trials}) == len(search.trials) == 8
    assert search.end is not None
    assert search.end.complete
    assert Counter(trial.epochs for trial in search.trials) == {3: 5, 9: 2, 27: 1}
    told = scores(search)
    assert set(entrants(search)[0, 2]) == set(sorted(told[0, 1], key=told[0, 1].get)[:3])


def test_few_trials_are_promoted_too() -> None:
    search = simulate(UNRELATED, max_epochs=27, limits=Limits(max_trials=2)).run()
    assert sorted(trial.epochs for trial in search.trials) == [9, 27]
    assert all(trial.ended for trial in search.trials)


@pytest.mark.parametrize("slots", [2, 3])
def test_with_a_larger_budget_no_trial_enters_a_bracket_that_cannot_promote_it(slots: int) -> None:
    """A bracket that was cut short has full rungs: a trial that enters its first rung later is trained for nothing."""
    first = simulate(UNRELATED, factor=2, slots=slots, limits=Limits(max_trials=8)).run()
    sizes = [rung.size for rung in plan_brackets(9, 2).brackets[0].rungs]
    late = 0
    for kept in range(0, len(first.entries), 3):
        larger = first.resume(kept, limits=Limits(max_trials=12)).run()
        assert larger.end is not None
        assert larger.end.complete
        entered: Counter[int] = Counter()
        for record in larger.records:
            if isinstance(record, SegmentRequested) and record.bracket == 0:
                assert record.rung is not None
                full = any(entered[rung] == sizes[rung] for rung in range(1, len(sizes)))
                assert record.rung > 0 or not full
                entered[record.rung] += 1
                late += full
    assert late > 20  # promotions


def test_a_journal_with_such_a_trial_is_resumed() -> None:
    """Older versions asked for such trials. The bracket is over only when this one has ended."""
    scenario = Scenario(ask_x, unrelated_losses, seconds=lambda run: 100.0 if run.trial == 8 else 1.0)
    first = simulate(scenario, factor=2, slots=2, limits=Limits(max_trials=8)).run()
    second = [n for n, record in enumerate(first.records) if isinstance(record, SegmentRequested) and record.rung == 2]
    entries = first.entries[: second[-1] + 1]
    new = SegmentRequested(8, 0, 2, 0, 0, False, derive_seed(0, "train", 8, 0))
    entries.append(Entry(new, entries[-1].time, 0))
    search = simulate(scenario, factor=2, slots=2, entries=entries, limits=Limits(max_trials=9)).run()
    assert all(trial.ended for trial in search.trials)
    assert search.trials[8].epochs == 2


def test_a_trial_stopped_by_its_callback_is_promoted_without_training() -> None:
    """Its best value counts at every rung."""
    scenario = Scenario(
        ask_x,
        lambda params, epoch: params["x"] + 1 / epoch if not is_stopped(params) else params["x"] - 1,
        finishes=lambda params: 1 if is_stopped(params) else None,
    )
    search = simulate(scenario).run()
    stopped = [trial for trial in search.trials if trial.exhausted and trial.progress.bracket == 0]
    assert stopped
    entered = entrants(search)
    best = min(stopped, key=lambda trial: trial.objective)
    assert entered[0, 2] == [best.number]
    assert best.state == "completed"
    assert best.epochs == best.progress.trained == 1
    assert sum(isinstance(record, SegmentStarted) and record.trial == best.number for record in search.records) == 1
    told = [
        record.outcome for record in search.records if isinstance(record, ResultTold) and record.trial == best.number
    ]
    assert told == ["stopped_by_callback"] * 3
    assert [len(entered[0, rung]) for rung in range(3)] == [9, 3, 1]


def is_stopped(params: Any) -> bool:
    """Return whether a callback ends the training."""
    return noise(params, "ends") < 0.3


def test_iterations_repeat_the_plan_with_new_trials() -> None:
    once, twice = simulate(UNRELATED).run(), simulate(UNRELATED, iterations=2, slots=3).run()
    plan = plan_brackets(9, 3)
    assert len(twice.trials) == 2 * len(once.trials) == 2 * plan.trial_count
    assert twice.study.epochs == 2 * plan.total_epochs
    assert {bracket for bracket, _ in entrants(twice)} == set(range(6))
    assert len({trial.params["x"] for trial in twice.trials}) == len(twice.trials)


def test_a_promoted_trial_goes_on_from_its_last_epoch() -> None:
    search = simulate(UNRELATED, slots=4).run()
    assert search.study.trained == search.study.epochs
    for trial in search.trials:
        assert [epoch.epoch for epoch in trial.curve] == list(range(1, trial.epochs + 1))
