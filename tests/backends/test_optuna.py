"""Optuna's samplers and pruners: the contract, and the behaviour of each."""

from __future__ import annotations

import importlib.util
import math
import statistics
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.backends.optuna import PRUNERS, Optuna, make_pruner
from search.backends.samplers import SAMPLERS, Axis
from search.errors import OptionError
from search.scheduler.limits import Limits
from search.space.domain import Condition, Domain, Parameter
from search.study.records import EpochDone, Judged, ParameterSet, ResultTold, SegmentRequested
from search.study.study import Study
from search.study.trial import Objective
from search.testing import BackEndContract, Scenario, Simulation
from search.testing.backends import noise_loss

HAS_GP = all(importlib.util.find_spec(package) for package in ("torch", "scipy"))


class OptunaContract(BackEndContract):
    sampler: str
    pruner: str

    def make(self, objective, seed, max_epochs, parameters):
        return Optuna(
            objective, seed, max_epochs=max_epochs, sampler=self.sampler, pruner=self.pruner, parameters=parameters
        )


@pytest.mark.core
class TestTPE(OptunaContract):
    sampler, pruner = "tpe:n_startup_trials=3", "hyperband"


class TestGroupedTPE(OptunaContract):
    sampler, pruner = "tpe:multivariate=True,group=True,n_startup_trials=3", "none"


class TestRandom(OptunaContract):
    sampler, pruner = "random", "median:n_startup_trials=2"


class TestQMC(OptunaContract):
    # With a rung at epoch 1, the pruner may stop all of the kit's 20 trials.
    sampler, pruner = "qmc", "asha:min_early_stopping_rate=1"


class TestNSGAII(OptunaContract):
    sampler, pruner = "nsgaii:population_size=4", "percentile:n_startup_trials=2"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_GP, reason="needs torch and scipy")
class TestGP(OptunaContract):
    sampler, pruner = "gp:n_startup_trials=3", "median:n_startup_trials=4"
    trials, cuts = 8, 1


@pytest.mark.core
class TestCMAES(OptunaContract):
    sampler, pruner = "cmaes:n_startup_trials=2", "hyperband"


def simulate(scenario: Scenario, sampler: str = "random", pruner: str = "none", **options: Any) -> Simulation:
    options.setdefault("limits", Limits(max_trials=30))
    options.setdefault("backend_options", {"sampler": sampler})
    max_epochs = options.setdefault("max_epochs", 9)
    return Simulation(
        scenario,
        lambda study: Optuna(
            study.objective,
            study.seed,
            max_epochs=max_epochs,
            sampler=sampler,
            pruner=pruner,
            parameters=study.parameters,
        ),
        **options,
    )


# Samplers -------------------------------------------------------------------------------------------------------------


def ask_two(hp: Any) -> None:
    hp.Fixed("version", 1)
    hp.Float("x", 0.0, 1.0)
    hp.Float("y", 0.0, 1.0)


def bowl(params: Any, epoch: int) -> float:
    """Return a loss with its minimum at x = 0.3, y = 0.7."""
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2 + 0.01 / epoch


@pytest.mark.core
@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", "hyperband"),
        ("tpe:multivariate=False", "none"),
        ("cmaes", "none"),  # learns from complete trials only, and from each of Hyperband's brackets apart
    ],
)
def test_samplers_learn(sampler: str, pruner: str) -> None:
    """The last third of the trials is much better than the first, in each of three searches with fixed seeds."""
    for seed in range(3):
        search = simulate(
            Scenario(ask_two, bowl), sampler, pruner, seed=seed, max_epochs=4, limits=Limits(max_trials=60)
        )
        values = [bowl(trial.params, 4) for trial in search.run().trials]
        assert statistics.median(values[40:]) < 0.6 * statistics.median(values[:20])


def test_a_joint_draw_covers_a_trial_that_begins_with_a_fixed_value() -> None:
    search = simulate(Scenario(ask_two, bowl), "qmc", limits=Limits(max_trials=6)).run()
    joint = [
        record for record in search.records if isinstance(record, ParameterSet) and record.attributes.get("relative")
    ]
    assert [record.parameter.name for record in joint] == ["x"] * 5  # the first trial shows the space
    assert all(len(record.attributes["relative"]) == 2 for record in joint)


# Pruners --------------------------------------------------------------------------------------------------------------


def ranked(params: Any, epoch: int) -> float:
    """Return a loss whose curves never cross: a worse trial stays worse."""
    return params["x"] + 1 / epoch


SPECS = [
    *["asha", "hyperband", "median:n_startup_trials=2", "none", "percentile:percentile=50.0,n_startup_trials=2"],
    *["threshold:upper=1.2", "wilcoxon:p_threshold=0.5"],
]


@pytest.mark.core
@pytest.mark.parametrize("spec", SPECS)
def test_a_pruner_stops_at_the_end_of_an_epoch(spec: str) -> None:
    search = simulate(Scenario(ask_two, ranked), "random", spec, limits=Limits(max_trials=25)).run()
    stopped = [trial for trial in search.trials if trial.state == "stopped"]
    assert bool(stopped) == (spec != "none")
    stops = {r.trial: r.epoch for r in search.records if isinstance(r, Judged) and r.stop}
    assert {trial.number: trial.epochs for trial in stopped} == stops
    told = {record.trial: record.outcome for record in search.records if isinstance(record, ResultTold)}
    assert all(told[trial.number] == ("stopped" if trial in stopped else "reached") for trial in search.trials)
    judged = {record.judged for record in search.records if isinstance(record, SegmentRequested)}
    assert judged == {spec != "none"}
    whole = [trial.params["x"] for trial in search.trials if trial.state == "completed"]
    if stopped and "wilcoxon" not in spec:
        assert statistics.mean(whole) < statistics.mean(trial.params["x"] for trial in stopped)


def test_all_pruners_are_tested_here() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(PRUNERS)


def test_hyperbands_brackets_are_known_before_the_first_decision() -> None:
    """Optuna makes them at its first decision. Until then a resumed search would draw other values."""
    pruner: Any = Optuna(Objective("loss", "min"), 0, max_epochs=9).pruner
    assert len({pruner._get_bracket_id(optuna.create_study(), trial_of_number(number)) for number in range(50)}) == 3


def trial_of_number(number: int) -> Any:
    trial = optuna.trial.create_trial(value=0.0)
    trial.number = number
    return trial


def test_hyperband_takes_the_searchs_factor_unless_told() -> None:
    pruner: Any = make_pruner("hyperband", 81, 4)
    assert (pruner._max_resource, pruner._reduction_factor, pruner._min_resource) == (81, 4, 1)
    pruner = make_pruner("hyperband:reduction_factor=2", 81, 4)
    assert pruner._reduction_factor == 2


# Results told to Optuna -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "worst"), [("min", math.inf), ("max", -math.inf)])
def test_a_failed_trial_is_told_as_the_worst(direction: Any, worst: float) -> None:
    back_end = Optuna(Objective("loss", direction), 0, max_epochs=3)
    for trial, outcome in enumerate(["failed", "reached", "stopped"]):
        back_end.apply(SegmentRequested(trial, 0, 3, None, None, True, 0))
        back_end.apply(ParameterSet(trial, Parameter("x", Domain("float", 0.0, 1.0)), 0.5))
        back_end.apply(EpochDone(trial, 0, 1, {"loss": 0.25}, 1.0))
        back_end.apply(EpochDone(trial, 0, 1, {"loss": 99.0}, 1.0))  # trained again: the first stands
        assert back_end.apply(ResultTold(trial, 1, None if outcome == "failed" else 0.25, outcome)) == (trial,)  # type: ignore[arg-type]
    trials = back_end.sampler.study.get_trials()
    assert [trial.value for trial in trials] == [worst, 0.25, 0.25]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert [trial.intermediate_values for trial in trials] == [{1: 0.25}] * 3


@pytest.mark.parametrize(("direction", "worst"), [("min", math.inf), ("max", -math.inf)])
def test_infeasible_trials_are_told_as_the_worst(direction: Any, worst: float) -> None:
    made: list[Optuna] = []

    def make_backend(study: Study) -> Optuna:
        made.append(Optuna(study.objective, study.seed, max_epochs=1, parameters=study.parameters))
        return made[-1]

    scenario = Scenario(ask_two, ranked, infeasible=lambda params: params["x"] > 0.5)
    objective, limits = Objective("val_loss", direction), Limits(max_trials=40)
    search = Simulation(scenario, make_backend, objective=objective, limits=limits, max_epochs=1).run()
    refused = [trial.state == "infeasible" for trial in search.trials]
    assert [trial.value == worst for trial in made[0].sampler.study.get_trials()] == refused
    # The sampler learns from them: the share of infeasible trials falls. The first ten are random.
    assert statistics.fmean(refused[20:]) < statistics.fmean(refused[:10])


@pytest.mark.core
def test_trials_of_an_earlier_phase_are_imported_as_they_ended() -> None:
    scenario = Scenario(
        ask_two,
        lambda params, epoch: ranked(params, epoch),
        infeasible=lambda params: params["y"] > 0.8,
        fails=lambda params: 2 if params["x"] > 0.8 else None,
    )
    before = simulate(scenario, pruner="asha", limits=Limits(max_trials=20)).run()
    back_end = Optuna(Objective("val_loss", "min"), 0, max_epochs=9)
    back_end.learn(before.trials)
    imported = back_end.sampler.study.get_trials()
    assert len(imported) == 20
    for trial, theirs in zip(before.trials, imported, strict=True):
        assert theirs.params.keys() == {"x (float linear)", "y (float linear)"}
        assert theirs.params["x (float linear)"] == trial.params["x"]
        assert theirs.value == (math.inf if trial.worthless else trial.objective)
        assert (theirs.state == TrialState.PRUNED) == (trial.state == "stopped")
        assert len(theirs.intermediate_values) == trial.epochs


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "spec", "said"),
    [
        ("sampler", "tpee", "Did you mean 'tpe'"),
        ("sampler", "", "use one of bruteforce"),
        ("sampler", "tpe:n_startup=3", "Did you mean 'n_startup_trials'"),
        ("sampler", "tpe:multivariate", "tpe:key=value"),
        ("sampler", "tpe:seed=3", "no argument 'seed'"),
        ("sampler", "nsgaii:population_size=1", "cannot be used"),
        ("pruner", "medien", "Did you mean 'median'"),
        ("pruner", "none:x=1", "among none"),
        ("pruner", "threshold", "cannot be used"),
        ("pruner", "hyperband:reduction_facter=2", "Did you mean 'reduction_factor'"),
        ("pruner", "percentile:percentile=150.0", "cannot be used"),
    ],
)
def test_messages_explain_options_that_cannot_be_used(option: str, spec: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        Optuna(Objective("loss", "min"), 0, **{option: spec})
    message = str(caught.value)
    assert message.startswith(f"--{option} ")
    assert said in message
    assert "\n" not in message


@pytest.mark.core
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "gp")) for name in sorted(SAMPLERS)]
)
def test_samplers_are_made_or_name_missing_packages(name: str) -> None:
    parameters = [Parameter("x", Domain("int", 1, 3))]
    needs = {"gp": ["torch", "scipy"], "qmc": ["scipy"]}.get(name, [])
    if any(importlib.util.find_spec(package) is None for package in needs):
        with pytest.raises(OptionError, match=f"{name} needs .*pip install"):
            Optuna(Objective("loss", "min"), 0, sampler=name, parameters=parameters)
    else:
        Optuna(Objective("loss", "min"), 0, sampler=name, parameters=parameters)


# Values ---------------------------------------------------------------------------------------------------------------

DOMAINS = [
    Domain("boolean", values=(True, False)),
    Domain("choice", values=("a", 1, 2.5, None)),
    Domain("choice", values=(1, 2, 4, 8), ordered=True),
    Domain("fixed", values=("a",)),
    Domain("int", -3, 7),
    Domain("int", 1, 10, 4),
    Domain("int", 1, 1000, sampling="log"),
    Domain("int", 1, 1000, 10, "log"),
    Domain("int", 1, 1000, sampling="reverse_log"),
    Domain("int", 1, 1000, 10, "reverse_log"),
    Domain("float", 0.0, 1.0),
    Domain("float", 0.0, 1.0, 0.2),
    Domain("float", 1e-5, 1e-1, sampling="log"),
    Domain("float", 1e-5, 1e-1, 10.0, "log"),
    Domain("float", 1e-5, 1e-1, sampling="reverse_log"),
    Domain("float", 1e-5, 1e-1, 10.0, "reverse_log"),
]


@pytest.mark.core
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_values_convert_to_optunas_and_back(domain: Domain) -> None:
    axis = Axis(Parameter("x", domain))
    if domain.size is None:
        values = [domain.at(i / 97) for i in range(97)]
    else:
        values = [domain.value(index) for index in range(min(domain.size, 200))]
    for value in values:
        encoded = axis.encode(value)
        internal = axis.distribution.to_internal_repr(encoded)
        assert axis.distribution._contains(internal)
        back = axis.decode(axis.distribution.to_external_repr(internal))
        if domain.kind == "float" and domain.size is None:
            assert back == pytest.approx(value, rel=1e-9)
        else:
            assert back == value
            assert type(back) is type(value)


@pytest.mark.core
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_optunas_draws_are_in_the_domain(domain: Domain) -> None:
    axis = Axis(Parameter("x", domain))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = set()
    for _ in range(60):
        trial = study.ask({axis.name: axis.distribution})
        value = axis.decode(trial.params[axis.name])
        assert domain.contains(value)
        drawn.add(value)
    assert len(drawn) >= min(domain.size or 30, 3)


def test_two_domains_never_share_an_axis() -> None:
    """Indices and categories of one domain mean nothing in another."""
    names = [Axis(Parameter("x", domain)).name for domain in DOMAINS if not (domain.is_range and domain.size is None)]
    plain = {Axis(Parameter("x", Domain("int", 0, 5))).name, Axis(Parameter("x", Domain("int", 0, 9))).name}
    assert len(plain) == 1
    assert len(set(names) - plain) >= len(names) - 2
    assert (
        Axis(Parameter("x", DOMAINS[0], conditions=(Condition("a", (1,)),))).name
        != Axis(Parameter("x", DOMAINS[0])).name
    )


def test_choices_may_change_between_phases() -> None:
    before = simulate(
        Scenario(lambda hp: hp.Choice("a", ["x", "y"]), noise_loss), "tpe", limits=Limits(max_trials=2)
    ).run()
    back_end = Optuna(Objective("val_loss", "min"), 0)
    back_end.learn(before.trials)
    back_end.apply(SegmentRequested(9, 0, 3, None, None, False, 0))
    parameter = Parameter("a", Domain("choice", values=("x", "y", "z")))
    back_end.apply(ParameterSet(9, parameter, back_end.suggest(9, parameter).value))
