"""The study that a command reads: the one that is named, that of a space file, or the newest."""

from __future__ import annotations

from pathlib import Path

from search.cli.output import say
from search.errors import SearchError, StudyError
from search.study import journal, paths
from search.study.records import Header


def find_name(name: str | None, runs: str) -> str:
    """Return the name of the study that the user means.

    Args:
        name: a study's name; a space file, for the newest study that searched it; None for the newest of all.
        runs: the folder of the studies.

    Raises:
        StudyError: no study was begun in `runs`, or none of the space file.
    """
    known = paths.study_names(runs)
    if name is not None and (not name.endswith(".py") or name in known):
        return name
    if not known:
        raise StudyError(f"there is no study in {Path(runs).absolute()}: begin one with search run SPACE.py")
    if name is None:
        say(f"study {known[0]}, the newest in {runs}")
        return known[0]
    file = Path(name).absolute()
    found = next((study for study in known if _source(study, runs) == file), None)
    if found is None:
        raise StudyError(f"no study in {Path(runs).absolute()} searched {name}: there are {', '.join(known[:20])}")
    say(f"study {found}, the newest of {name}")
    return found


def _source(study: str, runs: str) -> Path | None:
    """Return the space file of a study; None if it has none, or its journal cannot be read."""
    try:
        header = next(journal.read(paths.StudyPaths.of(runs, study).journal)).record
    except (StopIteration, SearchError, OSError):
        return None
    return Path(header.source) if isinstance(header, Header) and header.source else None
