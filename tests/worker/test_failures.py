"""The outcome of a segment by the exception that ended it."""

from __future__ import annotations

import errno

import pytest
from keras_tuner import errors as theirs

from search.errors import SpaceError, Unavailable
from search.study.records import Outcome
from search.worker.failures import classify_failure


class Mine(theirs.FatalError):  # type: ignore[misc]
    """A fatal error of the user's."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (theirs.FatalError("x"), "fatal"),
        (theirs.FatalValueError("x"), "fatal"),
        (theirs.FatalTypeError("x"), "fatal"),
        (theirs.FatalRuntimeError("x"), "fatal"),
        (Mine("x"), "fatal"),
        (theirs.FailedTrialError("x"), "failed"),
        (SpaceError("x"), "failed"),
        (ValueError("x"), "raised"),
        (RuntimeError("x"), "raised"),
        (caused(ValueError("x"), theirs.FatalError("y")), "raised"),
        (caused(theirs.FailedTrialError("x"), MemoryError()), "failed"),
        (caused(theirs.FatalError("x"), OSError(errno.ENOSPC, "y")), "fatal"),
        (caused(ValueError("x"), MemoryError()), "no_memory"),
        (caused(SpaceError("x"), OSError(errno.ENOSPC, "y")), "no_space"),
        (caused(SpaceError("x"), Unavailable("storage s3://b does not answer")), "no_space"),
        (SystemExit(3), "lost"),
    ],
    ids=repr,
)
def test_the_outcome_follows_from_the_exception(error: BaseException, outcome: Outcome) -> None:
    found, text = classify_failure(error, "space.py:3: x")
    assert found == outcome
    assert "space.py:3: x" in text
