"""The classification of exceptions that end a segment.

By a lack of memory, of space on the study's disk, or if its storage does not answer, a trial has not failed. If
another disk is full, to which the user's code writes, it has: the study can go on. By `search.Infeasible`,
the user's code refuses a trial's values. KerasTuner's `FailedTrialError` gives a trial up, its `FatalError` the search.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_tuner.errors import FailedTrialError, FatalError

from search.errors import Infeasible, SearchError, Unavailable
from search.study.records import Outcome

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""Exception classes of TensorFlow and PyTorch, by name, so that neither need be imported."""


_LITTLE_SPACE = 16 << 20
"""Bytes that are free on a full disk at most: what could not be written was larger."""


def classify_failure(error: BaseException, description: str, folder: Path) -> tuple[Outcome, str]:
    """Return the outcome of a segment that raised `error`, and the one-line `description`, completed.

    Args:
        folder: the trial's, on the study's disk.
    """
    if isinstance(error, Infeasible):
        return "infeasible", _text(error) or "its code gave no reason"
    if isinstance(error, FatalError):
        return "fatal", description
    if isinstance(error, FailedTrialError):
        return "failed", description
    chain = list(_chain(error))
    if any(_is_no_space(each) and _is_of_disk(each, folder) for each in chain):
        return "no_space", f"the disk is full: {description}: make room on the disk, and resume"
    if any(isinstance(each, Unavailable) for each in chain):
        return "no_space", f"{description}: resume when it answers"
    if any(map(_is_out_of_memory, chain)):
        return "no_memory", f"out of memory: {description}"
    if isinstance(error, SystemExit):
        # The user's code wanted the process to end.
        return "lost", f"its code ended the process: {description}"
    # Our own checks would refuse the same once more.
    return "failed" if isinstance(error, SearchError) else "raised", description


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _is_no_space(error: BaseException) -> bool:
    # TensorFlow and HDF5 put the system's message into their own errors.
    return (isinstance(error, OSError) and error.errno in _NO_SPACE) or "No space left on device" in _text(error)


def _is_of_disk(error: BaseException, folder: Path) -> bool:
    """Return whether the full disk is that of `folder`, told by the error's file or by the disk's free space."""
    names = [name for name in (getattr(error, "filename", None), getattr(error, "filename2", None)) if name]
    try:
        disk = _existing(folder).stat().st_dev
        if any(isinstance(name, (str, os.PathLike)) for name in names):
            return any(_existing(Path(os.fspath(name))).stat().st_dev == disk for name in names)
        if isinstance(error, OSError) and error.errno == errno.EDQUOT:
            return True  # a quota does not show in a disk's free space
        return shutil.disk_usage(_existing(folder)).free < _LITTLE_SPACE
    except OSError:
        return True  # the study's disk is not in order, whatever else is


def _existing(path: Path) -> Path:
    """Return the path, or its nearest folder that exists."""
    return next((each for each in (path, *path.absolute().parents) if each.exists()), path)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in _OUT_OF_MEMORY:
        return True
    # JAX has one class for all errors. PyTorch raises a RuntimeError if main memory runs out.
    text = _text(error)
    return text.startswith("RESOURCE_EXHAUSTED") or "can't allocate memory" in text


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""
