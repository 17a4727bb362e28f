"""The files that callbacks write. Each callback is redirected to its trial's own folder, so no two trials share files.

Only Keras's classes are redirected. A user's own class asks `search.trial_dir()` for the folder.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
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


def redirect_callbacks(callbacks: Sequence[Any], folder: Path, notice: Callable[[str], None]) -> list[Any]:
    """Redirect the callbacks that write files into `folder`, and return the callbacks to train with.

    A relative path stays relative to `folder`, and an absolute one loses its root. The last part of a URL moves into a
    folder of the trial's beside it.

    Args:
        folder: the folder of a trial's execution.
        notice: tells the user once about a change to a callback.
    """
    kept = []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            # It would take the training back to the start of an earlier segment.
            notice("BackupAndRestore is left out: the search itself keeps what a trial needs to go on")
            continue
        kept.append(callback)
        name = next((name for cls, name in _PATHS if isinstance(callback, cls)), None)
        if name is None:
            continue
        written = str(getattr(callback, name))
        own = _path_within(written, folder)
        if own == written:
            continue
        setattr(callback, name, own)
        shown = own if "://" in own else Path(own).relative_to(folder)
        notice(f"{type(callback).__name__} writes to {shown} in each trial's own folder, in place of {written}")
    return kept


def resume_outputs(callbacks: Sequence[Any], epochs: int) -> None:
    """Make the callbacks continue the files of earlier segments, cut to the first `epochs` epochs."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            if epochs and path.exists():
                _drop_epochs(path, callback.sep, epochs)
                callback.append = True


def _path_within(written: str, folder: Path) -> str:
    scheme, separator, rest = written.partition("://")
    if separator:
        head, _, tail = rest.rstrip("/").rpartition("/")
        # runs/<study>/trials/<number>[/execution-<n>]
        own = "/".join(folder.parts[folder.parts.index("trials") - 1 :]) if "trials" in folder.parts else folder.name
        return f"{scheme}://{head}/{own}/{tail}"
    path = Path(written)
    if path.is_relative_to(folder):
        return written
    return str(folder.joinpath(*(part for part in path.parts if part not in (path.anchor, ".."))))


def _drop_epochs(path: Path, delimiter: str, epochs: int) -> None:
    """Drop the lines of the epochs (from 0) from `epochs` on, which are trained again."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    kept = [row for row in rows if not (row and row[0].isdecimal() and int(row[0]) >= epochs)]
    if len(kept) < len(rows):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(kept)
