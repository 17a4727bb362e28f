"""Lists of trials that a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex, overload

from search.study.study import Study
from search.study.trials import Trial

__all__ = ["TrialList"]


class TrialList(list[Trial]):
    """A list of trials. It is a list in all respects; a notebook shows it as a table.

    Args:
        trials: the trials, in order.
        study: the trials' study.
        alive: a process runs the study; otherwise trials that run are shown as paused.
    """

    def __init__(self, trials: Iterable[Trial], study: Study, *, alive: bool) -> None:
        super().__init__(trials)
        self._study = study
        self._alive = alive

    @overload
    def __getitem__(self, index: SupportsIndex) -> Trial: ...

    @overload
    def __getitem__(self, index: slice) -> TrialList: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Trial | TrialList:
        """Return a trial; of a slice, a list that is shown as a table, too."""
        if isinstance(index, slice):
            return TrialList(super().__getitem__(index), self._study, alive=self._alive)
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (list(self), self._study, self._alive)

    def _repr_html_(self) -> str:
        from search.display import html

        return html.trials_html(self._study, self, alive=self._alive)


def _restored(trials: list[Trial], study: Study, alive: bool) -> TrialList:
    """Return the list that was pickled or copied."""
    return TrialList(trials, study, alive=alive)
