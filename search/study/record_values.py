"""The check of a record's values: kinds and bounds, by the annotations of `search.study.records`.

A line with a right checksum may still have been written by another program. Whoever reads a study relies on these
checks: each number fits in the places where numbers are kept, and no value takes much memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from math import isfinite
from typing import Any, get_args

from search.space.domain import Domain, Parameter
from search.study.records import Outcome, ResultOutcome
from search.study.trial import Direction, EndState, Objective, State

__all__ = ["LARGEST", "LARGEST_TIME", "check_parameter", "checks_of"]

LARGEST = 2**31 - 1
"""The largest number of a trial, an epoch, a slot, …; `search.study.history` packs them into 4 bytes."""

LARGEST_SIZE = 2**63 - 1
SIZES = frozenset(("weight_count", "bytes", "peak_device_memory"))
"""Fields that count bytes or weights."""

LARGEST_NUMBER = 10**300
"""A larger whole number may have no float beside it."""

LARGEST_TIME = 1e11
"""Seconds, some three thousand years: a later time has no date in every time zone."""

Check = Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SIZE


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < LARGEST_NUMBER)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and isfinite(value)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= LARGEST_TIME


def _is_scalar(value: Any) -> bool:
    """Return whether `value` can be a hyperparameter's. A choice may be infinite."""
    return value is None or type(value) in (str, bool) or _is_number(value)


def _of(kind: type) -> Check:
    return lambda value: type(value) is kind


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _among(literal: Any) -> Check:
    texts = frozenset(get_args(literal))
    return lambda value: type(value) is str and value in texts


def _all(check: Check) -> Check:
    return lambda value: type(value) is tuple and all(map(check, value))


def _by_name(check: Check) -> Check:
    return lambda value: type(value) is dict and all(map(check, value.values()))


_TEXT_OPTIONS = ("backend", "executor", "gpus", "keras_backend", "parent_run", "storage", "tracking_uri", "warm_start")


def _are_options(value: Any) -> bool:
    """Return whether `value` can be the options of a process. Numbers among them are checked where they are used."""
    if type(value) is not dict or not all(map(_or_none(_of(str)), map(value.get, _TEXT_OPTIONS))):
        return False
    tags = value.get("tag") or []
    return type(tags) is list and all(type(tag) is str for tag in tags)


_CHECKS: dict[str, Check] = {
    "int": _is_whole,
    "int | None": _or_none(_is_whole),
    "float": _is_duration,
    "float | None": _or_none(_is_finite),
    "bool": _of(bool),
    "str": _of(str),
    "str | None": _or_none(_of(str)),
    "Value": _is_scalar,
    "Parameter": lambda value: isinstance(value, Parameter),
    "tuple[Parameter, ...]": _all(lambda value: isinstance(value, Parameter)),
    "tuple[Objective, ...]": lambda value: type(value) is tuple and bool(value) and all(map(_is_objective, value)),
    "tuple[str, ...]": _all(_of(str)),
    "tuple[float, ...]": _all(_is_number),
    "Mapping[str, Any]": _of(dict),
    "Mapping[str, str]": _by_name(_of(str)),
    "Mapping[str, Value]": _by_name(_is_scalar),
    "Mapping[str, float]": _of(dict),  # numbers already, as they were decoded
    "Mapping[str, Mapping[str, str]]": _by_name(_by_name(_of(str))),
    "EndState": _among(EndState),
    "State": _among(State),
    "Outcome": _among(Outcome),
    "ResultOutcome": _among(ResultOutcome),
}
"""The check of a value, by the annotation of its field."""


def _is_objective(value: Any) -> bool:
    return isinstance(value, Objective) and type(value.name) is str and value.direction in get_args(Direction)


def checks_of(cls: type[Any]) -> tuple[tuple[str, ...], tuple[tuple[str, Check], ...]]:
    """Return the checks of the fields of a record's class: the names of its whole numbers, and checks by name.

    Whole numbers are by far the most values, and looked at without a call.
    """
    found = {field.name: str(field.type) for field in fields(cls)}
    own: dict[str, Check] = {
        name: _is_size if found[name] == "int" else _or_none(_is_size) for name in SIZES & found.keys()
    }
    if "options" in found and "backend" not in found:
        own["options"] = _are_options
    whole = tuple(name for name, annotation in found.items() if annotation == "int" and name not in own)
    others = tuple(
        (name, own.get(name, _CHECKS[annotation])) for name, annotation in found.items() if name not in whole
    )
    return whole, others


def check_parameter(parameter: Parameter) -> None:
    """Raise ValueError if a journal's hyperparameter is none that can be searched."""
    domain, values = parameter.domain, [parameter.default]
    for condition in parameter.conditions:
        values += [condition.name, *condition.values]
    if type(parameter.name) is not str or not all(map(_is_scalar, values)) or not _is_sound(domain):
        raise ValueError(f"its hyperparameter {str(parameter.name)[:40]!r} has no such values")


def _is_sound(domain: Domain) -> bool:
    """Return whether values can be drawn from `domain`."""
    numbers = (domain.low, domain.high) if domain.step is None else (domain.low, domain.high, domain.step)
    if not all(map(_is_finite, numbers)) or not all(map(_is_scalar, domain.values)) or type(domain.ordered) is not bool:
        return False
    try:
        for u in (0.0, 0.5):
            domain.contains(domain.at(u))
        return domain.size != 0 and str(domain) != ""
    except Exception:  # a forged domain may break any step of these
        return False
