"""Cells that run twice: the study that a search in a notebook goes on with, or the name of a new one.

The same search is one with the same code, data and options that a resume keeps, such as the seed. It goes on. Another
search under a name that is taken begins as `name-2`, `name-3` and so on. Nothing is written before that is decided.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.driver.source import Source
from search.driver.study_handle import StudyHandle
from search.options import FIELDS, PASSING, check_option
from search.space.digests import digest_files
from search.study.paths import StudyPaths

__all__ = ["Rerun", "find_rerun", "write_digests"]


@dataclass(frozen=True, slots=True)
class Rerun:
    """The study of a search in a notebook.

    Attributes:
        handle: the study; it exists if the search goes on with it.
        complete: the study has all that the search asks for.
        line: tells the user of the choice; "" for a new study under the name that was asked for.
    """

    handle: StudyHandle
    complete: bool = False
    line: str = ""


def find_rerun(
    source: Source, given: Mapping[str, Any], runs: str, name: str, refused: Mapping[str, str] | None = None
) -> Rerun:
    """Return the study that a search of `source` goes on with, or the next free name.

    Args:
        given: the options that the user gave, by name.
        name: of the study, as the user gave it or by default.
        refused: studies that are known to be of another search, each with its difference.

    Raises:
        JournalError: a study of such a name cannot be read.
    """
    first = ""
    for candidate in (name if number == 1 else f"{name}-{number}" for number in itertools.count(1)):
        handle = StudyHandle(StudyPaths.of(runs, candidate))
        if not handle.exists:
            break
        difference = (refused or {}).get(candidate) or describe_difference(source, given, handle)
        if not difference:
            return _same(handle, given)
        first = first or difference
    line = f"study {name!r} was run with {first}: this search is a new study, {candidate!r}" if first else ""
    return Rerun(handle, line=line)


def _same(handle: StudyHandle, given: Mapping[str, Any]) -> Rerun:
    end = handle.end
    if end is None or not end.complete or _asks_for_more(handle.options, given):
        return Rerun(handle, line=f"study {handle.name!r} is of this search: going on with it")
    return Rerun(
        handle,
        complete=True,
        line=f"study {handle.name!r} is of this search and complete ({end.reason}): these are its results; search anew "
        "with overwrite=True, or under another name with study='…'",
    )


def _asks_for_more(before: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether `given` has an option with another value than the last process had, beside those of `_KEPT`."""
    settled = (*PASSING, *_KEPT)
    asked = {name: value for name, value in given.items() if value is not None and name not in settled}
    return any(
        name not in FIELDS or _as_json(check_option(name, value)) != _as_json(before.get(name))
        for name, value in asked.items()
    )


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def describe_difference(source: Source, given: Mapping[str, Any], handle: StudyHandle) -> str:
    """Return the first difference of a study that exists from a search, such as "other code"; "" if there is none."""
    header = handle.header
    if bool(header.source) != (source.path is not None):
        return "a space file" if header.source else "a factory"
    changed = _changed_file(source.path, handle) if source.path is not None else _changed_parts(source, handle)
    if changed:
        return changed
    asked = {name: check_option(name, given[name]) for name in _KEPT if given.get(name) is not None}
    kept = {
        "seed": header.seed,
        "objective": header.objective.name,
        "direction": header.objective.direction,
        "keras_backend": handle.options.get("keras_backend"),
    }
    other = next((name for name, value in asked.items() if value != kept[name]), None)
    return f"{other} {kept[other]}" if other else ""


_KEPT = ("seed", "objective", "direction", "keras_backend")
"""Options that a resume cannot change."""


def _changed_file(path: Path, handle: StudyHandle) -> str:
    """Return words if the space file or a local module differs from the study's copy of it, else ""."""
    copies = sorted(file.relative_to(handle.paths.space) for file in handle.paths.space.rglob("*.py"))
    files = {str(name): path.absolute().parent / name for name in copies} | {path.name: path.absolute()}
    ordered = sorted(files.items(), key=lambda item: item[1])  # as in the study's digest
    same = all(file.is_file() for file in files.values()) and digest_files(
        tuple((name, str(file)) for name, file in ordered)
    )
    return "" if same == handle.space.digest else "other files"


def _changed_parts(source: Source, handle: StudyHandle) -> str:
    """Return words if the factory's code or its data differ from those that the study was last run with, else ""."""
    before, now = read_digests(handle.paths), source.digests()
    if not before:
        return "an earlier version of search, which could not tell one factory from another"
    return " and ".join(f"other {name}" for name, digest in now.items() if not digest or digest != before.get(name))


def read_digests(paths: StudyPaths) -> dict[str, str]:
    """Return the digests that `write_digests` wrote, {} if there are none."""
    try:
        found = json.loads(paths.factory.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_digests(source: Source, paths: StudyPaths) -> None:
    """Write the digests of a factory's code and data beside the study; of a space file, the study has a copy."""
    if source.path is not None:
        paths.factory.unlink(missing_ok=True)
    if not source.parts:
        return  # a resume has the factory that the study has
    temporary = paths.factory.with_suffix(".json.new")
    temporary.write_text(json.dumps(source.digests()))
    temporary.replace(paths.factory)
