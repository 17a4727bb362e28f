"""Several studies' best values on the same axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.errors import NoResult, StudyError
from search.plots.figures import axis, color, make_figure
from search.plots.history import By, best_line, check_by, place_title
from search.plots.shown import objective_label
from search.plots.text import label
from search.study.study import Study
from search.wording import pluralize

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_comparison"]

DASHES = ("solid", "dash", "dot", "dashdot")


def plot_comparison(studies: Sequence[Study], by: By = "epochs") -> go.Figure:
    """Return the best value so far of each study, over its epochs or over its seconds.

    A study without an objective yet has no line, and the legend says so.

    Raises:
        NoResult: no study has a trial with an objective.
        StudyError: the studies have different objectives.
        OptionError: `by` is another word, or Plotly is not installed.
    """
    check_by(by)
    objectives = {(study.objective.name, study.objective.direction): study for study in studies}
    if len(objectives) > 1:
        words = "; ".join(f"{study.name}: {direction} {name}" for (name, direction), study in objectives.items())
        raise StudyError(f"studies with different objectives cannot be compared ({words}): leave some out")
    with_best = [study for study in studies if study.history.best]
    if not with_best:
        raise NoResult("no study to compare has a trial with an objective")
    names = Counter(study.name for study in studies)
    traces = []
    for place, study in enumerate(studies):
        title = label(study.name, 40) + (f" ({label(study.uid[:8])})" if names[study.name] > 1 else "")
        x, y, trials = best_line(study, by) if study.history.best else ([0.0], [None], [None])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": title if study.history.best else f"{title}: no objective yet",
                "x": x,
                "y": y,
                "customdata": trials,
                "hovertemplate": "%{fullData.name}<br>%{y:.5g}, trial %{customdata}<extra></extra>",
                "line": {"shape": "hv", "color": color(place), "width": 2, "dash": DASHES[place // 7 % len(DASHES)]},
            }
        )
    return make_figure(
        traces,
        f"the best so far of {pluralize(len(studies), 'study').replace('studys', 'studies')}",
        xaxis=axis(place_title(studies, by), rangemode="tozero"),
        yaxis=axis(objective_label(with_best[0])),
        showlegend=True,
    )
