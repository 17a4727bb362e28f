"""The sampler `grid`: every combination of a space once, however the space shows itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from search.backends.grid import POINTS, is_grid, listed_domain, next_value
from search.backends.registry import make_backend
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter, Value
from search.study.records import ParameterSet
from search.testing import Scenario, Simulation
from search.testing.backends import (
    FINITE_CONFIGURATIONS,
    ask_finite,
    configuration_text,
    count_configurations,
    epoch_seconds,
    noise,
    noise_loss,
)

Asking = Any


def simulate(ask: Asking, backend: str = "optuna", sampler: str = "grid", **options: Any) -> Simulation:
    made: dict[str, Any] = {"max_epochs": 3, "sampler": sampler}
    made |= {"pruner": "none"} if backend == "optuna" else {"factor": 3, "iterations": 9}
    scenario = options.pop("scenario", Scenario(ask, noise_loss, seconds=epoch_seconds, build=lambda run: noise(run)))
    return Simulation(
        scenario,
        lambda study: make_backend(backend, made, study.objective, study.seed, study.parameters),
        **{"limits": Limits(), "max_epochs": 3, "backend_options": made, **options},
    )


def ask_choices(hp: Any) -> None:
    hp.Choice("first", [2, 4])
    hp.Boolean("drop")
    hp.Choice("second", [1, 3])
    hp.Choice("optimizer", ["adam", "sgd", "rmsprop"])
    hp.Fixed("loss", "mse")


def ask_numbers(hp: Any) -> None:
    hp.Int("int", 1, 5)
    hp.Float("float", 1.0, 2.0)


def ask_branches(hp: Any) -> None:
    """Ask in nested branches, of which a build with defaults sees one."""
    for part in ("build", "fit"):
        if hp.Boolean(f"{part}_deep"):
            hp.Choice(f"{part}_one", [1, 2])
        else:
            hp.Float(f"{part}_two", 0.0, 1.0, step=1.0)


def ask_continua(hp: Any) -> None:
    """Ask for a continuum in one branch only."""
    if hp.Choice("kind", ["plain", "sgd"]) == "sgd":
        hp.Float("momentum", 0.0, 0.9)


COUNTS = [(ask_choices, 24), (ask_numbers, 5 * POINTS), (ask_branches, 16), (ask_continua, 1 + POINTS)]


@pytest.mark.core
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("ask", "count"), COUNTS)
def test_each_combination_is_tried_once(ask: Asking, count: int, slots: int) -> None:
    search = simulate(ask, slots=slots).run()
    tried = count_configurations(search)
    assert len(tried) == len(search.trials) == count
    assert search.end is not None
    assert search.end.reason == "every configuration of the space was tried"
    for trial in search.trials:
        assert trial.params == search.scenario.used(trial.params)


@pytest.mark.core
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("ask", "count"), [(ask_branches, 16), (ask_continua, 1 + POINTS)])
def test_a_grid_resumed_after_any_record_tries_the_rest(ask: Asking, count: int, slots: int) -> None:
    whole = simulate(ask, slots=slots).run()
    for kept in range(0, len(whole.entries), 7):
        search = whole.resume(kept).run()
        assert len(search.trials) == len(count_configurations(search)) == count, f"after record {kept}"
        if slots == 1:
            assert search.history() == whole.history()


def test_the_first_trial_has_the_defaults_and_the_last_parameter_changes_first() -> None:
    search = simulate(ask_choices).run()
    found = [tuple(trial.params.values())[:4] for trial in search.trials]
    assert found == [*itertools.product([2, 4], [False, True], [1, 3], ["adam", "sgd", "rmsprop"])]


def test_failed_and_infeasible_trials_count_as_tried() -> None:
    def ask(hp: Any) -> None:
        ask_choices(hp)

    for change in (
        {"fails": lambda run: 0 if run["first"] == 4 else 2 if run["drop"] else None},
        {"infeasible": lambda run: run["first"] == 4},
    ):
        search = simulate(ask, scenario=Scenario(ask, noise_loss, **change), slots=2).run()
        assert {trial.state for trial in search.trials} & {"failed", "infeasible"}
        assert len(count_configurations(search)) == len(search.trials) == 24


@pytest.mark.parametrize("slots", [2, 4])
def test_trials_with_a_long_build_begin_together(slots: int) -> None:
    """A black box is built when it ends, so a trial that waits for another's build waits for all of it."""
    scenario = Scenario(ask_choices, noise_loss, build=lambda run: 10.0, seconds=lambda run: 0.001)
    search = simulate(ask_choices, scenario=scenario, slots=slots).run()
    assert len(count_configurations(search)) == 24
    assert search.study.seconds() < 1.3 * 240 / slots


@pytest.mark.parametrize("slots", [1, 4])
def test_parameters_that_the_probe_did_not_see_are_covered(slots: int) -> None:
    search = simulate(ask_finite, slots=slots).run()
    assert sorted(configuration_text(trial.params) for trial in search.trials) == sorted(
        map(configuration_text, FINITE_CONFIGURATIONS)
    )


def test_hyperband_tries_a_grid_too() -> None:
    search = simulate(ask_continua, "hyperband", slots=2).run()
    assert len(search.trials) == len(count_configurations(search)) == 1 + POINTS


def test_max_trials_cuts_a_grid_and_a_larger_one_goes_on() -> None:
    cut = simulate(ask_numbers, limits=Limits(max_trials=7)).run()
    assert len(cut.trials) == 7
    more = cut.resume(limits=Limits(max_trials=60)).run()
    assert len(more.trials) == len(count_configurations(more)) == 5 * POINTS


def test_a_grid_after_random_trials_has_its_own_values() -> None:
    def changes(sampler: str) -> dict[str, Any]:
        made = simulate(ask_continua, sampler=sampler)
        return {"make_backend": made._arguments["make_backend"], "backend_options": {"sampler": sampler}}

    first = simulate(ask_continua, sampler="random", limits=Limits(max_trials=6)).run()
    second = first.resume(limits=Limits(), **changes("grid")).run()
    momenta = [trial.params["momentum"] for trial in second.trials if trial.phase == 1 and "momentum" in trial.params]
    assert momenta == list(listed_domain(Parameter("momentum", Domain("float", 0.0, 0.9), 0.0)).values)
    third = second.resume(limits=Limits(max_trials=len(second.trials) + 4), **changes("random")).run()
    assert len({trial.params["momentum"] for trial in third.trials if trial.phase == 2}) == 4
    assert third.resume(keep=len(third.entries) - 9).run().history() == third.history()


def test_a_configuration_of_the_users_own_may_lie_beside_the_grid() -> None:
    search = simulate(ask_continua, try_first=[{"kind": "sgd", "momentum": 0.123}]).run()
    assert search.trials[0].params["momentum"] == 0.123
    assert len(search.trials) == len(count_configurations(search)) == 2 + POINTS


def test_the_journal_has_the_users_domains() -> None:
    search = simulate(ask_numbers).run()
    domains = {record.parameter.domain for record in search.records if isinstance(record, ParameterSet)}
    assert domains == {Domain("int", 1, 5), Domain("float", 1.0, 2.0)}


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "default", "values"),
    [
        (Domain("float", 1.0, 2.0), 1.0, [1 + i / 10 for i in range(11)]),
        (Domain("float", 1e-4, 1e-2, sampling="log"), 1e-4, [10 ** (-4 + i / 5) for i in range(11)]),
        (Domain("float", 0.0, 1.0), 0.55, [*(i / 10 for i in range(11)), 0.55]),
        (Domain("int", 1, 1024, sampling="log"), 1, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]),
        (Domain("float", 3.0, 3.0), 3.0, [3.0]),
        (Domain("float", 0.0, 1.0, step=0.5), 0.5, [0.0, 0.5, 1.0]),
        (Domain("int", 0, 40), 0, [*range(41)]),
        (Domain("choice", values=("a", None)), None, ["a", None]),
    ],
)
def test_a_range_without_a_step_has_a_few_values(domain: Domain, default: Value, values: list[Value]) -> None:
    listed = listed_domain(Parameter("p", domain, default))
    assert [listed.value(index) for index in range(listed.size or 0)] == pytest.approx(values)
    assert all(domain.contains(listed.value(index)) for index in range(listed.size or 0))


def test_the_default_comes_first() -> None:
    parameter = Parameter("units", Domain("int", 8, 32, step=8), 24)
    explored: set[Value] = set()
    for _ in range(4):
        explored.add(next_value(parameter, explored))
    assert next_value(parameter, ()) == 24
    assert explored == {8, 16, 24, 32}


def test_options_that_name_the_grid() -> None:
    assert is_grid({"sampler": "grid"})
    assert not is_grid({"sampler": "random"})
    assert not is_grid({})
