"""The outcome of a segment by the exception that ended it."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

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
        (caused(SpaceError("x"), OSError(errno.EDQUOT, "y")), "no_space"),
        (caused(SpaceError("x"), Unavailable("storage s3://b does not answer")), "no_space"),
        (SystemExit(3), "lost"),
    ],
    ids=repr,
)
def test_the_outcome_follows_from_the_exception(error: BaseException, outcome: Outcome, tmp_path: Path) -> None:
    found, text = classify_failure(error, "space.py:3: x", tmp_path)
    assert found == outcome
    assert "space.py:3: x" in text


@pytest.mark.parametrize(
    ("file", "free", "outcome"),
    [
        (None, 1 << 40, "raised"),
        (None, 1 << 20, "no_space"),
        ("checkpoint-0.npz", 1 << 40, "no_space"),
        ("/proc/batches", 1 << 20, "raised"),  # a disk of its own, as /dev/shm is
    ],
)
def test_a_full_disk_is_the_studys_or_another_one(
    file: str | None, free: int, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    error = OSError(errno.ENOSPC, "No space left on device", *([] if file is None else [str(tmp_path / file)]))
    assert classify_failure(error, "x", tmp_path / "trials" / "0001")[0] == outcome
    # TensorFlow and HDF5 put the system's words into their own errors.
    if file is None:
        assert classify_failure(RuntimeError("No space left on device"), "x", tmp_path)[0] == outcome
