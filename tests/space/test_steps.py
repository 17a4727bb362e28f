"""Coarser steps for ranges of many values."""

from __future__ import annotations

import pytest

from search.space.domain import Domain
from search.space.steps import coarser, ends


@pytest.mark.parametrize(
    ("domain", "step", "size", "range_"),
    [
        (Domain("int", 16, 256), 32, 8, (16, 240)),
        (Domain("int", 32, 256), 32, 8, (32, 256)),
        (Domain("int", 0, 64), 8, 9, (0, 64)),  # both ends are better than 8 values
        (Domain("int", 32, 512, 32), 64, 8, (32, 480)),
        (Domain("int", 1, 9), 2, 5, (1, 9)),
        (Domain("int", 1, 10), 3, 4, (1, 10)),
        (Domain("int", 16, 256, None, "log"), 2, 5, (16, 256)),
        (Domain("int", 1, 4096, None, "log"), 4, 7, (1, 4096)),
        (Domain("int", 1, 2048, 2, "log"), 4, 6, (1, 1024)),
        (Domain("int", 1, 1000, None, "reverse_log"), 4, 5, (745, 1000)),
        (Domain("float", 0.5, 4.0), 0.5, 8, (0.5, 4.0)),
        (Domain("float", 16.0, 256.0, None, "log"), 2, 5, (16, 256)),
    ],
)
def test_a_larger_step_leaves_about_eight_values_and_the_ends_if_it_can(
    domain: Domain, step: float, size: int, range_: tuple[float, float]
) -> None:
    found = coarser(domain)
    assert found is not None
    assert (found.step, found.size, ends(found), found.sampling) == (step, size, range_, domain.sampling)


def test_a_range_too_narrow_for_ratios_becomes_linear() -> None:
    found = coarser(Domain("int", 100, 150, None, "log"))
    assert found == Domain("int", 100, 150, 8, "linear")
    assert found.size == 7


@pytest.mark.parametrize("domain", [Domain("choice", values=tuple(range(12))), Domain("int", 3, 3)])
def test_some_domains_have_no_larger_step(domain: Domain) -> None:
    assert coarser(domain) is None


def test_a_larger_step_draws_some_of_the_values() -> None:
    for low, high in [(16, 256), (5, 500), (7, 91), (0, 1000), (1, 99991)]:
        domain = Domain("int", low, high)
        found = coarser(domain)
        assert found is not None
        assert found.size is not None
        assert 4 <= found.size <= 9
        assert all(domain.contains(found.value(index)) for index in range(found.size))
        assert found.value(0) == low
