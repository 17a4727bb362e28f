"""An oracle of KerasTuner's that shows a study: its trials, and the hyperparameters known so far.

KerasTuner's scripts read `tuner.oracle`. The object stays of its own class, so that `isinstance` and all its methods
work as before. A subclass, made for it, answers for `trials` and `hyperparameters`, and writes no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Source", "attach_view"]


class Source(Protocol):
    """The facts that a view shows; a tuner implements it."""

    def study_trials(self) -> dict[str, Any]:
        """Return the study's trials by id; the same object as long as nothing has changed."""

    def fill_space(self) -> None:
        """Add the hyperparameters known so far to the oracle, if that has not been done."""


class _View:
    """The part of the class of a viewed oracle that reads the study.

    The names with `_viewed` are those of the view alone: KerasTuner's oracles have no such attributes.
    """

    _viewed_source: Source | None = None
    _viewed_trials: dict[str, Any] | None = None
    _viewed_space: Any = None

    @property
    def trials(self) -> dict[str, Any]:
        """The trials by id. A script may assign others."""
        if self._viewed_trials is not None:
            return self._viewed_trials
        return {} if self._viewed_source is None else self._viewed_source.study_trials()

    @trials.setter
    def trials(self, trials: dict[str, Any]) -> None:
        self._viewed_trials = trials

    @property
    def hyperparameters(self) -> Any:
        """The search space as far as it is known. The first access may build a model."""
        if self._viewed_source is not None:
            self._viewed_source.fill_space()
        return self._viewed_space

    @hyperparameters.setter
    def hyperparameters(self, hyperparameters: Any) -> None:
        self._viewed_space = hyperparameters

    def save(self, fname: str | None = None) -> None:
        """Do nothing: the study's journal has all trials."""

    def reload(self, fname: str | None = None) -> None:
        """Show the study's own trials again."""
        self._viewed_trials = None

    def _save_trial(self, trial: Any) -> None:
        """Do nothing; see `save`."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        state = {name: value for name, value in vars(self).items() if not name.startswith("_viewed")}
        return _without_study, (type(self).__mro__[2], self._viewed_space, state)


def attach_view(oracle: Any, source: Source) -> None:
    """Make `oracle` show the study of `source`, in place."""
    if isinstance(oracle, _View):
        oracle._viewed_source = source
        return
    cls = type(oracle)
    given = vars(oracle).pop("hyperparameters"), vars(oracle).pop("trials")
    oracle.__class__ = type(cls.__name__, (_View, cls), {"__module__": __name__, "__qualname__": cls.__qualname__})
    oracle.hyperparameters, oracle._viewed_source = given[0], source


def _without_study(cls: type, space: Any, state: dict[str, Any]) -> Any:
    """Return an oracle for a worker: with the given hyperparameters, and without trials. Pickles name this function."""
    oracle: Any = object.__new__(cls)
    vars(oracle).update(state, hyperparameters=space, trials={})
    return oracle
