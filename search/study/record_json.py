"""Records as JSON objects: `encode` turns a record into one, and `decode` turns it back.

A kind is the class's name in snake_case. Unknown and missing fields are errors; `search.study.formats` adds the
fields that an older format lacks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from search.space.domain import Parameter
from search.study.record_values import LARGEST, check_parameter, checks_of
from search.study.records import Record
from search.study.trial import Objective

__all__ = ["decode", "encode"]

_CLASSES: tuple[type[Any], ...] = Record.__args__
_KIND: dict[type[Any], str] = {cls: re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower() for cls in _CLASSES}
_BY_KIND: dict[str, type[Any]] = {kind: cls for cls, kind in _KIND.items()}
_FIELDS: dict[type[Any], tuple[str, ...]] = {cls: tuple(f.name for f in fields(cls)) for cls in _CLASSES}


def _sound(data: Any) -> Parameter:
    made = Parameter.from_json(data)
    check_parameter(made)
    return made


def _tuple(data: Any) -> Any:
    return tuple(data) if type(data) is list else data


_NOT_FINITE = ("nan", "inf", "-inf")


def _logs(data: dict[str, Any]) -> dict[str, float]:
    for name, value in data.items():
        if type(value) is not float:
            if type(value) is not int and value not in _NOT_FINITE:
                raise ValueError(f"{name} in its logs is no number")
            data[name] = float(value)
    return data


_known: dict[str, tuple[Any, list[type[Any]], Parameter]] = {}


def _parameter(data: Any) -> Parameter:
    """Decode a parameter. Each trial's lines repeat it, so all of them share one object."""
    known = _known.get(data["name"])
    if known is not None and known[0] == data and known[1] == _types(data):
        return known[2]
    made = _sound(data)
    _known[made.name] = data, _types(data), made
    return made


def _types(data: Any) -> list[type[Any]]:
    """Return the types of values that are equal in Python: 1, 1.0 and True."""
    return [type(value) for value in (data["default"], *data["domain"].get("values", ()))]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "parameter": _parameter,
    "parameters": lambda data: tuple(map(_sound, data)),
    "objectives": lambda data: tuple(Objective(*item) for item in data),
    "metrics": _tuple,
    "requirements": _tuple,
    "internals_off": _tuple,
    "curve": _tuple,
    "logs": _logs,
}
_DECODED: dict[type[Any], tuple[tuple[str, Callable[[Any], Any]], ...]] = {
    cls: tuple((name, _DECODERS[name]) for name in names if name in _DECODERS) for cls, names in _FIELDS.items()
}
_CHECKS = {cls: checks_of(cls) for cls in _CLASSES}


def _plain(item: Any) -> Any:
    if isinstance(item, Parameter):
        return item.to_json()
    return (item.name, item.direction) if isinstance(item, Objective) else item


def encode(record: Record) -> dict[str, Any]:
    """Return the record as a JSON object, with its kind under `kind`."""
    cls = type(record)
    data: dict[str, Any] = {"kind": _KIND[cls]}
    for name in _FIELDS[cls]:
        value = getattr(record, name)
        if isinstance(value, Parameter):
            value = value.to_json()
        elif isinstance(value, tuple):
            value = [_plain(item) for item in value]
        elif name == "logs":
            # JSON has no NaN and no infinity: they become strings.
            value = {key: number if math.isfinite(number) else str(number) for key, number in value.items()}
        data[name] = value
    return data


def decode(data: dict[str, Any]) -> Record:
    """Return the record that `encode` turned into `data`. `data` is changed on the way.

    Raises:
        KeyError: the kind is unknown.
        TypeError: a field is unknown or missing.
        ValueError: a value is of a wrong kind, or out of bounds.
    """
    cls = _BY_KIND[data.pop("kind")]
    for name, decoder in _DECODED[cls]:
        if name in data:
            data[name] = decoder(data[name])
    record: Record = cls(**data)
    whole, others = _CHECKS[cls]
    for name in whole:
        value = getattr(record, name)
        if type(value) is not int or not 0 <= value <= LARGEST:
            raise ValueError(f"its {name} is {_shown(value)}")
    for name, is_right in others:
        if not is_right(value := getattr(record, name)):
            raise ValueError(f"its {name} is {_shown(value)}")
    return record


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
