"""Initial configurations: how trials use them, and the messages about those that cannot be tried."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from search.backends.base import BackEnd
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.display import rows, trial_page
from search.driver.checks import check_try_first
from search.errors import OptionError
from search.messages import Probed, ProbeFailed
from search.options import parse_configurations
from search.scheduler.initial import value_in_domain
from search.scheduler.limits import Limits
from search.space.domain import Condition, Domain, Parameter, Value
from search.study import trials
from search.study.records import Built, SegmentRequested
from search.study.study import Study
from search.study.trials import Trial
from search.testing import Scenario, Simulation
from search.testing.backends import epoch_seconds, noise_loss

Values = Mapping[str, Value]


def ask_layered(hp: Any) -> None:
    """Ask questions that depend on the answers."""
    hp.Float("rate", 0.0, 1.0)
    for index in range(hp.Int("layers", 1, 3)):
        hp.Int(f"units_{index}", 8, 64)
    if hp.Choice("optimizer", ["adam", "sgd"]) == "sgd":
        hp.Float("momentum", 0.0, 0.9)


LAYERED = Scenario(ask_layered, noise_loss, seconds=epoch_seconds)


def hyperband(study: Study) -> BackEnd:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def tpe(study: Study) -> BackEnd:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="tpe:n_startup_trials=2", pruner="none")


def simulate(*try_first: Values, make: Callable[[Study], BackEnd] = hyperband, **options: Any) -> Simulation:
    options.setdefault("limits", Limits(max_trials=6))
    return Simulation(options.pop("scenario", LAYERED), make, try_first=try_first, **options)


@pytest.mark.parametrize("make", [hyperband, tpe])
@pytest.mark.parametrize("slots", [1, 3])
def test_initial_configurations_come_first_and_missing_values_are_drawn(
    make: Callable[[Study], BackEnd], slots: int
) -> None:
    initial = [{"rate": 0.25, "layers": 3, "units_2": 9}, {"optimizer": "sgd", "momentum": 0.5}, {"rate": 1}]
    search = simulate(*initial, make=make, slots=slots).run()
    trials = search.trials
    assert [trial.values.initial for trial in trials] == [*initial, {}, {}, {}]
    for trial, wanted in zip(trials, initial, strict=False):
        assert wanted.items() <= trial.params.items()
        assert trial.params == LAYERED.used(trial.params)
    assert isinstance(trials[2].params["rate"], float)
    assert len({trial.params["rate"] for trial in trials}) == len(trials)
    plain = simulate(make=make, slots=slots).run()
    assert plain.trials[0].params["rate"] != trials[0].params["rate"]


def test_a_value_of_a_branch_that_is_not_entered_is_ignored() -> None:
    search = simulate({"optimizer": "adam", "momentum": 0.5, "layers": 1, "units_2": 9}, scenario=LAYERED).run()
    assert search.trials[0].params.keys() == {"rate", "layers", "units_0", "optimizer"}


def test_a_value_outside_the_domain_fails_only_its_trial() -> None:
    search = simulate({"rate": 0.5, "units_0": 65}, {"rate": 0.75}).run()
    assert search.trials[0].state == "failed"
    assert search.trials[0].error == "try_first gives units_0 the value 65, and it takes Int(8..64)"
    assert search.trials[1].params["rate"] == 0.75
    assert all(trial.ended and not trial.failed for trial in search.trials[1:])


@pytest.mark.parametrize("make", [hyperband, tpe])
def test_a_resumed_search_tries_each_once(make: Callable[[Study], BackEnd]) -> None:
    search = simulate({"rate": 0.25}, {"layers": 2}, make=make).run()
    for kept in range(0, len(search.entries), 5):
        assert search.resume(kept).run().history() == search.history(), f"after record {kept}"
    fewer = search.resume(20, try_first=()).run()  # begun trials need only the journal
    assert fewer.trials[0].params == search.trials[0].params


def test_a_resume_tries_new_configurations() -> None:
    search = simulate({"rate": 0.25}, limits=Limits(max_trials=3)).run()
    more = search.resume(try_first=[{"rate": 0.5}, {"rate": 0.25}], limits=Limits(max_trials=6)).run()
    assert [trial.values.initial for trial in more.trials] == [{"rate": 0.25}, {}, {}, {"rate": 0.5}, {}, {}]


def test_a_configuration_that_was_tried_is_drawn_again() -> None:
    scenario = Scenario(lambda hp: (hp.Int("a", 1, 2), hp.Boolean("b")), noise_loss)
    search = simulate({"a": 1, "b": True}, {"b": True, "a": 1, "c": 0}, scenario=scenario).run()
    assert sorted(map(str, (trial.params for trial in search.trials))) == sorted(
        str({"a": a, "b": b}) for a in (1, 2) for b in (True, False)
    )
    assert search.trials[0].params == {"a": 1, "b": True}


def test_initial_configurations_count_as_trials() -> None:
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
def test_a_value_is_converted_to_its_domain(domain: Domain, value: Value, expected: Value) -> None:
    found = value_in_domain({"x": value}, Parameter("x", domain))
    assert found == expected
    assert type(found) is type(expected)


# Checks before the search ---------------------------------------------------------------------------------------------


def test_configurations_are_dicts_json_or_files(tmp_path: Any) -> None:
    file = tmp_path / "first.json"
    file.write_text('[{"lr": 0.1}, {"lr": 0.2}]')
    assert parse_configurations([{"lr": 1}, '{"lr": true}', str(file)]) == (
        *({"lr": 1}, {"lr": True}),
        *({"lr": 0.1}, {"lr": 0.2}),
    )
    assert parse_configurations(parse_configurations(str(file))) == ({"lr": 0.1}, {"lr": 0.2})


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
        ('[{"lr": 0.1, "lr": 0.2}]', ("'lr' two values", "give it one")),
        ([{"lr": np.array([0.1, 0.2])}], ("'lr'", "0.2")),
        ([{"lr": {0.1}}], ("'lr'", "{0.1}")),
        ([{3: 4}], ("3",)),
    ],
)
def test_a_message_explains_an_invalid_configuration(value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        parse_configurations(value)
    message = str(caught.value)
    assert message.startswith("--try-first")
    assert "\n" not in message
    assert all(word in message for word in words), message


def probe(scenario: Scenario) -> Callable[[Values], Probed | ProbeFailed]:
    """Return a probe: a worker's answer to a build with some values, and defaults for the others."""

    def build(values: Values) -> Probed | ProbeFailed:
        found = []
        used: dict[str, Value] = {}
        while (parameter := scenario.question(used)) is not None:
            found.append(parameter)
            used[parameter.name] = values.get(parameter.name, parameter.default)
        if used.get("layers") == 3 and used.get("units_2") == 13:
            return ProbeFailed("space.py:7: ValueError: unlucky", "")
        return Probed("", (), tuple(found), {}, (), (), {}, 0, "", 32, (1, 1), "fit", {})

    return build


def check(*try_first: Values, scenario: Scenario = LAYERED) -> list[str]:
    return check_try_first(try_first, scenario.parameters(), probe(scenario))


def test_parameters_that_the_probe_did_not_see_are_looked_for() -> None:
    check({"layers": 3, "units_2": 64}, {"units_1": 8})
    check({"optimizer": "sgd", "momentum": 0.9, "rate": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rtae": 0.5}, ("'rtae'", "not asked for", "Did you mean 'rate'")),
        ({"rate": 1.5}, ("rate the value 1.5", "Float(0..1)")),
        ({"rate": "fast"}, ("rate the value 'fast'", "Float(0..1)")),
        ({"layers": 2.0}, ("layers the value 2.0", "Int(1..3)")),
        ({"optimizer": "sgd", "momentum": 2}, ("momentum the value 2", "Float(0..0.9)")),
        ({"layers": 3, "units_2": 13}, ("cannot be built", "space.py:7: ValueError: unlucky")),
    ],
)
def test_a_configuration_that_cannot_be_tried_is_refused_beforehand(values: Values, words: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        check(values)
    message = str(caught.value)
    assert message.startswith("--try-first")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_name_may_belong_to_a_branch_that_is_not_entered() -> None:
    momentum = Parameter("momentum", Domain("float", 0.0, 0.9), 0.0, (Condition("optimizer", ("sgd",)),))
    optimizer = Parameter("optimizer", Domain("choice", values=("sgd", "adam")), "sgd")

    def probe_again(values: Values) -> Probed:
        return Probed("", (), (optimizer,), {}, (), (), {}, 0, "", 32, (1, 1), "fit", {})

    def check_both(*values: Values) -> list[str]:
        return check_try_first(values, (optimizer, momentum), probe_again)

    assert check_both({"optimizer": "adam", "momentum": 0.5}) == []
    assert check_both({"momentun": 0.5}, {"momentun": 0.25, "nesterov": True}) == [
        "--try-first gives 'momentun', which no build has asked for: a trial uses it only if a branch asks for it. "
        "Did you mean 'momentum'?",
        "--try-first gives 'nesterov', which no build has asked for: a trial uses it only if a branch asks for it.",
    ]
    with pytest.raises(OptionError, match="momentum the value 2"):
        check_both({"optimizer": "adam", "momentum": 2})
    # A configuration that answers every question of its build decides the branch.
    with pytest.raises(OptionError, match=r"'momentun', which is not asked for: leave it out. Did you mean 'momentum'"):
        check_both({"optimizer": "adam", "momentun": 0.5})


def test_a_later_configuration_may_show_that_a_name_is_asked_for() -> None:
    assert check({"units_2": 9}, {"layers": 3, "units_2": 8}) == []
    assert check({"layers": 3, "units_2": 8}, {"units_3": 9}) == [
        "--try-first gives 'units_3', which no build has asked for: a trial uses it only if a branch asks for it. "
        "Did you mean 'units_2'?"
    ]
    with pytest.raises(OptionError, match=r"'units_2', which is not asked for.* give the values that lead there, too"):
        check({"units_2": 9})


def test_a_fit_that_the_probe_cannot_follow_may_ask_for_more() -> None:
    def probe_own_fit(metrics: tuple[str, ...]) -> Callable[[Values], Probed]:
        rate = (Parameter("rate", Domain("float", 0.0, 1.0), 0.0, (Condition("kind", ("a",)),)),)
        return lambda values: Probed("", (), rate, {}, metrics, (), {}, 0, "", 32, (1, 1), "", {}, own_fit=True)

    values = {"rate": 0.5, "patience": 3}
    assert len(check_try_first([values], (), probe_own_fit(()))) == 1
    with pytest.raises(OptionError, match="'patience', which is not asked for"):
        check_try_first([values], (), probe_own_fit(("loss",)))


def test_a_trial_records_the_initial_values_that_it_did_not_ask_for() -> None:
    search = simulate({"optimizer": "adam", "momentum": 0.5, "rtae": 0.125}, {"rate": 0.5, "units_0": 65}).run()
    trial, failed, *others = search.trials
    assert trial.unused_initial_values == {"momentum": 0.5, "rtae": 0.125}
    assert failed.unused_initial_values == {}  # the build failed before it could ask
    study = search.study
    entries = [rows.trial_fields(shown, study, None, alive=True) for shown in (trial, others[0])]
    assert [entry["unused_initial_values"] for entry in entries] == [trial.unused_initial_values, None]
    console = Console(file=io.StringIO(), width=200)
    console.print(trial_page.trial_details(study, trial, "", "", alive=True))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "--try-first gives rtae the value 0.125, and the trial did not ask for it. Did you mean 'rate'?\n" in shown
    assert "--try-first gives momentum the value 0.5, and the trial did not ask for it.\n" in shown


def test_a_trial_of_an_own_fit_may_ask_until_it_trains() -> None:
    trial = Trial(0, 0, 0, values=trials.Values(initial={"patience": 3}), model=Built(0, 1, "own fit", own_fit=True))
    assert trial.unused_initial_values == {}
    trial.progress.trained = 1
    assert trial.unused_initial_values == {"patience": 3}
