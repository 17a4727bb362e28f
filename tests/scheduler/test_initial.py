"""Configurations that are to be tried first: what trials make of them, and what is said where they cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from search.backends.base import BackEnd
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.driver.checks import check_try_first
from search.errors import OptionError
from search.messages import Probed, ProbeFailed
from search.options import configurations
from search.scheduler.controller import Limits
from search.scheduler.initial import value_of
from search.space.domain import Condition, Domain, Parameter, Value
from search.study.records import SegmentRequested
from search.study.study import Study
from search.testing import Scenario, Simulation
from search.testing.backends import by_noise, seconds

InitialConfigurations = Mapping[str, Value]


def layered(hp: Any) -> None:
    """A space whose questions depend on the answers."""
    hp.Float("rate", 0.0, 1.0)
    for index in range(hp.Int("layers", 1, 3)):
        hp.Int(f"units_{index}", 8, 64)
    if hp.Choice("optimizer", ["adam", "sgd"]) == "sgd":
        hp.Float("momentum", 0.0, 0.9)


LAYERED = Scenario(layered, by_noise, seconds=seconds)


def hyperband(study: Study) -> BackEnd:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def tpe(study: Study) -> BackEnd:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="tpe:n_startup_trials=2", pruner="none")


def simulate(*given: InitialConfigurations, make: Callable[[Study], BackEnd] = hyperband, **options: Any) -> Simulation:
    options.setdefault("limits", Limits(max_trials=6))
    return Simulation(options.pop("scenario", LAYERED), make, try_first=given, **options)


@pytest.mark.parametrize("make", [hyperband, tpe])
@pytest.mark.parametrize("slots", [1, 3])
def test_they_come_before_anything_else_and_the_rest_is_drawn(make: Callable[[Study], BackEnd], slots: int) -> None:
    given = [{"rate": 0.25, "layers": 3, "units_2": 9}, {"optimizer": "sgd", "momentum": 0.5}, {"rate": 1}]
    search = simulate(*given, make=make, slots=slots).run()
    trials = search.trials
    assert [trial.initial_values for trial in trials] == [*given, {}, {}, {}]
    for trial, wanted in zip(trials, given, strict=False):
        assert wanted.items() <= trial.params.items()
        assert trial.params == LAYERED.used(trial.params)
    assert isinstance(trials[2].params["rate"], float)
    assert len({trial.params["rate"] for trial in trials}) == len(trials)
    plain = simulate(make=make, slots=slots).run()
    assert plain.trials[0].params["rate"] != trials[0].params["rate"]


def test_a_value_of_a_branch_that_is_not_entered_is_ignored() -> None:
    search = simulate({"optimizer": "adam", "momentum": 0.5, "layers": 1, "units_2": 9}, scenario=LAYERED).run()
    assert search.trials[0].params.keys() == {"rate", "layers", "units_0", "optimizer"}


def test_a_value_outside_of_the_domain_fails_that_trial_alone() -> None:
    search = simulate({"rate": 0.5, "units_0": 65}, {"rate": 0.75}).run()
    assert search.trials[0].ended == "failed"
    assert search.trials[0].error == "try_first gives units_0 the value 65, and it takes Int(8..64)"
    assert search.trials[1].params["rate"] == 0.75
    assert all(trial.ended not in (None, "failed") for trial in search.trials[1:])


@pytest.mark.parametrize("make", [hyperband, tpe])
def test_a_resumed_search_tries_each_once(make: Callable[[Study], BackEnd]) -> None:
    search = simulate({"rate": 0.25}, {"layers": 2}, make=make).run()
    for kept in range(0, len(search.entries), 5):
        assert search.resume(kept).run().history() == search.history(), f"after record {kept}"
    fewer = search.resume(20, try_first=()).run()  # what has been begun needs nothing but its journal
    assert fewer.trials[0].params == search.trials[0].params


def test_a_resume_tries_what_is_new() -> None:
    search = simulate({"rate": 0.25}, limits=Limits(max_trials=3)).run()
    more = search.resume(try_first=[{"rate": 0.5}, {"rate": 0.25}], limits=Limits(max_trials=6)).run()
    assert [trial.initial_values for trial in more.trials] == [{"rate": 0.25}, {}, {}, {"rate": 0.5}, {}, {}]


def test_what_was_tried_already_is_drawn_anew() -> None:
    scenario = Scenario(lambda hp: (hp.Int("a", 1, 2), hp.Boolean("b")), by_noise)
    search = simulate({"a": 1, "b": True}, {"b": True, "a": 1, "c": 0}, scenario=scenario).run()
    assert sorted(map(str, (trial.params for trial in search.trials))) == sorted(
        str({"a": a, "b": b}) for a in (1, 2) for b in (True, False)
    )
    assert search.trials[0].params == {"a": 1, "b": True}


def test_they_count_as_trials() -> None:
    search = simulate({"rate": 0.1}, {"rate": 0.2}, {"rate": 0.3}, limits=Limits(max_trials=2)).run()
    assert [
        record.initial_values for record in search.records if isinstance(record, SegmentRequested) and record.rung == 0
    ] == [
        {"rate": 0.1},
        {"rate": 0.2},
    ]


@pytest.mark.parametrize(
    ("domain", "value", "expected"),
    [
        (Domain("float", 0.0, 2.0), 1, 1.0),
        (Domain("float", 0.0, 1.0, 0.2), 0.6, 0.6000000000000001),
        (Domain("int", 1, 9), 3, 3),
        (Domain("choice", values=(1.0, "a")), 1, 1.0),
        (Domain("boolean", values=(True, False)), False, False),
    ],
)
def test_a_value_is_given_as_the_domain_has_it(domain: Domain, value: Value, expected: Value) -> None:
    found = value_of({"x": value}, Parameter("x", domain))
    assert found == expected
    assert type(found) is type(expected)


# What is said beforehand ----------------------------------------------------------------------------------------------


def test_they_are_dicts_json_or_files(tmp_path: Any) -> None:
    file = tmp_path / "first.json"
    file.write_text('[{"lr": 0.1}, {"lr": 0.2}]')
    assert configurations([{"lr": 1}, '{"lr": true}', str(file)]) == (
        *({"lr": 1}, {"lr": True}),
        *({"lr": 0.1}, {"lr": 0.2}),
    )
    assert configurations(configurations(str(file))) == ({"lr": 0.1}, {"lr": 0.2})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{lr: 1}", ("is not JSON", '{"lr": 0.01}')),
        ("gone.json", ("gone.json cannot be read", ".json")),
        ("[1]", ("is 1", "values by name")),
        ("{}", ("is {}", "values by name")),
        (3, ("is 3", "values by name")),
        ('{"lr": [1]}', ("'lr'", "[1]")),
        ('{"lr": NaN}', ("'lr'", "nan")),
        ([{3: 4}], ("3",)),
    ],
)
def test_what_is_no_configuration_is_explained(value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        configurations(value)
    message = str(caught.value)
    assert message.startswith("--try-first")
    assert "\n" not in message
    assert all(word in message for word in words), message


def probe(scenario: Scenario) -> Callable[[InitialConfigurations], Probed | ProbeFailed]:
    """What a worker answers that builds with some values, and defaults for the rest."""

    def build(given: InitialConfigurations) -> Probed | ProbeFailed:
        values: dict[str, Value] = dict(given)
        found = []
        used: dict[str, Value] = {}
        while (parameter := scenario.question(used)) is not None:
            found.append(parameter)
            used[parameter.name] = values.get(parameter.name, parameter.default)
        if used.get("layers") == 3 and used.get("units_2") == 13:
            return ProbeFailed("space.py:7: ValueError: unlucky", "")
        return Probed("", (), tuple(found), {}, (), (), {}, 0, "", 32, (1, 1), "fit", {})

    return build


def check(*given: InitialConfigurations, scenario: Scenario = LAYERED) -> None:
    check_try_first(given, scenario.parameters(), probe(scenario))


def test_what_the_probe_did_not_meet_is_looked_for() -> None:
    check({"layers": 3, "units_2": 64}, {"units_1": 8})
    check({"optimizer": "sgd", "momentum": 0.9, "rate": 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rtae": 0.5}, ("'rtae'", "not asked for", "Did you mean 'rate'")),
        ({"rate": 1.5}, ("rate the value 1.5", "Float(0..1)")),
        ({"rate": "fast"}, ("rate the value 'fast'", "Float(0..1)")),
        ({"layers": 2.0}, ("layers the value 2.0", "Int(1..3)")),
        ({"optimizer": "sgd", "momentum": 2}, ("momentum the value 2", "Float(0..0.9)")),
        ({"layers": 3, "units_2": 13}, ("cannot be built", "space.py:7: ValueError: unlucky")),
    ],
)
def test_what_cannot_be_tried_is_said_before_anything_is_written(
    given: InitialConfigurations, words: tuple[str, ...]
) -> None:
    with pytest.raises(OptionError) as caught:
        check(given)
    message = str(caught.value)
    assert message.startswith("--try-first")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_name_may_belong_to_a_branch_that_is_not_entered() -> None:
    momentum = Parameter("momentum", Domain("float", 0.0, 0.9), 0.0, (Condition("optimizer", ("sgd",)),))
    optimizer = Parameter("optimizer", Domain("choice", values=("sgd", "adam")), "sgd")

    def again(given: InitialConfigurations) -> Probed:
        return Probed("", (), (optimizer,), {}, (), (), {}, 0, "", 32, (1, 1), "fit", {})

    check_try_first([{"optimizer": "adam", "momentum": 0.5}, {"nesterov": True}], (optimizer, momentum), again)
    with pytest.raises(OptionError, match="momentum the value 2"):
        check_try_first([{"optimizer": "adam", "momentum": 2}], (optimizer, momentum), again)
