"""The objective against each hyperparameter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search.plots.dimensions import dimension
from search.plots.figures import SCALE, axis, make_figure, scatter
from search.plots.importance import ranked_names
from search.plots.shown import objective_label, objective_range, scored_trials, study_title, thin
from search.plots.text import value_label
from search.space.domain import Value
from search.study.study import Study
from search.wording import pluralize

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_slices"]

MAX_SLICES = 12
"""The most hyperparameters of a figure, the most important ones."""

MAX_POINTS = 1000
"""The most trials of each slice."""

COLUMNS = 3


def plot_slices(study: Study) -> go.Figure:
    """Return the objective against each hyperparameter that varies, the most important first.

    The colour is the trial's number: late trials are light. A conditional hyperparameter has the trials that use it.

    Raises:
        NoResult: no trial has an objective, or no hyperparameter varies among those that have one.
        OptionError: Plotly is not installed.
    """
    ranked = ranked_names(study)
    names, every = ranked[:MAX_SLICES], scored_trials(study)
    trials = thin(study, every, MAX_POINTS)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    traces, layout = [], {}
    for place, name in enumerate(names):
        using = [trial for trial in trials if name in trial.params]
        found, key = dimension(name, using), "" if place == 0 else str(place + 1)
        marker = {"color": [trial.number for trial in using], "colorscale": SCALE, "size": 6, "opacity": 0.8}
        marker |= {"cmin": trials[0].number, "cmax": trials[-1].number}
        traces.append(
            {
                "type": scatter(len(using)),
                "mode": "markers",
                "x": found.coordinates(trial.params[name] for trial in using),
                "y": [trial.objective for trial in using],
                "xaxis": f"x{key}",
                "yaxis": f"y{key}",
                "customdata": [trial.number for trial in using],
                "text": [value_label(trial.params[name]) for trial in using],
                "hovertemplate": "trial %{customdata}: %{y:.5g}, with %{text}<extra></extra>",
                "marker": marker,
            }
        )
        column, row = place % columns, place // columns
        layout[f"xaxis{key}"] = axis(
            found.label, domain=_domain(column, columns, 0.07), anchor=f"y{key}", **found.ticks()
        )
        layout[f"yaxis{key}"] = axis(
            objective_label(study) if column == 0 else "",
            domain=_domain(rows - 1 - row, rows, 0.36 / rows),
            anchor=f"x{key}",
            **({} if place == 0 else {"matches": "y"}),
            **objective_range(study, trials),
        )
    shown = f"{len(trials):,} of {len(every):,} trials"
    parts = ["each hyperparameter alone", pluralize(len(every), "trial") if len(trials) == len(every) else shown]
    if len(names) < len(ranked):
        parts.append(f"{len(names)} of {len(ranked)} hyperparameters, the most important first")
    title = study_title(study, ", ".join(parts))
    return make_figure(traces, title, height=120 + 240 * rows, showlegend=False, **layout)


def _short(value: Value) -> str:
    return value_label(value, 9)


def _domain(place: int, count: int, gap: float) -> list[float]:
    width = (1 - gap * (count - 1)) / count
    low = place * (width + gap)
    return [max(0.0, low), min(1.0, low + width)]
