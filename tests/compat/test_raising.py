"""Our errors are also those that a script for KerasTuner catches."""

from __future__ import annotations

import keras_tuner
import pytest

from search.compat.raising import as_kerastuner
from search.errors import NoResult, OptionError, SearchError, SpaceError, StudyError


@pytest.mark.parametrize(
    ("raised", "also"),
    [
        (OptionError("max_trials is 0: it must be at least 1"), ValueError),
        (StudyError("no study 'a'"), RuntimeError),
        (NoResult("no trial has an objective"), RuntimeError),
        (SearchError("3 trials failed in a row, the last one with: space.py:3: ValueError: no"), RuntimeError),
        (SpaceError("space.py:3: ValueError: no such layer"), ValueError),
        (SpaceError("space.py:3: TypeError: no such argument"), TypeError),
        (SpaceError("space.py:3: KeyError: 'units'"), RuntimeError),
        (SpaceError("fit returned a str: return a History"), keras_tuner.errors.FatalTypeError),
        (SpaceError("trial 0: FatalValueError: expired: correct the cause"), keras_tuner.errors.FatalValueError),
        (SpaceError("trial 0: FatalRuntimeError: ValueError"), keras_tuner.errors.FatalRuntimeError),
        (SpaceError("trial 0: FatalError: expired"), keras_tuner.errors.FatalError),
    ],
)
def test_an_error_is_kerastuners_too(raised: SearchError, also: type[Exception]) -> None:
    cause = KeyError("cause")
    raised.__cause__ = cause
    with pytest.raises(also) as caught, as_kerastuner():
        raise raised
    assert isinstance(caught.value, type(raised))
    assert type(caught.value).__name__ == type(raised).__name__
    assert str(caught.value) == str(raised)
    assert caught.value.__cause__ is cause


def test_an_error_that_passes_twice_stays_as_it_is() -> None:
    with pytest.raises(OptionError) as inner, as_kerastuner():
        raise OptionError("no")
    with pytest.raises(OptionError) as outer, as_kerastuner():
        raise inner.value
    assert outer.value is inner.value


def test_other_errors_pass() -> None:
    with pytest.raises(KeyboardInterrupt), as_kerastuner():
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), as_kerastuner():
        _ = 1 / 0
