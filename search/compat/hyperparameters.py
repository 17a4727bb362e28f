"""KerasTuner's `HyperParameters`, made of the parameters and values of a trial.

`search.worker.hyperparameters` converts the other way. Public names of KerasTuner suffice here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras_tuner

from search.space.domain import Domain, Parameter, Value
from search.worker.hyperparameters import condition_on, make_hyperparameter

__all__ = ["LISTED", "fits_keras_tuner", "to_keras_tuner"]

LISTED = 10_000
"""The most values of a kind that KerasTuner does not have, with which it becomes a choice."""


def to_keras_tuner(parameters: Iterable[Parameter], values: Mapping[str, Value]) -> keras_tuner.HyperParameters:
    """Return KerasTuner's object with a space and the values of one trial.

    Args:
        parameters: the space, parents before the parameters that depend on them. If several have the same key, the last
            one counts.
        values: the trial's values by name. An active parameter without one has its default, as in KerasTuner.

    Returns:
        A new `HyperParameters`: its `space`, `values`, `is_active`, `get` and `get_config` are KerasTuner's own. It may
        seed a tuner. A parameter of a kind that KerasTuner does not have is a choice among its values. A parameter
        that KerasTuner cannot have (`fits_keras_tuner`) is a value only.

    Example:
        ::

            from search.compat.hyperparameters import to_keras_tuner
            from search.plugins import Domain, Parameter

            hp = to_keras_tuner([Parameter("units", Domain("int", 8, 64, step=8), default=8)], {"units": 32})
            assert hp.get("units") == 32
    """
    hps = keras_tuner.HyperParameters()
    hps.values = dict(values)
    known = {parameter.key: parameter for parameter in parameters}
    hps.merge([_object(parameter) for parameter in known.values() if fits_keras_tuner(parameter)], overwrite=False)
    return hps


def fits_keras_tuner(parameter: Parameter) -> bool:
    """Return whether KerasTuner can have `parameter`.

    It refuses None, among the values of a parameter and of a condition. Of a kind that it does not have, it can have
    `LISTED` values at most.
    """
    domain = parameter.domain
    if None in domain.values or any(None in condition.values for condition in parameter.conditions):
        return False
    return domain.kind in _ARGUMENTS or (domain.size is not None and domain.size <= LISTED)


def _object(parameter: Parameter) -> Any:
    """Return KerasTuner's object for `parameter`."""
    kind, arguments = _call(parameter)
    conditions = [condition_on(condition.name, list(condition.values)) for condition in parameter.conditions]
    return make_hyperparameter(kind, parameter.name, arguments, conditions)


def _call(parameter: Parameter) -> tuple[str, dict[str, Any]]:
    """Return the method of `hp` that asks for `parameter`, and its arguments after the name."""
    domain, default = parameter.domain, parameter.default
    if domain.kind in _ARGUMENTS:
        method, arguments = _ARGUMENTS[domain.kind]
        return method, {**arguments(domain), **({} if domain.is_fixed else {"default": default})}
    values = [domain.value(index) for index in range(domain.size or 0)]
    return "Choice", {"values": values, "ordered": False, "default": default}


def _range(domain: Domain) -> dict[str, Any]:
    return {"min_value": domain.low, "max_value": domain.high, "step": domain.step, "sampling": domain.sampling}


_ARGUMENTS: Mapping[str, tuple[str, Callable[[Domain], dict[str, Any]]]] = {
    "int": ("Int", _range),
    "float": ("Float", _range),
    "choice": ("Choice", lambda domain: {"values": list(domain.values), "ordered": domain.ordered}),
    "boolean": ("Boolean", lambda domain: {}),
    "fixed": ("Fixed", lambda domain: {"value": domain.values[0]}),
}
"""By kind of domain, the method of `hp`, and its arguments except name and default."""
