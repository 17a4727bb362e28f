"""Parallel coordinates: a line for each trial through its hyperparameters and its objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.plots.dimensions import Dimension, dimension
from search.plots.figures import GREY, SCALE, make_figure, short_number
from search.plots.importance import ranked_names
from search.plots.shown import scored_trials, study_title, thin
from search.plots.text import label, plain_value, value_label
from search.space.domain import Value
from search.study.study import Study
from search.study.trials import Trial
from search.wording import pluralize

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["MAX_AXES", "MAX_BRANCHES", "branches", "plot_parallel"]

MAX_AXES = 12
"""The most hyperparameters of a figure, the most important ones."""

MAX_LINES = 2000
"""The most trials of a figure."""

MAX_BRANCHES = 8
"""The most figures of a conditional space: those of the branches with the most trials."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The trials that have the same hyperparameters.

    Attributes:
        names: those of the hyperparameters that vary in the study.
        condition: what sets the branch apart, escaped; "" if there is only one branch.
    """

    names: tuple[str, ...]
    trials: list[Trial]
    condition: str


def plot_parallel(study: Study) -> list[go.Figure]:
    """Return one figure for each branch of the space, that with the most trials first; a plain space has one.

    A branch is a set of trials with the same hyperparameters, and the figure's title names the values that lead into
    it. Axes of hyperparameters that are sampled in log are logarithmic; the labels are real values. Drag along an axis
    to keep the lines that pass there; drag an axis's name to move it.

    Raises:
        NoResult: no trial has an objective, or no hyperparameter varies among those that have one.
        OptionError: Plotly is not installed.
    """
    ranked = ranked_names(study)
    found = branches(scored_trials(study), ranked)
    return [_figure(study, branch, ranked, len(found), place) for place, branch in enumerate(found[:MAX_BRANCHES])]


# Branches -------------------------------------------------------------------------------------------------------------


def branches(trials: Sequence[Trial], names: Sequence[str]) -> list[Branch]:
    """Return `trials` by the set of `names` that they use, the largest branch first."""
    groups: dict[frozenset[str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(frozenset(name for name in names if name in trial.params), []).append(trial)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[1][0].number))
    if len(ordered) == 1:
        return [Branch(tuple(names), list(trials), "")]
    rows = list(groups.values())
    return [
        Branch(tuple(name for name in names if name in used), members, _condition(used, members, rows, names))
        for used, members in ordered
    ]


def _condition(
    used: frozenset[str], members: Sequence[Trial], groups: Sequence[Sequence[Trial]], names: Sequence[str]
) -> str:
    """Return the values that only this branch has, of as few hyperparameters as are needed; else its own names."""
    others = [group for group in groups if group is not members]
    remaining, parts = others, []
    candidates = [name for name in names if name in used]
    while remaining and candidates:
        # The hyperparameter whose values set this branch apart from the most others; of equals, that with fewer values.
        scores = {name: sum(not _overlap(name, members, group) for group in remaining) for name in candidates}
        name = max(candidates, key=lambda each: (scores[each], -len(_values(each, members))))
        values = _values(name, members)
        if scores[name] == 0 or len(values) > MAX_VALUES:
            break
        parts.append(f"{label(name)} = {' or '.join(value_label(value) for value in values)}")
        remaining = [group for group in remaining if _overlap(name, members, group)]
        candidates.remove(name)
    if not remaining:
        return ", ".join(parts)
    common = frozenset.intersection(*(frozenset(name for name in names if name in g[0].params) for g in groups))
    own = [label(name) for name in names if name in used - common]
    return f"with {', '.join(own[:4])}{' …' if len(own) > 4 else ''}" if own else "with no conditional hyperparameter"


MAX_VALUES = 4
"""The most values of one hyperparameter in a title."""


def _values(name: str, trials: Sequence[Trial]) -> list[Value]:
    """Return the different values of `name`, numbers first."""
    found = {(type(trial.params[name]), trial.params[name]): trial.params[name] for trial in trials}
    numbers = [value for value in found.values() if isinstance(value, (int, float))]
    others = [value for value in found.values() if not isinstance(value, (int, float))]
    return [*sorted(numbers), *sorted(others, key=str)]


def _overlap(name: str, members: Sequence[Trial], others: Sequence[Trial]) -> bool:
    """Return whether a trial of `others` has a value of `name` that one of `members` has, or lacks `name`."""
    own = {(type(trial.params[name]), trial.params[name]) for trial in members}
    return any(name not in t.params or (type(t.params[name]), t.params[name]) in own for t in others)


# The figure -----------------------------------------------------------------------------------------------------------


def _figure(study: Study, branch: Branch, ranked: Sequence[str], count: int, place: int) -> go.Figure:
    trials = thin(study, branch.trials, MAX_LINES)
    varied = [name for name in ranked if name in branch.names and len(_values(name, trials)) > 1]
    names = varied[:MAX_AXES]
    axes = []
    for name in reversed(names):  # the most important one stands beside the objective
        found = dimension(name, trials).enclosing()
        values = found.coordinates(trial.params[name] for trial in trials)
        axes.append({"label": label(name, 18), "values": values, **_scale(found)})
    objectives = [trial.objective for trial in trials]
    axes.append({"label": f"<b>{label(study.objective.name, 18)}</b>", "values": objectives})
    trace = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {
            "color": objectives,
            "colorscale": SCALE,
            "reversescale": study.objective.direction == "min",
            "showscale": False,
        },
        "labelangle": -20 if len(axes) > 5 else 0,
        "labelfont": {"color": GREY},
        "tickfont": {"color": GREY, "shadow": "none"},  # by default it has the colour of a light page
        "rangefont": {"color": "rgba(0,0,0,0)"},  # it repeats the ends of the axis, in coordinates
        "unselected": {"line": {"opacity": 0.06}},
    }
    return make_figure([trace], study_title(study, _title(branch, trials, names, len(varied), count, place)), **_ROOM)


def _scale(found: Dimension) -> dict[str, Any]:
    """Return the ticks and the range of an axis: in log, a tick stands at either end, as the axis is drawn to there."""
    ticks = found.ticks(plain_value)
    if found.kind != "log":
        return ticks
    ends = [place for place in (found.low, found.high) if not any(abs(place - p) < 0.12 for p in ticks["tickvals"])]
    return {
        "range": [found.low, found.high],
        "tickvals": [*ticks["tickvals"], *ends],
        "ticktext": [*ticks["ticktext"], *(short_number(10**place) for place in ends)],
    }


_ROOM: dict[str, Any] = {"margin": {"l": 90, "r": 60, "t": 130, "b": 40}, "height": 460}


def _title(branch: Branch, trials: Sequence[Trial], names: Sequence[str], varied: int, count: int, place: int) -> str:
    total = len(branch.trials)
    parts = [branch.condition] if branch.condition else []
    parts.append(pluralize(total, "trial") if len(trials) == total else f"{len(trials):,} of {total:,} trials")
    if varied > len(names):
        parts.append(f"{len(names)} of {varied} hyperparameters")
    if count > MAX_BRANCHES and place == MAX_BRANCHES - 1:
        parts.append(f"the last of {MAX_BRANCHES} of {count} branches")
    return ", ".join(parts)
