"""Two hyperparameters together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.errors import OptionError, nearest
from search.plots.dimensions import Dimension, dimension, varied_names
from search.plots.figures import GREY, SCALE, axis, make_figure, scatter
from search.plots.importance import ranked_names
from search.plots.shown import (
    DETAILED,
    describe,
    nothing,
    objective_bounds,
    objective_label,
    scored_trials,
    study_title,
    thin,
)
from search.space.domain import Value
from search.study.study import Study
from search.study.trials import Trial

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_interaction"]

MAX_POINTS = 2000
"""The most trials of the figure."""


def plot_interaction(study: Study, names: Sequence[str] | None = None) -> go.Figure:
    """Return the trials by the values of two hyperparameters, coloured by the objective: light is better.

    Points of a category are spread a little, so that they do not hide each other.

    Args:
        names: two hyperparameters; by default the two most important ones that some trials use together.

    Raises:
        NoResult: no trial with an objective uses both, or one of them does not vary.
        OptionError: `names` are not two hyperparameters of the study, or Plotly is not installed.
    """
    every = scored_trials(study)
    first, second = _chosen(study, every) if names is None else _checked(study, every, names)
    using = [trial for trial in every if first in trial.params and second in trial.params]
    if not using:
        raise nothing(study, f"no trial with an objective uses both {first!r} and {second!r}")
    trials = thin(study, using, MAX_POINTS)
    # The best are drawn last, so that nothing hides them.
    trials.sort(key=lambda trial: -study.objective.cost(trial.objective))
    x, y = dimension(first, trials), dimension(second, trials)
    low, high = objective_bounds(study, trials)
    trace = {
        "type": scatter(len(trials)),
        "mode": "markers",
        "x": _spread(x, [trial.params[first] for trial in trials]),
        "y": _spread(y, [trial.params[second] for trial in trials]),
        "text": [describe(study, trial, values=len(trials) <= DETAILED) for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": [trial.objective for trial in trials],
            "colorscale": SCALE,
            "reversescale": study.objective.direction == "min",
            "cmin": low,
            "cmax": high,
            "size": 9,
            "line": {"width": 0.5, "color": GREY},
            "colorbar": {"title": {"text": objective_label(study)}, "thickness": 14},
        },
    }
    count = f"{len(trials):,} of {len(every):,} trials"
    return make_figure(
        [trace],
        study_title(study, f"{x.label} and {y.label}, {count}"),
        xaxis=axis(x.label, **x.ticks()),
        yaxis=axis(y.label, **y.ticks()),
        showlegend=False,
    )


def _chosen(study: Study, trials: Sequence[Trial]) -> tuple[str, str]:
    """Return the most important hyperparameter, and the next one that some trial uses beside it."""
    first, *others = ranked_names(study)
    for second in others:
        if any(first in trial.params and second in trial.params for trial in trials):
            return first, second
    raise nothing(study, "an interaction needs two hyperparameters that vary in the same trials")


def _checked(study: Study, trials: Sequence[Trial], names: Sequence[str]) -> tuple[str, str]:
    known = {name: None for trial in trials for name in trial.params}
    if isinstance(names, str) or len(names) != 2 or len(set(names)) != 2:
        raise OptionError(f"an interaction is of two hyperparameters, such as {list(known)[:2]!r}, not of {names!r}")
    varied = varied_names(trials)
    for name in names:
        if name not in known:
            raise OptionError(f"study {study.name!r} has no hyperparameter {name!r}.{nearest(name, known)}")
        if name not in varied:
            raise nothing(study, f"hyperparameter {name!r} has the same value in all trials with an objective")
    return names[0], names[1]


def _spread(axis: Dimension, values: Sequence[Value]) -> list[float]:
    """Return the coordinates; those of a category are moved at random, and each time in the same way."""
    places = axis.coordinates(values)
    if axis.kind != "category":
        return places
    draw = random.Random(0)
    return [place + draw.uniform(-0.18, 0.18) for place in places]
