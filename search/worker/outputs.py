"""The files that callbacks write. Each callback is redirected to its trial's own folder, so no two trials share files.

Only Keras's classes are redirected. A user's own class asks `search.trial_dir()` for the folder.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

__all__ = ["redirect_callbacks", "resume_outputs"]

_PATHS = (
    (keras.callbacks.ModelCheckpoint, "filepath"),
    (keras.callbacks.CSVLogger, "filename"),
    (keras.callbacks.TensorBoard, "log_dir"),
    *([(keras.callbacks.OrbaxCheckpoint, "directory")] if hasattr(keras.callbacks, "OrbaxCheckpoint") else []),
)
"""Keras's callbacks that write files, each with the attribute that holds its path."""


_OWN_NAMES = re.compile(r"(log|traceback)\.txt|(checkpoint|parent|best|reference)-\d+\.npz|execution-\d+")
"""The names of the search's own files in a trial's folder; see `search.study.paths.TrialPaths`."""


def redirect_callbacks(callbacks: Sequence[Any], folder: Path, notice: Callable[[str], None]) -> list[Any]:
    """Redirect the callbacks that write files into `folder`, and return the callbacks to train with.

    A relative path stays relative to `folder`. Of an absolute one only the last part stays; if another callback has
    that name, more parts stay. The last part of a URL moves into a folder of the trial's beside it.

    Args:
        folder: the folder of a trial's execution.
        notice: tells the user once about a change to a callback.
    """
    kept = [callback for callback in callbacks if not isinstance(callback, keras.callbacks.BackupAndRestore)]
    if len(kept) < len(callbacks):
        # It would take the training back to the start of an earlier segment.
        notice("BackupAndRestore is left out: the search itself keeps what a trial needs to go on")
    writers = [(callback, name) for callback in kept if (name := _path_attribute(callback)) is not None]
    own = _own_paths([str(getattr(callback, name)) for callback, name in writers], folder)
    for callback, name in writers:
        written = str(getattr(callback, name))
        if own[written] != written:
            setattr(callback, name, own[written])
            shown = _for_any_trial(own[written], folder)
            notice(
                f"{type(callback).__name__} writes to {shown} in place of {written}: each trial has a file of its own"
            )
    return kept


def _path_attribute(callback: Any) -> str | None:
    """Return the attribute that holds the path to which a callback of Keras's writes; None if it writes none."""
    return next((name for cls, name in _PATHS if isinstance(callback, cls)), None)


def resume_outputs(callbacks: Sequence[Any], epochs: int) -> None:
    """Make the callbacks continue the files of earlier segments, cut to the first `epochs` epochs."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            if epochs and path.exists():
                _drop_epochs(path, callback.sep, epochs)
                callback.append = True


def _own_paths(written: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the path within `folder` for each written one, no two the same. Relative ones choose first."""
    own: dict[str, str] = {}
    for path in sorted(dict.fromkeys(written), key=lambda path: Path(path).is_absolute()):
        own[path] = next(each for each in _places(path, folder) if each not in own.values())
    return own


def _places(written: str, folder: Path) -> Iterator[str]:
    """Yield the places within `folder` for a written path, the best first."""
    scheme, separator, rest = written.partition("://")
    if separator:
        head, _, tail = rest.rstrip("/").rpartition("/")
        base, parts, least = f"{scheme}://{head}/{_name_of_execution(folder)}", [tail], 1
    else:
        path = Path(written)
        inside = path.is_relative_to(folder)
        relative = path.relative_to(folder) if inside else path
        base, parts = str(folder), [part for part in relative.parts if part not in (path.anchor, "..")]
        least = len(parts) if inside or not path.is_absolute() else 1
    for count in range(least, len(parts) + 1):
        if not _OWN_NAMES.fullmatch("".join(parts[-count:][:1])):
            yield "/".join([base, *parts[-count:]])
    for number in itertools.count(1):
        yield "/".join([base, f"callback-{number}", *parts])


def _name_of_execution(folder: Path) -> str:
    """Return `<study>/trials/<number>[/execution-<n>]` for the folder of an execution."""
    return "/".join(folder.parts[folder.parts.index("trials") - 1 :]) if "trials" in folder.parts else folder.name


def _for_any_trial(own: str, folder: Path) -> str:
    """Return a path in a trial's folder as all trials have it: `trials/<number>/log.csv`."""
    name = _name_of_execution(folder)
    general = re.sub(r"(.*/)?trials/\d+(/execution-\d+)?$", r"\1trials/<number>", name)
    if "://" in own:
        return own.replace(name, general)
    return str(Path(general.partition("/")[2] or general, Path(own).relative_to(folder)))


def _drop_epochs(path: Path, delimiter: str, epochs: int) -> None:
    """Drop the lines of the epochs (from 0) from `epochs` on, which are trained again."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    kept = [row for row in rows if not (row and row[0].isdecimal() and int(row[0]) >= epochs)]
    if len(kept) < len(rows):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(kept)
