"""The hyperparameters in KerasTuner's files, as `Parameter` and values. Pure; KerasTuner is not needed.

A file holds `{"space": [{"class_name": "Int", "config": {…}}, …], "values": {…}}`. Since version 1.0.2 a
hyperparameter lists its conditions. Before, they were part of its name: `optimizer=sgd,rmsprop/momentum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.space.domain import QUESTIONS, Condition, Domain, Parameter, Value

__all__ = ["TUNER_VALUES", "SavedSpace", "read_space"]

TUNER_VALUES = frozenset(
    ("tuner/epochs", "tuner/initial_epoch", "tuner/bracket", "tuner/round", "tuner/trial_id", "tuner/previous_epochs")
)
"""Values of KerasTuner's Hyperband that are no hyperparameters."""


@dataclass(frozen=True, slots=True)
class SavedSpace:
    """The hyperparameters of a file, and their values.

    Attributes:
        parameters: all of the file, in its order.
        used: the active ones, each with its value.
        tuner: the values of `TUNER_VALUES` in the file.
    """

    parameters: tuple[Parameter, ...]
    used: tuple[tuple[Parameter, Value], ...]
    tuner: Mapping[str, Any]


def read_space(data: Mapping[str, Any]) -> SavedSpace:
    """Return the content of `hyperparameters` in an `oracle.json` or a `trial.json`.

    Raises:
        KeyError, TypeError, ValueError: KerasTuner writes no such content.
    """
    read: dict[str, list[Parameter]] = {}
    for entry in data["space"]:
        config = dict(entry["config"])
        name = str(config["name"])
        if name not in TUNER_VALUES:
            read.setdefault(name, []).append(_read_parameter(entry["class_name"], config))
    by_saved_name = {name: [_without_scopes(p, read) for p in found] for name, found in read.items()}
    values = dict(data["values"])
    tuner = {name: values.pop(name) for name in TUNER_VALUES & values.keys()}
    by_name = {found[0].name: value for name, value in values.items() if (found := by_saved_name.get(name))}
    used = []
    for name, value in values.items():
        # A factory may set a value that it never asks for. As in a search of our own, it counts as a fixed one.
        candidates = by_saved_name.get(name) or [Parameter(name, Domain("fixed", values=(value,)), value)]
        active = next((p for p in candidates if _is_active(p, by_name)), None)
        if active is not None:
            used.append(_with_value(active, value))
    return SavedSpace(tuple(p for found in by_saved_name.values() for p in found), tuple(used), tuner)


def _read_parameter(kind: str, config: dict[str, Any]) -> Parameter:
    conditions = tuple(
        Condition(each["config"]["name"], tuple(each["config"]["values"])) for each in config.get("conditions") or ()
    )
    domain = QUESTIONS[kind].declare(**_arguments(kind, config))
    default = config.get("default")
    if default is None or not domain.contains(default):
        default = domain.low if domain.is_range else domain.value(0)
    return Parameter(str(config["name"]), domain, domain.convert_default(default), conditions)


def _arguments(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the call of `hp` that has made a hyperparameter, without its name and default."""
    match kind:
        case "Choice":
            return {"values": config["values"], "ordered": config.get("ordered")}
        case "Fixed":
            return {"value": config["value"]}
        case "Boolean":
            return {}
    sampling, step = config.get("sampling") or "linear", config.get("step")
    # Before 1.2 a step was 1 by default, also of a logarithmic range, in which it means a ratio now.
    step = None if sampling != "linear" and step is not None and step <= 1 else step
    return {"min_value": config["min_value"], "max_value": config["max_value"], "step": step, "sampling": sampling}


def _without_scopes(parameter: Parameter, saved: Mapping[str, Sequence[Parameter]]) -> Parameter:
    """Return `parameter` with the conditions that its name holds. It stays as it is if its name holds none.

    Args:
        saved: all hyperparameters of the file by their names in it.
    """
    before: list[str] = []
    names: list[str] = []
    conditions: list[Condition] = []
    for part in parameter.name.split("/"):
        parent_name, sign, listed = part.partition("=")
        parent = saved.get("/".join([*before, parent_name])) if sign else None
        if parent is None:
            names.append(part)
        else:
            known = "/".join([*names, parent_name])
            conditions.append(Condition(known, _typed(listed.split(","), parent[0].domain)))
        before.append(part)
    if not conditions:
        return parameter
    return replace(parameter, name="/".join(names), conditions=(*conditions, *parameter.conditions))


def _typed(texts: Sequence[str], domain: Domain) -> tuple[Value, ...]:
    """Return values of `domain` for their texts."""
    if domain.is_range:
        return tuple(int(text) if domain.kind == "int" else float(text) for text in texts)
    return tuple(value for value in domain.values if str(value) in texts)


def _is_active(parameter: Parameter, values: Mapping[str, Value]) -> bool:
    return all(c.name in values and values[c.name] in c.values for c in parameter.conditions)


def _with_value(parameter: Parameter, value: Any) -> tuple[Parameter, Value]:
    """Return a hyperparameter and its value, as values of one domain.

    A value outside of the domain was set by the user's code, or the range was another one then. It counts as a fixed
    value.
    """
    if type(value) is float and parameter.domain.kind == "int" and value.is_integer():
        value = int(value)
    if parameter.domain.contains(value):
        return parameter, value
    return replace(parameter, domain=Domain("fixed", values=(value,)), default=value), value
