"""The imports of a report, which take most of its time, in a process that only writes one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODULES = ("plotly.graph_objects", "plotly.io.json", "optuna.importance", "search.plots.importance")


class _Refusal(MetaPathFinder):
    """A finder that finds no package `name`, whether it is installed or not."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ImportError for the package, and leave all others to the next finder."""
        if fullname == self._name:
            raise ModuleNotFoundError(f"{fullname} is not imported for a report", name=fullname)
        return None


@contextmanager
def _without(name: str) -> Iterator[None]:
    refusal = _Refusal(name)
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)


def import_plots() -> None:
    """Import all that figures need.

    With scikit-learn installed, Optuna imports it for fANOVA, which no figure shows. That takes 3.5 seconds, and is
    refused: in this process Optuna has PED-ANOVA only.
    """
    with _without("sklearn"):
        for name in _MODULES:
            with suppress(ImportError):  # the page says that plotly is missing
                import_module(name)
