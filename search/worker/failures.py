"""The classification of exceptions that end a segment.

By a lack of memory or disk space, or if its storage does not answer, a trial has not failed. By `search.Infeasible`,
the user's code refuses a trial's values. KerasTuner's `FailedTrialError` gives a trial up, its `FatalError` the search.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from keras_tuner.errors import FailedTrialError, FatalError

from search.errors import Infeasible, SearchError, Unavailable
from search.study.records import Outcome

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""Exception classes of TensorFlow and PyTorch, by name, so that neither need be imported."""


def classify_failure(error: BaseException, description: str) -> tuple[Outcome, str]:
    """Return the outcome of a segment that raised `error`, and the one-line `description`, completed."""
    if isinstance(error, Infeasible):
        return "infeasible", _text(error) or "its code gave no reason"
    if isinstance(error, FatalError):
        return "fatal", description
    if isinstance(error, FailedTrialError):
        return "failed", description
    chain = list(_chain(error))
    if any(map(_is_no_space, chain)):
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
