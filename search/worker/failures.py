"""What an exception says of memory and disk: a trial that met a shortage has not failed by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from search.study.records import Outcome

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""Classes of TensorFlow's and PyTorch's, by name: no framework is imported for it."""


def classify(error: BaseException, description: str) -> tuple[Outcome, str]:
    """How a segment ended that raised `error`: its outcome, and `description`, one line, with what that lacks."""
    chain = list(_chain(error))
    if any(map(_is_no_space, chain)):
        return "no_space", f"the disk is full: {description}"
    if any(map(_is_out_of_memory, chain)):
        return "no_memory", f"out of memory: {description}"
    if isinstance(error, SystemExit):
        # As if the process had ended, which the user's code wanted.
        return "lost", f"its code ended the process: {description}"
    return "failed", description


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it came of."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _is_no_space(error: BaseException) -> bool:
    # TensorFlow and HDF5 put the system's words into errors of their own.
    return (isinstance(error, OSError) and error.errno in _NO_SPACE) or "No space left on device" in _text(error)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in _OUT_OF_MEMORY:
        return True
    # JAX's error is of one class for everything; PyTorch's for the processor's memory is a RuntimeError.
    text = _text(error)
    return text.startswith("RESOURCE_EXHAUSTED") or "can't allocate memory" in text


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""
