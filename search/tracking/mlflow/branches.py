"""The branches of a conditional space: groups of trials that have parameters which other trials lack. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search.study.study import Study

MIN_TRIALS = 3
"""The fewest trials of a branch."""

_LABEL = 27
"""The most characters of a branch's label, which the UI would cut."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A group of trials.

    Attributes:
        trials: their numbers.
        names: the parameters that all of them have, and not every other trial.
        label: the condition that they share, such as `kind = cnn`; else the name of a parameter.
    """

    trials: frozenset[int]
    names: tuple[str, ...]
    label: str


def find_branches(study: Study, used: Mapping[str, frozenset[int]], is_shown: Callable[[str], bool]) -> list[Branch]:
    """Return the branches of at least `MIN_TRIALS` trials, the largest first.

    Args:
        used: the parameters in the order of asking, each with the numbers of the trials that use it.
        is_shown: returns whether a chart can show a parameter.
    """
    everyone = frozenset[int]().union(*used.values())
    groups = dict.fromkeys(
        used[name] for name in used if MIN_TRIALS <= len(used[name]) < len(everyone) and is_shown(name)
    )
    branches = []
    for group in sorted(groups, key=len, reverse=True):
        names = [name for name in used if group <= used[name] < everyone and is_shown(name)]
        names.sort(key=lambda name: -len(used[name]))  # those of an outer branch first
        branches.append(Branch(group, tuple(names), _label(study, used, group)))
    return branches


def _label(study: Study, used: Mapping[str, frozenset[int]], group: frozenset[int]) -> str:
    """Return the condition `name = value` that exactly the trials of `group` fulfil, else a parameter of theirs."""
    for name, users in used.items():
        if not group < users:
            continue
        values = {number: study.trials[number].params[name] for number in users}
        inside = dict.fromkeys(values[number] for number in group)
        # `1` equals `True`: a parameter has values of one type.
        if len(inside) <= 3 and group == {number for number, value in values.items() if value in inside}:
            return _shorten(f"{name} = {' or '.join(map(str, inside))}")
    return _shorten(next(name for name in used if used[name] == group))


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def varying(study: Study, names: Sequence[str], trials: frozenset[int]) -> list[str]:
    """Return the parameters of `names` that have more than one value in `trials`."""
    return [name for name in names if len({study.trials[number].params[name] for number in trials}) > 1]
