"""Configurations that the user wants tried before any is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from search.space.domain import Parameter, Value
from search.study.records import Record, SegmentRequested


class InitialConfigurations:
    """Follows the journal: a configuration is given to one trial, over all resumes.

    Args:
        wanted: values by name, in the order of trying; what one lacks is drawn.
    """

    def __init__(self, wanted: Sequence[Mapping[str, Value]] = ()) -> None:
        self._wanted = wanted
        self._tried: set[str] = set()

    def apply(self, record: Record) -> None:
        if isinstance(record, SegmentRequested) and record.initial_values:
            self._tried.add(_text(record.initial_values))

    def next(self) -> Mapping[str, Value]:
        """What is to be tried next; empty where all of it was."""
        return next((values for values in self._wanted if _text(values) not in self._tried), {})


def refusal(values: Mapping[str, Value], parameter: Parameter) -> str | None:
    """Why a factory that asks for `parameter` cannot have its value of `values`, in one line; None where it can."""
    if parameter.name not in values or parameter.domain.contains(values[parameter.name]):
        return None
    return f"try_first gives {parameter.name} the value {values[parameter.name]!r}, and it takes {parameter.domain}"


def value_of(values: Mapping[str, Value], parameter: Parameter) -> Value:
    """The value of `values` as the domain has it: 1 for a float is 1.0, 0.6 the third step of 0.2."""
    value, domain = values[parameter.name], parameter.domain
    if domain.size is not None:
        return domain.value(domain.index(value))
    assert isinstance(value, (int, float))
    return float(value)


def _text(values: Mapping[str, Value]) -> str:
    """What tells two configurations apart: 1, 1.0 and true are three values."""
    return json.dumps(values, sort_keys=True)
