"""Configurations that a user writes down, as JSON or from Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.errors import OptionError
from search.space.domain import Value

__all__ = ["parse_configurations"]


def parse_configurations(value: Any, where: str = "--try-first") -> tuple[dict[str, Value], ...]:
    """Return the configurations that a user gives.

    Args:
        value: one or several of: a dict of values by name, JSON text of a dict or of a list of dicts, the path of a
            file with such JSON.
        where: the option or the command that takes them, for messages.

    Raises:
        OptionError: anything else.
    """
    found: list[dict[str, Value]] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        parsed = _read_json(item, where) if isinstance(item, (str, Path)) else item
        for values in parsed if isinstance(parsed, list) else [parsed]:
            if not isinstance(values, Mapping) or not values:
                raise OptionError(f'{where} is {values!r}: give values by name, such as {{"lr": 0.01}}')
            found.append({name: _plain_value(name, entry, where) for name, entry in values.items()})
    return tuple(found)


def _read_json(text: str | Path, where: str) -> Any:
    try:
        if not str(text).lstrip().startswith(("{", "[")):
            where = f"{where} {text}"
            text = Path(text).read_text()
        return json.loads(str(text), object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
    except OSError as error:
        raise OptionError(f"{where} cannot be read ({error.strerror}): give JSON, or a .json file") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f'{where} is not JSON ({error}): write it as {{"lr": 0.01}}') from None


def _without_repeats(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict. OptionError if a name is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"{where} gives {twice!r} two values in one configuration: give it one")
    return found


def _plain_value(name: Any, value: Any, where: str) -> Value:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()  # a NumPy scalar
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(name, str) or not isinstance(value, (int, float, str, bool, type(None))) or not finite:
        raise OptionError(f"{where} gives {name!r} the value {value!r}: give names, and values that hp gives")
    return value
