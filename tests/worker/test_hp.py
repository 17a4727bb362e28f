"""The lazy `hp`: its questions, their order, and the values that a factory gets."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine import hyperparameters as kt

from search.errors import SpaceError
from search.space.domain import KINDS, QUESTIONS, Condition, Domain, IntDomain, Parameter, Value
from search.tracking.mlflow import loader
from search.worker.hp import LazyHyperParameters, default_value
from search.worker.hyperparameters import parameter_of

pytestmark = pytest.mark.core


class Source:
    """A source of answers, which records the questions.

    Args:
        u: the cumulative probability of an answer.
        answers: answers by name, in place of that.
    """

    def __init__(self, u: float = 0.7, **answers: Value) -> None:
        self.u = u
        self.answers = answers
        self.asked: list[Parameter] = []

    def __call__(self, parameter: Parameter) -> Value:
        self.asked.append(parameter)
        return self.answers.get(parameter.name, parameter.domain.at(self.u))

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.asked]


def everything(hp: Any) -> list[Any]:
    """Ask for parameters of every kind, option and scope."""
    found = [
        hp.Choice("model", ["mlp", "cnn"]),
        hp.Int("units", 8, 64, step=8, default=32),
        hp.Int("batch", 2, 32, step=2, sampling="log"),
        hp.Float("lr", 1e-4, 1.0, sampling="log"),
        hp.Float("momentum", 0.5, 0.99, sampling="reverse_log"),
        hp.Float("dropout", 0, 1, step=0.25),
        hp.Boolean("bias"),
        hp.Choice("norm", [True, False]),
        hp.Choice("kernel", [3, 5, 7], ordered=False, default=5),
        hp.Fixed("seed", 3),
        hp.Int("layers", 1, 5, parent_name="model", parent_values=["mlp"]),
        hp.Int("layers", 11, 15, parent_name="model", parent_values="cnn"),
    ]
    with hp.conditional_scope("model", ["cnn"]):
        found.append(hp.Choice("pool", ["max", "avg"]))
        with hp.name_scope("head"):
            found.append(hp.Int("units", 1, 9))
        with hp.conditional_scope("pool", ["avg"]):
            found.append(hp.Float("rate", 0.0, 1.0))
    found.append(hp.Float("epsilon", 0.1, 0.2, parent_name="norm", parent_values=[False]))
    return found


ALWAYS = ["model", "units", "batch", "lr", "momentum", "dropout", "bias", "norm", "kernel", "seed"]


def test_defaults_equal_kerastuners() -> None:
    ours, theirs = LazyHyperParameters(), keras_tuner.HyperParameters()
    ours_built, theirs_built = everything(ours), everything(theirs)
    assert ours_built == theirs_built
    assert ours.values == theirs.values
    assert ours_built[7] is True
    assert theirs_built[7] == 1
    assert [repr(a) for a in ours.space if a.name != "norm"] == [repr(b) for b in theirs.space if b.name != "norm"]


def test_only_active_parameters_are_asked_for_when_they_are_needed() -> None:
    source = Source(model="mlp", norm=True)
    hp = LazyHyperParameters(source)
    assert hp.Choice("model", ["mlp", "cnn"]) == "mlp"
    assert source.names == ["model"]
    hp.Choice("model", ["mlp", "cnn"])
    assert source.names == ["model"]
    built = everything(hp)
    assert source.names == [*ALWAYS, "layers"]
    assert built[11:] == [None] * 5
    assert "pool" not in hp
    assert "head/units" not in hp.values
    with pytest.raises(ValueError, match="pool is currently inactive"):
        hp.get("pool")
    with pytest.raises(KeyError):
        hp["never"]


def test_the_parameters_of_another_branch_are_asked_for() -> None:
    source = Source(model="cnn", pool="avg", norm=False)
    hp = LazyHyperParameters(source)
    built = everything(hp)
    assert source.names == [*ALWAYS, "layers", "pool", "head/units", "rate", "epsilon"]
    assert built[10] is None
    assert 11 <= built[11] <= 15
    assert hp["head/units"] == built[13]
    assert hp["layers"] == hp.get("layers") == built[11]
    assert source.asked[-2].conditions == (Condition("model", ("cnn",)), Condition("pool", ("avg",)))
    assert source.asked[-1].conditions == (Condition("norm", (False,)),)
    assert source.asked[10].key == "layers [model in ['cnn']]"
    assert [parameter.name for parameter in hp.parameters] == source.names
    assert hp.used_values == hp.values


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_second_build_and_a_second_object_repeat_the_values(model: str) -> None:
    first, second = Source(model=model), Source(u=0.1)
    hp = LazyHyperParameters(first)
    built, asked = everything(hp), len(first.asked)
    assert everything(hp) == built
    assert len(first.asked) == asked
    again = LazyHyperParameters(second, hp.values)
    assert everything(again) == built
    assert second.asked == []
    assert again.parameters == hp.parameters
    assert len(hp.parameters) == asked


def test_only_missing_values_are_asked_for() -> None:
    known: dict[str, Value] = {"model": "mlp", "units": 16, "gone": 1}
    source = Source(norm=True)
    hp = LazyHyperParameters(source, known)
    assert everything(hp)[1] == 16
    assert source.names == [*ALWAYS[2:], "layers"]
    assert "gone" not in hp.used_values
    assert known == {"model": "mlp", "units": 16, "gone": 1}


def test_an_inactive_parameter_is_asked_for_as_soon_as_it_is_active() -> None:
    source = Source(a="x")
    hp = LazyHyperParameters(source)
    hp.Choice("a", ["x", "y"])
    hp.Choice("b", ["p", "q"], parent_name="a", parent_values=["y"])
    with hp.conditional_scope("a", ["y"]):
        assert hp.Int("c", 1, 9, parent_name="b", parent_values=["p", "q"]) is None
    hp.values["a"] = "y"
    with hp.conditional_scope("a", ["y"]):
        assert hp.Choice("b", ["p", "q"]) == "q"
        assert hp.Int("c", 1, 9, parent_name="b", parent_values=["p", "q"]) == 7
    assert source.names == ["a", "b", "c"]


def test_without_questions_there_are_no_parameters() -> None:
    hp = LazyHyperParameters(Source())
    assert hp.parameters == ()
    hp.Fixed("seed", 3)
    assert [str(parameter) for parameter in hp.parameters] == ["seed: Fixed(3)"]


def test_fixed_is_asked_for_like_any_other() -> None:
    source = Source()
    hp = LazyHyperParameters(source)
    assert hp.Fixed("a", "x") == "x"
    assert hp.Fixed("b", True) is True
    assert source.names == ["a", "b"]
    assert hp.values == {"a": "x", "b": True}


@pytest.mark.parametrize("values", [[True, False], [False, True], (True, False), [True], np.array([True, False])])
def test_booleans_stay_booleans(values: Any) -> None:
    for u in (0.1, 0.9):
        hp = LazyHyperParameters(Source(u))
        assert type(hp.Choice("flag", values)) is bool
        (parameter,) = hp.parameters
        assert all(type(value) is bool for value in parameter.domain.values)
        assert list(parameter.domain.values) == list(values)
        assert not parameter.domain.ordered
    assert LazyHyperParameters().Choice("flag", [True, False], default=False) is False
    assert LazyHyperParameters().Choice("flag", [False, True]) is False


def test_booleans_are_conditions() -> None:
    hp = LazyHyperParameters(Source(flag=False))
    assert hp.Choice("flag", [True, False]) is False
    assert hp.Int("yes", 1, 9, parent_name="flag", parent_values=[True]) is None
    assert hp.Int("no", 1, 9, parent_name="flag", parent_values=[False]) == 7
    assert hp.parameters[-1].conditions == (Condition("flag", (False,)),)


def test_none_is_a_choice() -> None:
    asked = Source(x=None)
    hp = LazyHyperParameters(asked)
    assert hp.Choice("x", [None, "l1", "l2"]) is None
    assert hp.Int("size", 1, 9, parent_name="x", parent_values=["l1"]) is None
    (parameter,) = hp.parameters
    assert parameter == Parameter("x", Domain("choice", values=(None, "l1", "l2")), None)
    assert Parameter.from_json(json.loads(json.dumps(parameter.to_json()))) == parameter
    assert LazyHyperParameters().Choice("x", ["l1", None]) is None
    assert LazyHyperParameters().Choice("x", ["l1", None], default="l1") == "l1"
    with hp.conditional_scope("x", [None]):
        assert hp.Int("y", 1, 9) == 7


def test_one_name_under_two_conditions() -> None:
    def build(hp: Any) -> int:
        kind = hp.Choice("kind", ["small", "large"])
        with hp.conditional_scope("kind", ["small"]):
            small = hp.Int("units", 1, 9)
        with hp.conditional_scope("kind", ["large"]):
            large = hp.Int("units", 100, 900)
        return small if kind == "small" else large

    hp = LazyHyperParameters(Source(0.5, kind="large"))
    assert 100 <= build(hp) <= 900
    assert [parameter.key for parameter in hp.parameters] == ["kind", "units [kind in ['large']]"]
    # One value cannot serve both parameters.
    hp = LazyHyperParameters(values={"kind": "small"})
    hp.Choice("kind", ["small", "large"])
    with hp.conditional_scope("kind", ["small"]):
        hp.Int("units", 1, 9)
    with pytest.raises(SpaceError, match="is active too, with another domain: give the two different names"):
        hp.Int("units", 100, 900)


def test_numpy_scalars_become_python_scalars() -> None:
    hp = LazyHyperParameters(Source())
    assert type(hp.Choice("a", np.array([8, 16]))) is int
    assert type(hp.Choice("b", [np.float64(0.5), np.float64(1)])) is float
    assert type(hp.Choice("c", ["x", "y"], default="y")) is str
    assert type(hp.Int("d", np.int64(1), np.int64(9))) is int
    assert type(hp.Float("e", np.float32(1), 2)) is float


def test_an_exception_of_ask_reaches_the_caller_unchanged_and_leaves_no_value() -> None:
    class Gone(ValueError):
        pass

    def ask(parameter: Parameter) -> Value:
        raise Gone(parameter.name)

    hp = LazyHyperParameters(ask)
    for _ in range(2):
        with pytest.raises(Gone, match="units"):
            hp.Int("units", 1, 9)
    assert hp.parameters == ()
    assert hp.values == {}


def test_an_exception_in_a_scope_is_the_users_own() -> None:
    hp = LazyHyperParameters()
    hp.Choice("a", ["x"])
    with pytest.raises(ZeroDivisionError), hp.conditional_scope("a", ["x"]), hp.name_scope("s"):
        raise ZeroDivisionError
    assert hp.Int("b", 1, 3) == 1
    assert hp.parameters[-1].key == "b"


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "min above max": (lambda hp: hp.Int("x", 9, 3), "min_value 9 is greater than the max_value 3"),
    "sampling": (lambda hp: hp.Float("x", 1, 3, sampling="lgo"), "sampling must be one of"),
    "no choices": (lambda hp: hp.Choice("x", []), "`values` must be provided"),
    "mixed": (lambda hp: hp.Choice("x", [1, "a"]), "only one type"),
    "mixed booleans": (lambda hp: hp.Choice("x", [True, 0]), "only one type"),
    "None": (lambda hp: hp.Choice("x", [None]), "can contain only"),
    "log of 0": (lambda hp: hp.Float("x", 0, 1, sampling="log"), "min_value: 0.0"),
    "log step": (lambda hp: hp.Int("x", 1, 8, step=1, sampling="log"), "step > 1"),
    "step 0": (lambda hp: hp.Float("x", 0, 1, step=0), "step must be greater than 0, found 0"),
    "step below 0": (lambda hp: hp.Int("x", 0, 9, step=-1), "step must be greater than 0, found -1"),
    "infinite": (lambda hp: hp.Float("x", 0, float("inf")), "must be finite"),
    "not an int": (lambda hp: hp.Int("x", 1.5, 3), "min_value must be an int"),
    "too few": (lambda hp: hp.Int("x", 1), "missing 1 required positional argument: 'max_value'"),
    "unknown option": (lambda hp: hp.Int("x", 1, 3, steps=2), "'steps'"),
    "default": (lambda hp: hp.Choice("x", ["a"], default="b"), "default value should be one of the choices"),
    "boolean default": (lambda hp: hp.Boolean("x", default="no"), "must be a Python boolean"),
    "fixed": (lambda hp: hp.Fixed("x", None), "found None"),
    "ordered": (lambda hp: hp.Choice("x", ["a", "b"], ordered=True), "`ordered` must be `False`"),
    "own parent": (
        lambda hp: hp.Int("model", 1, 3, parent_name="model", parent_values=["a"]),
        "same name as its parent",
    ),
    "unknown parent": (lambda hp: hp.Int("x", 1, 3, parent_name="modle", parent_values=["a"]), "Did you mean 'model'"),
    "no parent values": (lambda hp: hp.Int("x", 1, 3, parent_name="model"), "at least one value"),
    "empty parent values": (lambda hp: hp.Int("x", 1, 3, parent_name="model", parent_values=[]), "at least one value"),
    "scoped name": (lambda hp: scoped(hp), "hyperparameter 's/x'"),
    "unknown scope": (lambda hp: hp.conditional_scope("modle", ["a"]).__enter__(), "conditional scope of 'modle'"),
}


def scoped(hp: Any) -> None:
    with hp.name_scope("s"):
        hp.Int("x", 9, 3)


@pytest.mark.parametrize("case", BAD)
def test_an_impossible_parameter_is_refused_in_one_line_that_names_it(case: str) -> None:
    hp = LazyHyperParameters()
    hp.Choice("model", ["a", "b"])
    call, message = BAD[case]
    for _ in range(2):  # the first call registers nothing, so the second fails, too
        with pytest.raises(SpaceError) as caught:
            call(hp)
        text = str(caught.value)
        assert message in text
        assert "\n" not in text
        assert any(name in text for name in ("hyperparameter 'x'", "'model'", "'s/x'", "'modle'"))
    assert list(hp.values) == ["model"]
    assert hp.Int("x", 4, 5) == 4


def test_a_copy_has_its_own_values_and_its_new_parameters_do_not_leak() -> None:
    source = Source()
    hp = LazyHyperParameters(source)
    built = everything(hp)
    asked = len(source.asked)
    for other in (hp.copy(), copy.deepcopy(hp)):
        assert everything(other) == built
        other.values["units"] = 8
        assert other.Int("units", 8, 64, step=8) == 8
        assert hp["units"] != 8
        assert other.Int("new", 1, 9) == 1, "its default, as in KerasTuner"
        assert other.copy().Int("new", 1, 9) == 1
        assert "new" not in hp
        assert "new" not in [hyperparameter.name for hyperparameter in hp.space]
    assert len(source.asked) == asked == len(hp.parameters)
    assert hp.Int("new", 1, 9) == 7
    assert source.names[asked:] == ["new"]


@pytest.mark.parametrize("values", [{}, {"a": 3}])
def test_a_copy_records_the_parameters_that_the_original_knows(values: dict[str, Value]) -> None:
    """The values of a later segment are those of the first, and so is what is recorded as used."""
    hp = LazyHyperParameters(Source(a=3), values)
    hp.declare(space_of(lambda hp: hp.Int("a", 1, 9)))
    assert hp.used_values == {}
    assert hp.copy().Int("a", 1, 9) == 3
    assert hp.used_values == {"a": 3}


def test_configs_and_pickles_are_kerastuners() -> None:
    hp = LazyHyperParameters(Source(model="cnn"))
    built = everything(hp)
    theirs = keras_tuner.HyperParameters.from_config(hp.get_config())
    assert everything(theirs) == built
    assert theirs.values == hp.values
    read = pickle.loads(pickle.dumps(hp))
    assert type(read) is keras_tuner.HyperParameters
    assert everything(read) == built
    back = LazyHyperParameters.from_config(hp.get_config())
    assert everything(back) == built


def test_merge_overwrites_other_parameters_and_asks_for_new_ones() -> None:
    def build(hp: Any) -> None:
        hp.Int("units", 1, 9)
        hp.merge(theirs)
        hp.merge(theirs)

    theirs = space_of(lambda hp: (hp.Int("units", 1, 9, default=2), hp.Int("layers", 1, 5), hp.Fixed("rate", 0.5)))
    kerastuners = keras_tuner.HyperParameters()
    source = Source()
    ours = LazyHyperParameters(source)
    build(ours)
    build(kerastuners)
    assert ours.values == {"units": 2, "layers": 4, "rate": 0.5}
    assert kerastuners.values == {"units": 2, "layers": 1, "rate": 0.5}, "its defaults"
    assert [str(parameter.domain) for parameter in source.asked] == ["Int(1..9)", "Fixed(2)", "Int(1..5)", "Fixed(0.5)"]
    again = LazyHyperParameters(source, ours.values)
    build(again)
    assert again.values == ours.values
    assert len(source.asked) == 4, "a later build of the trial has the same values"
    ours.values["units"] = 7
    ours.merge([kt.Int("units", 1, 9)], overwrite=False)
    assert ours.values["units"] == 7


def test_merge_overwrites_a_declared_parameter_before_it_is_drawn() -> None:
    source = Source()
    hp = LazyHyperParameters(source)
    hp.declare(space_of(lambda hp: hp.Int("units", 1, 9)))
    hp.merge(space_of(lambda hp: hp.Fixed("units", 77)))
    assert hp["units"] == hp.Int("units", 1, 9) == 77
    assert [str(parameter.domain) for parameter in source.asked] == ["Fixed(77)"]


def space_of(ask: Callable[[Any], Any]) -> Any:
    """Return the `keras_tuner.HyperParameters` that `ask` declares."""
    hp = keras_tuner.HyperParameters()
    ask(hp)
    return hp


def declare_branches(hp: Any) -> None:
    hp.Choice("kind", ["small", "large"])
    with hp.conditional_scope("kind", ["large"]), hp.name_scope("head"):
        hp.Int("units", 1, 9)
    hp.Float("never", 0.0, 1.0)


@pytest.mark.parametrize("read", [lambda hp, name: hp.get(name), lambda hp, name: hp[name]])
def test_a_declared_parameter_is_asked_for_when_its_value_is_read(read: Callable[[Any, str], Any]) -> None:
    source = Source(kind="large")
    hp = LazyHyperParameters(source)
    hp.declare(space_of(declare_branches))
    assert "never" in hp
    assert source.names == []
    assert read(hp, "head/units") == 7
    assert source.names == ["kind", "head/units"], "a parent before its child"
    assert hp.used_values == hp.values == {"kind": "large", "head/units": 7}
    again = LazyHyperParameters(Source(), hp.values)
    again.declare(space_of(declare_branches))
    assert read(again, "head/units") == 7
    assert again.used_values == {"kind": "large", "head/units": 7}, "a later segment uses the same parameters"


def test_a_declared_parameter_that_is_inactive_or_unknown_is_not_asked_for() -> None:
    hp = LazyHyperParameters(Source(kind="small"))
    hp.declare(space_of(declare_branches))
    with pytest.raises(ValueError, match="head/units is currently inactive"):
        hp.get("head/units")
    with pytest.raises(KeyError):
        hp.get("layers")
    assert "head/units" not in hp


def test_the_parent_of_an_active_parameter_may_be_declared_only() -> None:
    hp = LazyHyperParameters(Source(kind="large"))
    hp.declare(space_of(lambda hp: hp.Choice("kind", ["small", "large"])))
    with hp.conditional_scope("kind", ["large"]):
        assert hp.Int("units", 1, 9) == 7
    assert hp.is_active("units")
    assert hp.Int("depth", 1, 9, parent_name="kind", parent_values=["small"]) is None


def test_missing_values_are_drawn_and_not_made_up() -> None:
    source = Source(kind="small")
    hp = LazyHyperParameters(source)
    hp.declare(space_of(declare_branches))
    hp.ensure_active_values()
    assert hp.values == {"kind": "small", "never": 0.7}
    assert source.names == ["kind", "never"]


def test_a_value_of_the_factorys_own_wins_and_is_recorded() -> None:
    source = Source()
    hp = LazyHyperParameters(source)
    hp.values["units"] = np.int64(3)
    hp.values["note"] = "mine"
    assert hp.Int("units", 4, 64) == 3
    assert [str(parameter) for parameter in source.asked] == ["units: Fixed(3)"]
    hp.note_own_values()
    hp.note_own_values()
    assert [str(parameter) for parameter in source.asked] == ["units: Fixed(3)", "note: Fixed('mine')"]
    assert hp.used_values == {"units": 3}
    later = LazyHyperParameters(source, hp.values)
    later.values["units"], later.values["note"] = 3, "mine"
    assert later.Int("units", 4, 64) == 3
    later.note_own_values()
    assert len(source.asked) == 2, "a later segment records nothing anew"
    assert later.used_values == hp.used_values


def test_defaults_of_untuned_parameters_are_not_the_factorys_own() -> None:
    source = Source()
    hp = LazyHyperParameters(source)
    hp.declare(space_of(lambda hp: hp.Fixed("lr", 0.1)), tune_new=False)
    assert hp.Int("units", 4, 64) == 4
    hp.values["depth"] = 2
    assert hp.Int("depth", 1, 9) == 2
    hp.note_own_values()
    assert source.names == ["depth"]


@pytest.mark.parametrize("value", [[1, 2], float("nan"), {"a": 1}])
def test_a_value_of_the_factorys_own_must_be_a_scalar(value: Any) -> None:
    hp = LazyHyperParameters(Source())
    hp.values["units"] = value
    with pytest.raises(SpaceError, match=r"^hp.values\['units'\] was set to .*: set it to a number"):
        hp.note_own_values()


def test_a_hypermodel_needs_no_change() -> None:
    class Model(keras_tuner.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> list[Any]:
            return [hp.Int("units", 8, 64), self.tunable, self.name]

    source = Source()
    assert Model(name="m").build(LazyHyperParameters(source)) == [47, True, "m"]
    assert source.names == ["units"]


def test_a_hypermodel_that_is_not_tunable_has_defaults_for_what_was_not_declared() -> None:
    class Model(keras_tuner.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> list[Any]:
            return [hp.Int("units", 8, 64), hp.Int("layers", 1, 5)]

    source = Source()
    hp = LazyHyperParameters(source)
    assert not hp.asked
    assert Model(tunable=False).build(hp) == [8, 1]
    assert hp.asked
    assert source.names == list(hp.values) == []
    hp.declare(space_of(lambda hp: hp.Int("units", 8, 64)))
    assert Model(tunable=False).build(hp) == [47, 1]
    assert source.names == list(hp.used_values) == ["units"]


@pytest.mark.parametrize(
    ("theirs", "domain", "default"),
    [
        (kt.Int("x", 1, 9), Domain("int", 1, 9, 1), 1),
        (kt.Int("x", 1, 9, sampling="LOG", default=4.0), Domain("int", 1, 9, None, "log"), 4),
        (kt.Int("x", 1, 9, step=3.0, sampling="reverse_log"), Domain("int", 1, 9, 3, "reverse_log"), 1),
        (kt.Float("x", 0, 1), Domain("float", 0.0, 1.0), 0.0),
        (kt.Float("x", 0, 9, step=3, default=3), Domain("float", 0.0, 9.0, 3.0), 3.0),
        (kt.Choice("x", ["a", "b"]), Domain("choice", values=("a", "b")), "a"),
        (kt.Choice("x", [2, 1, 2], default=1), Domain("choice", values=(2, 1), ordered=True), 1),
        (kt.Boolean("x", default=True), Domain("boolean", values=(True, False)), True),
        (kt.Fixed("x", 0.5), Domain("fixed", values=(0.5,)), 0.5),
    ],
    ids=repr,
)
def test_kerastuners_parameters_are_converted(theirs: Any, domain: Domain, default: Value) -> None:
    parameter = parameter_of(theirs)
    assert parameter == Parameter("x", domain, default)
    assert type(parameter.default) is type(default)
    assert [type(bound) for bound in (parameter.domain.low, parameter.domain.step)] == [
        type(bound) for bound in (domain.low, domain.step)
    ]
    assert default_value(parameter) == default
    assert Parameter.from_json(parameter.to_json()) == parameter


def in_a_name_scope(hp: Any) -> Any:
    with hp.name_scope("s"), hp.conditional_scope("a", ["x"]):
        return hp.Int("child", 1, 3)


def by_parent_name(hp: Any) -> Any:
    with hp.name_scope("s"), hp.name_scope("t"):
        return hp.Int("child", 1, 3, parent_name="a", parent_values="x")


def under_one_more_condition(hp: Any) -> Any:
    with hp.conditional_scope("b", ["x"]), hp.name_scope("s"), hp.conditional_scope("a", ["x"]):
        return hp.Int("child", 1, 3)


def in_an_outer_name_scope(hp: Any) -> Any:
    with hp.name_scope("s"):
        hp.Choice("a", ["y", "x"])
        with hp.name_scope("t"), hp.conditional_scope("a", ["x"]):
            return hp.Int("child", 1, 3)


PARENTS = {
    in_a_name_scope: "s/child [a in ['x']]",
    by_parent_name: "s/t/child [a in ['x']]",
    under_one_more_condition: "s/child [b in ['x'] and a in ['x']]",
    in_an_outer_name_scope: "s/t/child [s/a in ['x']]",
}


@pytest.mark.parametrize("ask", PARENTS)
@pytest.mark.parametrize(("value", "inactive"), [("x", False), ("y", True)])
def test_a_parent_is_found_in_the_outer_scopes(ask: Callable[[Any], Any], value: str, inactive: bool) -> None:
    hp = LazyHyperParameters(Source(**{"a": value, "b": "x", "s/a": value}))
    for name in ("a", "b"):
        hp.Choice(name, ["x", "y"])
    assert (ask(hp) is None) == inactive
    found = hp.inactive_parameters if inactive else hp.parameters
    assert found[-1].key == PARENTS[ask]
    rebuilt = loader._hyperparameters(hp.used_values)  # MLflow's way to the same model
    for name in ("a", "b"):
        rebuilt.Choice(name, ["x", "y"])
    assert ask(rebuilt) == ask(hp)


def test_a_parent_under_other_conditions_is_refused() -> None:
    hp = LazyHyperParameters()
    hp.Choice("a", ["x", "y"])
    with hp.conditional_scope("a", "x"):
        hp.Choice("b", ["x", "y"])
    with pytest.raises(SpaceError, match="asked for only under conditions"), hp.conditional_scope("b", "x"):
        pass


def test_inactive_parameters_are_those_whose_conditions_do_not_hold() -> None:
    hp = LazyHyperParameters()
    hp.Choice("optimizer", ["adam", "sgd"])
    with hp.conditional_scope("optimizer", "sgd"):
        assert hp.Float("momentum", 0.0, 1.0) is None
    with hp.conditional_scope("optimizer", "adam"):
        hp.Float("beta", 0.0, 1.0)
    assert [parameter.key for parameter in hp.inactive_parameters] == ["momentum [optimizer in ['sgd']]"]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("suggest_int", "Int"),
        ("Integer", "Int"),
        ("suggest_loguniform", "Float"),
        ("Range", "Int"),
        ("Linear", "Float"),
        ("Logarithmic", "Float"),
        ("suggest_categorical", "Choice"),
        ("bool", "Boolean"),
        ("Chioce", "Choice"),
        ("conditional_scoop", "conditional_scope"),
    ],
)
def test_a_method_of_another_name_is_answered_with_the_right_one(asked: str, meant: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(LazyHyperParameters(), asked)
    assert str(caught.value) == f"hp has no {asked!r}. Did you mean 'hp.{meant}'?"


# Kinds that KerasTuner does not have ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def even() -> Iterator[None]:
    """Add even numbers to the kinds of hyperparameters."""

    class EvenDomain(IntDomain, kind="even", question="Even"):
        __slots__ = ()

        @classmethod
        def declare(cls, min_value: int, max_value: int) -> Domain:
            if min_value % 2:
                raise ValueError(f"min_value must be even, found {min_value}")
            return Domain("even", min_value, max_value, step=2)

    yield
    del KINDS["even"], QUESTIONS["Even"]


@pytest.mark.usefixtures("even")
def test_hp_asks_for_a_further_kind_in_the_worker_and_in_mlflows_loader() -> None:
    def build(hp: Any) -> list[Any]:
        hp.Choice("model", ["a", "b"])
        with hp.name_scope("s"):
            return [
                hp.Even("units", 4, 64, default=8),
                hp.Even("width", 2, 5, parent_name="model", parent_values=["a"]),
                hp.Even("other", 4, 64, parent_name="model", parent_values=["b"]),
            ]

    hp = LazyHyperParameters()
    assert build(hp) == [8, 2, None]
    assert [str(parameter) for parameter in hp.parameters[1:]] == [
        "s/units: Even(4..64, step=2)",
        "s/width [model in ['a']]: Even(2..5, step=2)",
    ]
    assert [parameter.key for parameter in hp.inactive_parameters] == ["s/other [model in ['b']]"]
    assert build(LazyHyperParameters(values=hp.values)) == build(hp.copy()) == build(hp)
    assert build(loader._hyperparameters(hp.used_values)) == build(hp)
    assert pickle.loads(pickle.dumps(hp)).values == hp.values
    drawn = LazyHyperParameters(lambda parameter: parameter.domain.at(0.99))
    assert build(drawn) == [64, None, 64]


@pytest.mark.usefixtures("even")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda hp: hp.Even("x", 1, 9), "hyperparameter 'x': min_value must be even, found 1"),
        (lambda hp: hp.Even("x", 2), "hyperparameter 'x': missing a required argument: 'max_value'"),
        (lambda hp: hp.Even("x", 2, 9, default=3), "hyperparameter 'x': the default should be in Even"),
        (lambda hp: hp.Even("x", 2, 9, step=2), "hyperparameter 'x': got an unexpected keyword argument 'step'"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(call: Any, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        call(LazyHyperParameters())
    assert str(caught.value).startswith(said)
