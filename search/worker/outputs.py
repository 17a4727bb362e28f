"""Where callbacks write: each into its trial's own folder, whatever path it was given, so that no two trials write one
file. What a user's own class writes is its own care: `search.trial_dir()` says where."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

__all__ = ["go_on", "keep_apart"]

_PATHS = (
    (keras.callbacks.ModelCheckpoint, "filepath"),
    (keras.callbacks.CSVLogger, "filename"),
    (keras.callbacks.TensorBoard, "log_dir"),
    *([(keras.callbacks.OrbaxCheckpoint, "directory")] if hasattr(keras.callbacks, "OrbaxCheckpoint") else []),
)
"""Keras's callbacks that write, and the attribute that says where."""


def keep_apart(callbacks: Sequence[Any], folder: Path, notice: Callable[[str], None]) -> list[Any]:
    """Point the callbacks that write into `folder`, that of a trial's execution. Returns those to train with.

    A relative path stays what it is under `folder`, an absolute one loses its root; of a URL, the last part goes into
    a folder of the trial's there.

    Args:
        notice: tells the user, once, of what is not as the user has written it.
    """
    kept = []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            # It would take a training back to where another segment of it began.
            notice("BackupAndRestore is left out: the search itself keeps what a trial needs to go on")
            continue
        kept.append(callback)
        name = next((name for cls, name in _PATHS if isinstance(callback, cls)), None)
        if name is None:
            continue
        given = str(getattr(callback, name))
        own = _within(given, folder)
        if own == given:
            continue
        setattr(callback, name, own)
        shown = own if "://" in own else Path(own).relative_to(folder)
        notice(f"{type(callback).__name__} writes to {shown} in each trial's own folder, in place of {given}")
    return kept


def go_on(callbacks: Sequence[Any], epochs: int) -> None:
    """Have the callbacks go on with what an earlier segment wrote, of the first `epochs` epochs."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            if epochs and path.exists():
                _cut(path, callback.sep, epochs)
                callback.append = True


def _within(given: str, folder: Path) -> str:
    scheme, separator, rest = given.partition("://")
    if separator:
        head, _, tail = rest.rstrip("/").rpartition("/")
        # runs/<study>/trials/<number>[/execution-<n>]
        place = "/".join(folder.parts[folder.parts.index("trials") - 1 :]) if "trials" in folder.parts else folder.name
        return f"{scheme}://{head}/{place}/{tail}"
    path = Path(given)
    if path.is_relative_to(folder):
        return given
    return str(folder.joinpath(*(part for part in path.parts if part not in (path.anchor, ".."))))


def _cut(path: Path, delimiter: str, epochs: int) -> None:
    """Drop the lines of epochs that are trained again."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    kept = [row for row in rows if not (row and row[0].isdecimal() and int(row[0]) >= epochs)]
    if len(kept) < len(rows):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(kept)
