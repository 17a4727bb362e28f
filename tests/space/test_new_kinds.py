"""A further kind of hyperparameter: one class for its domain and one entry for Optuna are all that it needs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from optuna.distributions import IntDistribution

from search.backends import samplers
from search.backends.registry import make_backend
from search.scheduler.limits import Limits
from search.space.domain import KINDS, QUESTIONS, Domain, IntDomain, ListDomain, Parameter
from search.study.record_json import decode, encode
from search.study.records import ParameterSet
from search.testing import Scenario, Simulation


@pytest.fixture(scope="module")
def kinds() -> Iterator[None]:
    """Add two kinds: even numbers, which Optuna knows as such, and powers of two, which it sees as indices."""
    before = dict(KINDS), dict(QUESTIONS)

    class EvenDomain(IntDomain, kind="even", question="Even"):
        __slots__ = ()

        @classmethod
        def declare(cls, min_value: int, max_value: int) -> Domain:
            if min_value % 2:
                raise ValueError(f"min_value must be even, found {min_value}")
            return Domain("even", min_value, max_value, step=2)

    class PowerDomain(ListDomain, kind="power", question="Power"):
        __slots__ = ()

        @classmethod
        def declare(cls, first: int, last: int) -> Domain:
            return Domain("power", values=tuple(2**n for n in range(first, last + 1)), ordered=True)

        def __str__(self) -> str:
            return f"Power({self.values[0]}..{self.values[-1]})"

    samplers.DISTRIBUTIONS["even"] = lambda domain: IntDistribution(domain.low, domain.value(domain.size - 1), step=2)
    yield
    for table, known in zip((KINDS, QUESTIONS), before, strict=True):
        table.clear()
        table.update(known)
    del samplers.DISTRIBUTIONS["even"]


def ask(hp: Any) -> None:
    hp.Even("even", 2, 101)
    hp.Power("power", 0, 9)


def loss(params: Any, epoch: int) -> float:
    return abs(params["even"] - 40) / 100 + abs(params["power"] - 64) / 512 + 1 / epoch


def simulate(backend: str, sampler: str) -> Simulation:
    options: dict[str, Any] = {"max_epochs": 9, "factor": 3, "sampler": sampler}
    if backend == "hyperband":
        options["iterations"] = 3
    return Simulation(
        Scenario(ask, loss),
        lambda study: make_backend(backend, options, study.objective, study.seed, study.parameters),
        limits=Limits(max_trials=40),
        max_epochs=9,
    )


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("backend", "sampler"),
    [("hyperband", "random"), ("hyperband", "tpe"), ("optuna", "tpe"), ("optuna", "grid")],
)
def test_a_search_draws_values_of_a_further_kind_and_goes_on_after_a_crash(backend: str, sampler: str) -> None:
    whole = simulate(backend, sampler).run()
    assert len(whole.trials) == 40
    for trial in whole.trials:
        assert trial.params["even"] in range(2, 102, 2)
        assert trial.params["power"] in [2**n for n in range(10)]
    values = [record for record in whole.records if isinstance(record, ParameterSet)]
    assert {record.parameter.domain.kind for record in values} == {"even", "power"}
    for record in values:
        assert decode(json.loads(json.dumps(encode(record)))) == record
    if backend == "optuna" and sampler == "tpe":
        joint = next(record.attributes["relative"] for record in values if record.attributes.get("relative"))
        assert set(joint) <= {"even (even linear)", "power (Power(1..512))"}
    assert whole.resume(keep=len(whole.records) // 2).run().history() == whole.history()


@pytest.mark.usefixtures("kinds")
def test_a_domain_of_a_further_kind_is_like_any_other() -> None:
    even, power = QUESTIONS["Even"].declare(2, 101), QUESTIONS["Power"].declare(0, 3)
    assert [str(even), str(power)] == ["Even(2..101, step=2)", "Power(1..8)"]
    for domain in (even, power):
        assert domain.size is not None
        for index in range(domain.size):
            value = domain.value(index)
            assert domain.index(value) == index
            assert domain.contains(value)
            assert domain.at(domain.unit(value)) == value
        assert not domain.contains(3)
        assert Parameter.from_json(json.loads(json.dumps(Parameter("x", domain, 2).to_json()))).domain == domain


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'odd' is no kind of hyperparameter"):
        Domain("odd", 3, 9)
    assert pickle.loads(pickle.dumps(Domain("int", 2, 8))) == Domain("int", 2, 8)
