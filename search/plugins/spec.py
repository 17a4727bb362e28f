"""The text by which an option names a part: `name:key=value,…` or `module:Class:key=value,…`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from search.errors import OptionError, nearest

__all__ = ["parse_arguments", "split_spec"]

_TARGET = re.compile(r"[^\W\d][\w.]*")


def split_spec(spec: str) -> tuple[str, str]:
    """Return the name of a part, `name` or `module:Class`, and the text of its arguments, "" if there are none."""
    name, _, rest = spec.partition(":")
    target, _, arguments = rest.partition(":")
    return (f"{name}:{target}", arguments) if _TARGET.fullmatch(target) else (name, rest)


def parse_arguments(text: str, allowed: Sequence[str], option: str, name: str) -> dict[str, Any]:
    """Return the arguments of a part.

    Args:
        text: `key=value,…`, with values as Python writes them; anything else is a text.
        allowed: the keys.
        option: the command-line option, for messages.
        name: the part's name, for messages.

    Raises:
        OptionError: a key is not allowed.
    """
    arguments: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in allowed:
            raise OptionError(
                f"{option} {name!r} takes no argument {key!r}: write {name}:key=value,… with keys among "
                f"{', '.join(allowed) or 'none'}.{nearest(key, allowed)}"
            )
        arguments[key] = _value(value)
    return arguments


def _value(text: str) -> Any:
    """Return the Python value that `text` writes, if a journal keeps it as it is, else the text."""
    try:
        value = ast.literal_eval(text)
        return value if json.loads(json.dumps(value, allow_nan=False)) == value else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
