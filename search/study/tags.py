"""The user's own tags of a study and its trials, `--tag KEY=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from search.errors import OptionError

__all__ = ["check_tags", "split_tags"]

RESERVED = ("mlflow.", "search.")
"""Prefixes of tags that MLflow and the search itself set."""

_KEY = re.compile(r"[\w\-. :/]{1,250}")
_MAX_VALUE = 5000


def check_tags(value: Any) -> tuple[str, ...]:
    """Return tags as texts `KEY=VALUE`. The later of two with one key counts; `none` drops those before it.

    Args:
        value: one such text, several, or a mapping.

    Raises:
        OptionError: a tag has another form, or a name that is reserved.
    """
    if isinstance(value, Mapping):
        items: list[Any] = [f"{key}={text}" for key, text in value.items()]
    else:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
    tags: dict[str, str] = {}
    for item in items:
        if item == "none":
            tags.clear()
            continue
        key, equals, text = str(item).partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key) or key.startswith("/") or ".." in key:
            raise OptionError(
                f"--tag {str(item)!r} is no tag: give KEY=VALUE, with a key of letters, digits, '_', '-', '.', ':' and "
                "'/', such as team=vision"
            )
        if key.lower().startswith(RESERVED):
            raise OptionError(f"--tag {key}: names that begin with mlflow. or search. are taken: give another name")
        if len(text) > _MAX_VALUE:
            raise OptionError(f"--tag {key} has {len(text)} characters: MLflow takes {_MAX_VALUE}, shorten it")
        tags[key] = text
    return tuple(f"{key}={text}" for key, text in tags.items())


def split_tags(tags: Iterable[str]) -> dict[str, str]:
    """Return tags that `check_tags` has returned, by key."""
    return {key: text for key, _, text in (tag.partition("=") for tag in tags)}
