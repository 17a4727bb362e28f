"""A back end by its name: what a search knows of it before it runs, and the way to make one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from search.backends.base import BackEnd
from search.errors import OptionError
from search.plugins.loading import BACKEND_OPTIONS, BACKENDS
from search.plugins.spec import split_spec
from search.space.domain import Parameter
from search.study.trial import Objective

LARGEST_GRID = 100_000
"""The most configurations of a grid: Optuna lists them all in memory."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a back end that options and displays need.

    Attributes:
        options: the options of a search that it takes. A study that is resumed with other values begins a new phase.
        sampler: the sampler, if the user names none; None if it takes no sampler.
        has_end: it ends by itself. Any other gets as many epochs as Hyperband's plan, if there is no other limit.
        follows_plan: its trials and epochs are those of Hyperband's plan.
    """

    options: tuple[str, ...]
    sampler: str | None = None
    has_end: bool = False
    follows_plan: bool = False


OWN: Mapping[str, Facts] = {
    "hyperband": Facts(("max_epochs", "factor", "iterations", "sampler"), "random", has_end=True, follows_plan=True),
    "optuna": Facts(("max_epochs", "factor", "sampler", "pruner"), "tpe"),
}
"""The facts about our own back ends: importing Optuna takes 0.3 s, which looking at a study need not cost."""

UNKNOWN = Facts(tuple(BACKEND_OPTIONS), has_end=True)
"""The facts about a back end that cannot be loaded: nothing that it is given is wrong, and its end is unknown."""


def facts_of(spec: str) -> Facts:
    """Return the facts about the back end that `spec` names. OptionError if it cannot be loaded."""
    name, _ = split_spec(spec)
    if name in OWN:
        return OWN[name]
    cls = BACKENDS.find(name)
    taken = BACKENDS.keywords_of(cls)
    sampler = taken.get("sampler")
    return Facts(
        options=tuple(option for option in BACKEND_OPTIONS if option in taken),
        sampler=sampler if isinstance(sampler, str) else None,
        has_end=bool(getattr(cls, "has_end", False)),
    )


def known_facts_of(spec: str) -> Facts:
    """Return `facts_of(spec)`, or `UNKNOWN` if the back end cannot be loaded: a study can be looked at without it."""
    try:
        return facts_of(spec)
    except OptionError:
        return UNKNOWN


def takers_of(option: str) -> list[str]:
    """Return our back ends that take `option`; none if it is no option of back ends."""
    return [name for name, facts in OWN.items() if option in facts.options]


def make_backend(
    name: str, options: Mapping[str, Any], objective: Objective, seed: int, parameters: Sequence[Parameter] = ()
) -> BackEnd:
    """Return a new back end.

    Args:
        name: of the back end, without arguments.
        options: the values of its options, and its own arguments.
        objective: the metric to compare.
        seed: of the study.
        parameters: those that the probe saw.

    Raises:
        OptionError: an option cannot be used.
    """
    cls = BACKENDS.find(name)
    if "parameters" in BACKENDS.keywords_of(cls):
        options = {**options, "parameters": parameters}
    return cast(BackEnd, cls(objective, seed, **options))


def internals_off() -> tuple[str, ...]:
    """Return a line for each use of Optuna's internals that the back ends of this process do without."""
    internals = sys.modules.get("search.backends.optuna_internals")
    return () if internals is None else internals.capabilities_off()
