"""The lines about hyperparameters for each value of which JAX compiles anew."""

from __future__ import annotations

from search.display.compilations import describe_compilations
from search.space.domain import Condition, Domain, Parameter


def test_the_worst_three_have_a_line_with_the_way_out() -> None:
    many = [
        Parameter("heads", Domain("int", 1, 10)),
        Parameter("units", Domain("int", 16, 256), 16, (Condition("kind", ("deep",)),)),
        Parameter("width", Domain("float", 0.5, 4.0)),
        Parameter("kernel", Domain("choice", values=tuple(range(12)))),
    ]
    assert describe_compilations(many) == [
        "JAX: width has a continuum of values, each compiles anew; step=0.5 would leave 8",
        "JAX: units [kind in ['deep']] has 241 values, each compiles anew; step=32 would leave 8, from 16 to 240",
        "JAX: kernel has 12 values, each compiles anew; fewer values compile less",
    ]
    narrow = Parameter("units", Domain("int", 100, 150, None, "log"))
    assert describe_compilations([narrow]) == [
        'JAX: units has 51 values, each compiles anew; step=8, sampling="linear" would leave 7, from 100 to 148'
    ]
    assert describe_compilations([]) == []
