"""KerasTuner's `HyperParameter` objects: made from the calls of a factory, and converted into parameters.

Public names of KerasTuner suffice here and in `search.worker.hp`. KerasTuner checks the arguments of its own kinds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters as kt

from search.space.domain import QUESTIONS, Condition, Domain, Parameter, Value


def plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own type, which JSON can hold, and any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def parameter_of(hyperparameter: Any) -> Parameter:
    """Convert one of KerasTuner's `HyperParameter` objects, including its conditions.

    Raises:
        ValueError: if its range is not finite or its step not positive, which KerasTuner does not check.
        TypeError: if it is of no kind that can be searched.
    """
    conditions = tuple(
        Condition(parent.name, tuple(plain(value) for value in parent.values)) for parent in hyperparameter.conditions
    )
    domain = _domain_of(hyperparameter)
    return Parameter(hyperparameter.name, domain, domain.convert_default(plain(hyperparameter.default)), conditions)


def _domain_of(hyperparameter: Any) -> Domain:
    if isinstance(hyperparameter, OwnHyperParameter):
        return hyperparameter.domain
    # KerasTuner's class has the name of the method of `hp`, and its attributes those of the method's arguments.
    found = (QUESTIONS.get(cls.__name__) for cls in type(hyperparameter).__mro__)
    cls = next((cls for cls in found if cls is not None), None)
    if cls is None:
        raise TypeError(f"{type(hyperparameter).__name__} is not a kind of hyperparameter that can be searched")
    arguments = {name: getattr(hyperparameter, name) for name in inspect.signature(cls.declare).parameters}
    return cls.declare(**{name: _plain_argument(value) for name, value in arguments.items()})


def _plain_argument(value: Any) -> Any:
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else plain(value)


# Calls of a factory ---------------------------------------------------------------------------------------------------


def bind_arguments(kind: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the question method `kind` after `name`, by their names. TypeError if they do not fit.

    A kind that KerasTuner does not have takes `default`, `parent_name` and `parent_values` by name only.
    """
    if not hasattr(keras_tuner.HyperParameters, kind):
        return _bind_own_arguments(kind, args, kwargs)
    try:
        bound = _signature(kind).bind(None, name, *args, **kwargs)
    except TypeError:
        getattr(keras_tuner.HyperParameters(), kind)(name, *args, **kwargs)  # Python's message names the method
        raise
    return {argument: value for argument, value in bound.arguments.items() if argument not in ("self", "name")}


@functools.cache
def _signature(kind: str) -> inspect.Signature:
    return inspect.signature(getattr(keras_tuner.HyperParameters, kind))


def _bind_own_arguments(kind: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    common = {name: value for name, value in kwargs.items() if name in ("default", "parent_name", "parent_values")}
    others = {name: value for name, value in kwargs.items() if name not in common}
    return {**inspect.signature(QUESTIONS[kind].declare).bind(*args, **others).arguments, **common}


def make_hyperparameter(kind: str, name: str, arguments: Mapping[str, Any], conditions: Sequence[Any]) -> Any:
    """Return KerasTuner's object for a call of the question method `kind`.

    Args:
        name: the full name, with its scopes.
        arguments: by name, without name and parents.
        conditions: the conditions that are open at the call.

    Raises:
        ValueError, TypeError: KerasTuner refuses the arguments.
    """
    if kind == "Choice":
        return _make_choice(name, **arguments, conditions=list(conditions))
    if hasattr(keras_tuner.HyperParameters, kind):
        return getattr(kt, kind)(name=name, **arguments, conditions=list(conditions))
    return OwnHyperParameter(kind, name, arguments, list(conditions))


def _make_choice(name: str, values: Any, ordered: Any = None, default: Any = None, conditions: Any = None) -> Any:
    if isinstance(values, (list, tuple, np.ndarray)):
        values = [plain(value) for value in values]
    cls = kt.Choice
    if isinstance(values, list) and values and all(isinstance(value, bool) for value in values):
        cls = _Booleans
    elif isinstance(values, list) and None in values:
        cls = _Optionals
    return cls(name=name, values=values, ordered=ordered, default=plain(default), conditions=conditions)


class OwnHyperParameter(kt.HyperParameter):  # type: ignore[misc]
    """A hyperparameter of a kind that KerasTuner does not have.

    Attributes:
        domain: its values.
    """

    def __init__(self, kind: str, name: str, arguments: Mapping[str, Any], conditions: list[Any]) -> None:
        others = {argument: value for argument, value in arguments.items() if argument != "default"}
        self.domain = QUESTIONS[kind].declare(**others)
        default = arguments.get("default")
        if default is not None and not self.domain.contains(default):
            raise ValueError(f"the default should be in {self.domain}, and is {default!r}")
        super().__init__(name, self.domain.at(0.0) if default is None else default, conditions)

    @property
    def values(self) -> list[Value]:
        return [self.domain.value(index) for index in range(self.domain.size or 0)]

    def prob_to_value(self, prob: float) -> Value:
        return self.domain.at(prob)

    def value_to_prob(self, value: Value) -> float:
        return self.domain.unit(value)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"name": self.name, "conditions": config["conditions"], "value": self.default}


# KerasTuner's configs name the class, and KerasTuner must read them.
OwnHyperParameter.__name__ = "Fixed"


class _Listed(kt.Choice):  # type: ignore[misc]
    """A choice among values that KerasTuner would change or refuse. It has no order."""

    def __init__(self, name: str, values: list[Any], theirs: list[Any], default: Any, **kwargs: Any) -> None:
        super().__init__(name, theirs, False, **kwargs)
        self._own_values, self._own_default = list(values), default

    @property
    def values(self) -> list[Any]:
        return self._own_values

    @property
    def default(self) -> Any:
        return self._own_default

    def prob_to_value(self, prob: float) -> Value:
        return parameter_of(self).domain.at(prob)

    def value_to_prob(self, value: Value) -> float:
        return parameter_of(self).domain.unit(value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "values": self.values}


class _Booleans(_Listed):
    """A choice among booleans, which stay booleans."""

    def __init__(self, name: str, values: list[bool], ordered: Any = None, default: Any = None, **kwargs: Any) -> None:
        if default is not None and default not in values:
            raise ValueError(f"the default value should be one of the choices, and is {default!r}")
        super().__init__(name, values, values, values[0] if default is None else bool(default), **kwargs)


class _Optionals(_Listed):
    """A choice with None among its values, which KerasTuner refuses. Its default is None."""

    def __init__(self, name: str, values: list[Any], ordered: Any = None, default: Any = None, **kwargs: Any) -> None:
        others = [value for value in values if value is not None]
        if ordered:
            raise ValueError("a choice with None among its values has no order: leave ordered out")
        if default is not None and default not in others:
            raise ValueError(f"the default should be one of the choices, and is {default!r}")
        super().__init__(name, values, others or [None], default, **kwargs)


_Booleans.__name__ = _Optionals.__name__ = "Choice"


# Conditions -----------------------------------------------------------------------------------------------------------


def condition_on(name: str, parent_values: Any) -> Any:
    """Return KerasTuner's condition that the parameter `name` has one of `parent_values`.

    Raises:
        ValueError, TypeError: there are no values, or KerasTuner refuses one.
    """
    if parent_values is None or (isinstance(parent_values, (list, tuple)) and not parent_values):
        raise ValueError("parent_values must hold at least one value")
    values = list(parent_values) if isinstance(parent_values, (list, tuple)) else [parent_values]
    others = [value for value in values if value is not None]
    # The class of conditions has no public name, so a container of KerasTuner's makes one.
    container = keras_tuner.HyperParameters()
    container.Fixed(name, 0)
    with container.conditional_scope(name, others or ["None"]):
        container.Fixed(f"{name} ", 0)
    condition = container.space[-1].conditions[-1]
    if None in values:  # KerasTuner refuses None
        condition.values = [plain(value) for value in values]
    return condition
