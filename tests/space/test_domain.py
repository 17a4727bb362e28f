"""Domains, compared with KerasTuner, with its documentation, and for consistency."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_tuner.engine import hyperparameters as kt

from search.space.digests import digest_parameters
from search.space.domain import Condition, Domain, Parameter, compatible

# The same examples on every machine. No deadline: the first example pays for imports.
steady = settings(derandomize=True, deadline=None, max_examples=150)

PROBABILITIES = sorted({i / 997 for i in range(997)} | {0.0, 1e-300, 1e-16, 0.25, 0.5, 0.75, math.nextafter(1.0, 0.0)})


def make_pairs() -> list[tuple[Domain, Any]]:
    """Return (our domain, KerasTuner's hyperparameter) for every kind and option."""
    pairs: list[tuple[Domain, Any]] = [
        (Domain("boolean", values=(True, False)), kt.Boolean("x")),
        (Domain("fixed", values=("a",)), kt.Fixed("x", "a")),
    ]
    lists: list[list[Any]] = [["a"], ["a", "b", "c"], [1, 2, 4, 8, 16, 32, 64], [0.1, 0.5], list(range(49))]
    pairs.extend((Domain("choice", values=tuple(values)), kt.Choice("x", values)) for values in lists)
    linear = itertools.product([(1, 1), (0, 7), (-5, 5), (6, 13), (1, 1000), (32, 512)], [None, 1, 3, 32], ["linear"])
    ratios = itertools.product([(1, 1), (1, 7), (2, 32), (3, 1000), (5, 6), (1, 10**6)], [None, 2, 3, 10])
    powers = [(*ratio, sampling) for ratio in ratios for sampling in ("log", "reverse_log")]
    for (low, high), step, sampling in [*linear, *powers]:
        pairs.append((Domain("int", low, high, step, sampling), kt.Int("x", low, high, step, sampling)))
    linear = itertools.product([(0.0, 0.0), (0.0, 1.0), (-1.5, 2.5), (1e-9, 1e9)], [None, 0.25, 0.3, 1e8], ["linear"])
    ratios = itertools.product([(1.0, 1.0), (1e-5, 1e-1), (0.001, 10.0), (0.5, 0.9), (1e-9, 1e9)], [None, 2.0, 10.0])
    powers = [(*ratio, sampling) for ratio in ratios for sampling in ("log", "reverse_log")]
    for (low, high), step, sampling in [*linear, *powers]:
        if not (step == 0.25 or step == 0.3) or high < 100:  # no list of 10⁹ values
            pairs.append((Domain("float", low, high, step, sampling), kt.Float("x", low, high, step, sampling)))
    return pairs


PAIRS = make_pairs()
FINITE = [
    domain
    for domain, _ in PAIRS
    if domain.size is not None
    and domain.size <= 2000
    # 10⁹ - 10⁻⁹ is 10⁹: floats cannot tell these values apart.
    and not (domain.kind == "float" and domain.sampling == "reverse_log" and domain.high > 1e15 * domain.low)
]


def within(domain: Domain, value: Any) -> Any:
    return min(max(value, domain.low), domain.high) if domain.is_range else value


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(("domain", "theirs"), PAIRS, ids=lambda item: str(item) if isinstance(item, Domain) else "")
def test_at_equals_prob_to_value_to_the_last_bit(domain: Domain, theirs: Any) -> None:
    # At the edges of buckets KerasTuner's rounding decides.
    edges = [i / domain.size for i in range(min(domain.size, 2000))] if domain.size else []
    for u in [*PROBABILITIES, *edges]:
        expected = theirs.prob_to_value(u)
        assert same(domain.at(u), within(domain, expected)), u
        # KerasTuner leaves its range only by rounding errors.
        if domain.is_range:
            error = 1 if domain.kind == "int" else 1e-12 * abs(domain.high)
            assert expected == pytest.approx(within(domain, expected), rel=0, abs=error)


def test_the_range_is_kept_if_kerastuner_leaves_it() -> None:
    leaving = [
        (d, t) for d, t in PAIRS if d.is_range and any(within(d, v) != v for v in map(t.prob_to_value, PROBABILITIES))
    ]
    assert leaving, "no example tests the clamps"
    for domain, _ in leaving:
        assert all(domain.contains(domain.at(u)) for u in PROBABILITIES)


@steady
@given(
    st.integers(1, 5000),
    st.integers(0, 5000),
    st.sampled_from(["linear", "log", "reverse_log"]),
    st.floats(0, 1, exclude_max=True),
)
def test_any_int_equals_kerastuner(low: int, width: int, sampling: Any, u: float) -> None:
    domain, theirs = Domain("int", low, low + width, None, sampling), kt.Int("x", low, low + width, sampling=sampling)
    assert same(domain.at(u), within(domain, theirs.prob_to_value(u)))
    assert domain.contains(domain.at(u))


@steady
@given(
    st.floats(1e-9, 1e9),
    st.floats(1, 1e9),
    st.sampled_from(["linear", "log", "reverse_log"]),
    st.floats(0, 1, exclude_max=True),
)
def test_any_float_equals_kerastuner(low: float, ratio: float, sampling: Any, u: float) -> None:
    domain, theirs = (
        Domain("float", low, low * ratio, None, sampling),
        kt.Float("x", low, low * ratio, sampling=sampling),
    )
    assert same(domain.at(u), within(domain, theirs.prob_to_value(u)))


@steady
@given(st.integers(-100, 100), st.integers(0, 400), st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_any_stepped_int_equals_kerastuner(low: int, width: int, step: int, u: float) -> None:
    domain, theirs = Domain("int", low, low + width, step), kt.Int("x", low, low + width, step)
    assert same(domain.at(u), theirs.prob_to_value(u))
    assert [domain.value(i) for i in range(domain.size or 0)] == list(range(low, low + width + 1, step))


@steady
@given(st.integers(-50, 50), st.integers(0, 500), st.integers(1, 80), st.integers(0, 3))
def test_a_stepped_float_has_all_decimal_values(low: int, width: int, step: int, digits: int) -> None:
    """KerasTuner's floor division may lose the last value in rounding; the others are the same."""
    unit = Fraction(1, 10**digits)
    exact = [Fraction(low + k * step) * unit for k in range(width // step + 1)]
    bounds = (float(low * unit), float((low + width) * unit), float(step * unit))
    domain, theirs = Domain("float", *bounds), kt.Float("x", *bounds)
    ours = [domain.value(i) for i in range(domain.size or 0)]
    assert ours == pytest.approx([float(value) for value in exact], rel=1e-9, abs=1e-9)
    assert ours[: theirs._get_n_values()] == [within(domain, value) for value in theirs.values]
    assert len(ours) - theirs._get_n_values() in (0, 1)
    # Users write decimals.
    assert [domain.index(float(value)) for value in exact] == list(range(len(exact)))


@pytest.mark.parametrize(
    ("domain", "documented"),
    [
        (Domain("int", 6, 12), [6, 7, 8, 9, 10, 11, 12]),
        (Domain("int", 6, 13, step=3), [6, 9, 12]),
        (Domain("int", 2, 32, step=2, sampling="log"), [2, 4, 8, 16, 32]),
        (Domain("int", 2, 33, step=2, sampling="log"), [2, 4, 8, 16, 32]),
        (Domain("int", 1, 1000, step=10, sampling="log"), [1, 10, 100, 1000]),
        (Domain("int", 2, 32, step=2, sampling="reverse_log"), [32, 30, 26, 18, 2]),
        (Domain("float", 0.0, 1.0, step=0.2), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Domain("float", 0.0, 0.3, step=0.1), [0, 0.1, 0.2, 0.3]),
        (Domain("float", 0.0, 0.5, step=0.2), [0, 0.2, 0.4]),
        (Domain("float", 0.001, 10.0, step=10.0, sampling="log"), [0.001, 0.01, 0.1, 1, 10]),
        (Domain("choice", values=("a", "b")), ["a", "b"]),
        (Domain("boolean", values=(True, False)), [True, False]),
        (Domain("fixed", values=(3,)), [3]),
    ],
    ids=str,
)
def test_values_are_those_in_kerastuners_documentation(domain: Domain, documented: list[Any]) -> None:
    assert domain.size == len(documented)
    listed = [domain.value(i) for i in range(len(documented))]
    drawn = {domain.at(u) for u in PROBABILITIES}
    if domain.kind == "float":
        assert listed == pytest.approx(documented, rel=1e-12)
    else:
        assert all(map(same, listed, documented))
    assert drawn == set(listed)
    assert all(domain.contains(value) for value in documented)


@pytest.mark.parametrize("sampling", ["log", "reverse_log"])
@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 2), (1, 64), (3, 50), (97, 101)])
def test_a_log_int_covers_every_integer_and_no_other_value(low: int, high: int, sampling: Any) -> None:
    domain = Domain("int", low, high, sampling=sampling)
    assert {domain.at(i / 20_000) for i in range(20_000)} == set(range(low, high + 1))
    assert domain.size == high - low + 1


@pytest.mark.parametrize("domain", FINITE, ids=str)
def test_value_index_and_unit_agree_on_a_finite_domain(domain: Domain) -> None:
    values = [domain.value(i) for i in range(domain.size or 0)]
    assert len(set(values)) == len(values)
    for i, value in enumerate(values):
        assert domain.contains(value)
        assert domain.index(value) == i
        assert 0 <= domain.unit(value) <= 1
        assert same(domain.at(domain.unit(value)), value)


@steady
@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.sampled_from(["linear", "log", "reverse_log"]), st.floats(0, 1))
def test_unit_inverts_at_on_a_continuum(low: float, ratio: float, sampling: Any, u: float) -> None:
    domain = Domain("float", low, low * ratio, sampling=sampling)
    value = domain.at(u)
    assert isinstance(value, float)
    unit = domain.unit(value)
    assert unit == pytest.approx(u, abs=1e-6)
    assert domain.at(unit) == pytest.approx(value, rel=1e-6)


def test_large_domains_are_not_listed() -> None:
    domain = Domain("int", 0, 10**12)
    assert domain.index(10**12) == 10**12
    assert domain.contains(123_456_789_012)
    assert Domain("int", 0, 2**62).index(2**62 - 1) == 2**62 - 1


@pytest.mark.parametrize(
    ("domain", "outside"),
    [
        (Domain("int", 1, 9), [0, 10, 3.0, True, "3", None]),
        (Domain("int", 6, 13, step=3), [7, 13, 12.0]),
        (Domain("int", 2, 32, step=2, sampling="log"), [3, 33, 64]),
        (Domain("int", 2, 32, step=2, sampling="reverse_log"), [4, 31]),
        (Domain("float", 0.0, 1.0), [-0.1, 1.1, math.nan, math.inf, True, "0.5"]),
        (Domain("float", 0.0, 1.0, step=0.2), [0.3, 0.61]),
        (Domain("float", 0.001, 10.0, step=10.0, sampling="log"), [0.002]),
        (Domain("choice", values=(1, 2)), [True, 1.0, 3, "1"]),
        (Domain("choice", values=(True, False)), [1, 0, "True"]),
        (Domain("choice", values=(1.0, 2.0)), [True, 3.0]),
        (Domain("boolean", values=(True, False)), [1, 0, None]),
        (Domain("fixed", values=("a",)), ["b"]),
    ],
    ids=str,
)
def test_values_outside_of_a_domain_have_no_index(domain: Domain, outside: list[Any]) -> None:
    for value in outside:
        assert not domain.contains(value), value
        if domain.size is not None:
            with pytest.raises(ValueError, match="is not"):
                domain.index(value)


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert Domain("float", 0.0, 1.0).contains(1)
    assert Domain("choice", values=(1.0, 2.0)).index(2) == 1


@pytest.mark.parametrize("domain", [domain for domain, _ in PAIRS], ids=str)
def test_a_parameter_survives_json(domain: Domain) -> None:
    parameter = Parameter("x", domain, domain.at(0.3), (Condition("m", ("a", "b")), Condition("flag", (True,))))
    read = Parameter.from_json(json.loads(json.dumps(parameter.to_json())))
    assert read == parameter
    assert same(read.default, parameter.default)
    assert all(map(same, read.domain.values, domain.values))
    assert all(same(getattr(read.domain, name), getattr(domain, name)) for name in ("low", "high", "step"))


def test_the_default_step_of_an_int_is_1() -> None:
    assert Domain("int", -3, 4) == Domain("int", -3, 4, step=1)
    assert Domain("int", 3, 4, sampling="log").step is None


def test_the_key_of_a_parameter_is_its_name_and_its_conditions() -> None:
    domain = Domain("int", 1, 9)
    plain, under = Parameter("n", domain), Parameter("n", domain, conditions=(Condition("m", ("a",)),))
    assert plain.key == "n"
    assert under.key == "n [m in ['a']]"
    assert len({plain.key, under.key, Parameter("n", domain, conditions=(Condition("m", ("b",)),)).key}) == 3


def test_the_text_of_a_domain() -> None:
    assert str(Domain("int", 1, 10**6)) == "Int(1..1000000)"
    assert str(Domain("float", 1e-4, 0.1, sampling="log")) == "Float(0.0001..0.1, log)"
    assert str(Domain("float", 0.0, 1.0, step=0.125)) == "Float(0..1, step=0.125)"


def test_only_numeric_ranges_may_change() -> None:
    assert compatible(Domain("int", 1, 9), Domain("int", 1, 20))
    assert compatible(Domain("choice", values=(1, 2)), Domain("choice", values=(1, 2)))
    assert not compatible(Domain("choice", values=(1, 2)), Domain("choice", values=(1, 3)))
    assert not compatible(Domain("choice", values=(1, 2)), Domain("int", 1, 2))


def test_the_digest_of_a_factorys_parameters_is_that_of_earlier_versions() -> None:
    parameters = (
        Parameter("units", Domain("int", 8, 64, 8), 8),
        Parameter("rate", Domain("float", 1e-4, 1e-1, sampling="log"), 1e-4, (Condition("kind", ("a", True)),)),
        Parameter("kind", Domain("choice", values=("a", True), ordered=True), "a"),
        Parameter("norm", Domain("boolean", values=(True, False)), False),
        Parameter("fixed", Domain("fixed", values=(None,))),
    )
    assert digest_parameters(parameters) == "effe889758e0c156"
