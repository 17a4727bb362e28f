"""A back end by its name: what a search knows of it before it runs, and the way to make one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from search.backends.base import BackEnd
from search.backends.freeze_thaw.first_round import first_round
from search.errors import OptionError
from search.plugins.loading import BACKEND_OPTIONS, BACKENDS
from search.plugins.spec import split_spec
from search.space.domain import Parameter
from search.study.trial import Objective

LARGEST_GRID = 100_000
"""The trials of a grid search without a limit of its own."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a back end that options and displays need.

    Attributes:
        options: the options of a search that it takes. A study that is resumed with other values begins a new phase.
        sampler: the sampler, if the user names none; None if it takes no sampler.
        has_end: it ends by itself. Any other gets as many epochs as Hyperband's plan, if there is no other limit.
        follows_plan: its trials and epochs are those of Hyperband's plan.
        ranks_paused: it has `expendable`, so the checkpoints of its trials are bounded by `--disk`.
        first_round: returns the trials with which it begins, and the epochs of each, from `max_epochs` and `factor`.
        repeatable: the arguments that make a search with one worker a function of its seed, if the user gives one.
    """

    options: tuple[str, ...]
    sampler: str | None = None
    has_end: bool = False
    follows_plan: bool = False
    ranks_paused: bool = False
    first_round: Callable[[int, int], tuple[int, int]] = lambda max_epochs, factor: (1, 1)
    repeatable: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, option: str) -> bool:
        """Return whether `option` has an effect with this back end, if it is one for back ends."""
        return self.ranks_paused if option == "disk" else option in self.options


OWN: Mapping[str, Facts] = {
    "hyperband": Facts(("max_epochs", "factor", "iterations", "sampler"), "random", has_end=True, follows_plan=True),
    "asha": Facts(("max_epochs", "factor", "sampler"), "random", ranks_paused=True),
    "optuna": Facts(("max_epochs", "factor", "sampler", "pruner"), "tpe"),
    "freeze-thaw": Facts(
        ("max_epochs", "factor"), ranks_paused=True, first_round=first_round, repeatable={"cost": "epochs"}
    ),
}
"""The facts about our own back ends: importing Optuna takes 0.3 s, which looking at a study need not cost."""

UNKNOWN = Facts(tuple(BACKEND_OPTIONS), has_end=True, ranks_paused=True)
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
        ranks_paused=hasattr(cls, "expendable"),
    )


def known_facts_of(spec: str) -> Facts:
    """Return `facts_of(spec)`, or `UNKNOWN` if the back end cannot be loaded: a study can be looked at without it."""
    try:
        return facts_of(spec)
    except OptionError:
        return UNKNOWN


def takers_of(option: str) -> list[str]:
    """Return our back ends that take `option`; none if it is no option of back ends."""
    return [name for name, facts in OWN.items() if facts.takes(option)]


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
