"""The scratch folder of a worker, for the files of trials that lie elsewhere.

Each process has its own, and holds a lock on it as long as it lives, its children included. So the folder of a process
that was killed can be told. The driver deletes it at its end, or the next process of this user on the machine. The lock
is on the folder itself: a deletion that was interrupted cannot take a lock file away before the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["delete_abandoned", "local_folder", "prune", "remove_scratch"]

_PREFIX = "search-scratch-"

_removing = threading.Lock()
_scratch: list[tuple[int, Path, int]] = []
"""The process, its folder and the descriptor of its lock; empty before the first use. A fork has its parent's."""


def local_folder(folder: str) -> Path:
    """Return the place in this process's scratch folder for a trial's `folder`: with the same last three parts."""
    return Path(_scratch_folder(), *Path(folder).parts[-3:])


def prune(folder: Path, trials: Collection[int]) -> None:
    """Delete the files of all trials beside `folder`, a trial's place in the scratch folder, but those of `trials`."""
    kept = {folder.name, *(f"{trial:04d}" for trial in trials)}
    with suppress(OSError):
        for other in folder.parent.iterdir():
            if other.name not in kept:
                shutil.rmtree(other, ignore_errors=True)


def remove_scratch() -> None:
    """Delete this process's scratch folder, if it has one. Another thread that asks for the same waits."""
    with _removing:
        if _scratch and _scratch[-1][0] == os.getpid():
            _, folder, lock = _scratch.pop()
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def delete_abandoned() -> None:
    """Delete the scratch folders of this user's processes that have died."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _scratch_folder() -> Path:
    if not _scratch or _scratch[-1][0] != os.getpid():
        delete_abandoned()
        base = Path(tempfile.gettempdir())
        # Nobody may take a folder without a lock yet for an abandoned one.
        new = Path(tempfile.mkdtemp(dir=base, prefix=f".{_PREFIX}"))
        lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # NFS locks no folders: nobody deletes this one but its own process
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = base / new.name.removeprefix(".")
        new.rename(folder)
        _scratch[:] = [(os.getpid(), folder, lock)]
    return _scratch[-1][1]
