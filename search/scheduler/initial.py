"""Initial configurations: those that the user wants tried before any is drawn, and those added to a running search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from search.space.domain import Parameter, Value
from search.study.records import ConfigurationAdded, Record, SegmentRequested
from search.study.study import Study


class InitialConfigurations:
    """The initial configurations, of which each is tried by one trial, over all resumes. A fold of the journal.

    Args:
        configurations: values by name, in the order of trying. A value that one lacks is drawn. Those that the user
            adds later come after them.
    """

    def __init__(self, configurations: Sequence[Mapping[str, Value]] = ()) -> None:
        self._configurations = configurations
        self._added: dict[str, Mapping[str, Value]] = {}
        """By their text, those that were added and that no trial has tried."""
        self._tried: set[str] = set()

    def apply(self, record: Record) -> None:
        """Take in a record."""
        if isinstance(record, SegmentRequested) and record.initial_values:
            text = _to_text(record.initial_values)
            self._tried.add(text)
            self._added.pop(text, None)
        elif isinstance(record, ConfigurationAdded):
            self._added[_to_text(record.values)] = record.values

    def next(self, *, added: bool = False) -> Mapping[str, Value]:
        """Return the next configuration to try; empty if there is none.

        Args:
            added: leave out those that the search began with.
        """
        return next(iter([*([] if added else self.untried()), *self.added]), {})

    def untried(self) -> Iterator[Mapping[str, Value]]:
        """Yield the configurations of the search's beginning that no trial has tried, in order."""
        return (values for values in self._configurations if _to_text(values) not in self._tried)

    @property
    def added(self) -> list[Mapping[str, Value]]:
        """The configurations that were added later and that no trial has tried, in order."""
        return list(self._added.values())

    def is_known(self, values: Mapping[str, Value]) -> bool:
        """Return whether these initial values were tried, or wait to be."""
        text = _to_text(values)
        return text in self._tried or text in self._added or text in map(_to_text, self._configurations)


def untried_added(study: Study) -> list[Mapping[str, Value]]:
    """Return the configurations that were added to a running search and that no trial has tried, in order."""
    tried = {_to_text(trial.values.initial) for trial in study.trials.values()} if study.added else set()
    return [values for values in study.added if _to_text(values) not in tried]


def domain_error(values: Mapping[str, Value], parameter: Parameter) -> str | None:
    """Return a line that says why `parameter` cannot have its initial value; None if it can, or has none.

    Args:
        values: an initial configuration.
        parameter: as a model factory asks for it.
    """
    if parameter.name not in values or parameter.domain.contains(values[parameter.name]):
        return None
    return f"try_first gives {parameter.name} the value {values[parameter.name]!r}, and it takes {parameter.domain}"


def value_in_domain(values: Mapping[str, Value], parameter: Parameter) -> Value:
    """Return the initial value of `parameter` as its domain has it: 1 for a float is 1.0, 0.6 the third step of 0.2."""
    value, domain = values[parameter.name], parameter.domain
    if domain.size is not None:
        return domain.value(domain.index(value))
    assert isinstance(value, (int, float))
    return float(value)


def _to_text(values: Mapping[str, Value]) -> str:
    """Return a text that differs for different configurations: 1, 1.0 and true are three values."""
    return json.dumps(values, sort_keys=True)
