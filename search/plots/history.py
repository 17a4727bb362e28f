"""The progress of a search: its best value, and the end of every trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from search.errors import OptionError
from search.plots.figures import COLORS, GREY, STATE_COLORS, axis, make_figure, scatter
from search.plots.shown import (
    DETAILED,
    describe,
    is_scored,
    nothing,
    objective_bounds,
    objective_label,
    objective_range,
    study_title,
)
from search.study.history import Best, Segment
from search.study.study import Study
from search.study.trial import State
from search.study.trials import Trial

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["By", "best_line", "check_by", "place_title", "plot_history"]

By = Literal["epochs", "time"]

SYMBOLS: Mapping[State, str] = {
    "completed": "circle",
    "stopped": "circle-open",
    "paused": "circle-open",
    "running": "triangle-up",
    "failed": "x",
    "infeasible": "x",
}
"""The symbol of trials by state."""


def plot_history(
    study: Study, by: By = "epochs", attributes: Mapping[int, Mapping[str, str]] | None = None
) -> go.Figure:
    """Return the best value over the search, with a point for the end of every trial.

    A point's hover text says what the back end did: bracket, rung, parent, initial configuration, and the `attributes`.
    Failed and infeasible trials have no objective, and stand at the lower edge, or the upper one if less is better. A
    diamond is a trial's value on the test data.

    Args:
        by: `epochs`, over the epochs of the whole search; `time`, over the seconds that it ran.
        attributes: what the back end noted, by trial and name; see `search.plots.attributes`.

    Raises:
        NoResult: no trial has ended a segment yet.
        OptionError: `by` is another word, or Plotly is not installed.
    """
    check_by(by)
    ends = last_segments(study)
    shown = [trial for number, trial in sorted(study.trials.items()) if number in ends]
    if not shown:
        raise nothing(study, "no trial has ended a segment yet")
    known = attributes or {}
    scored = [trial for trial in shown if is_scored(trial)]
    low, high = objective_bounds(study, scored) if scored else (0.0, 0.0)
    edge = low if study.objective.direction == "max" else high
    traces = [_line(study, by)] if study.history.best else []
    for state, symbol in SYMBOLS.items():
        members = [trial for trial in shown if trial.state == state and (is_scored(trial) or trial.worthless)]
        if members:
            y = [trial.objective if is_scored(trial) else edge for trial in members]
            x = [place_of(ends[trial.number], by) for trial in members]
            detailed = len(shown) <= DETAILED
            texts = [describe(study, trial, known.get(trial.number), values=detailed) for trial in members]
            traces.append(_points(state, x, y, texts, {"color": STATE_COLORS[state], "symbol": symbol, "size": 8}))
    traces += _special(study, shown, ends, by)
    return make_figure(
        traces,
        study_title(study, "every trial, and the best so far"),
        xaxis=axis(place_title([study], by), rangemode="tozero"),
        yaxis=axis(objective_label(study), **objective_range(study, scored)),
        showlegend=True,
    )


def check_by(by: str) -> None:
    """Raise OptionError if `by` is not one of the axes of a history."""
    if by not in ("epochs", "time"):
        raise OptionError(f"a history is by 'epochs' or by 'time', not by {by!r}")


def place_title(studies: Sequence[Study], by: By) -> str:
    """Return the title of the axis of epochs or of time."""
    if by == "time":
        return "seconds of the search"
    unknown = any(study.known_epochs is None for study in studies)
    return "epochs asked for, over all trials" if unknown else "epochs over all trials"


def place_of(moment: Segment | Best, by: By) -> float:
    """Return the place of a moment on the axis `by`."""
    return float(moment.epochs) if by == "epochs" else round(moment.seconds, 3)


def last_segments(study: Study) -> dict[int, Segment]:
    """Return the last segment of each trial, by the trial's number."""
    return {segment.begun.trial: segment for segment in study.history.segments}


def best_line(study: Study, by: By) -> tuple[list[float], list[float | None], list[int | None]]:
    """Return the places, the values and the trials of the best value so far, up to now; None makes a gap."""
    changes = study.history.best
    x = [place_of(change, by) for change in changes]
    now = float(study.epochs) if by == "epochs" else round(study.seconds(), 3)
    last = changes[-1]
    return [*x, now], [*(change.value for change in changes), last.value], [*(c.trial for c in changes), last.trial]


def _line(study: Study, by: By) -> dict[str, Any]:
    x, y, trials = best_line(study, by)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "the best so far",
        "x": x,
        "y": y,
        "customdata": trials,
        "hovertemplate": "best so far %{y:.5g}, trial %{customdata}<extra></extra>",
        "line": {"shape": "hv", "color": COLORS[0], "width": 2.5},
    }


def _points(
    name: str, x: Sequence[float], y: Sequence[float | None], texts: Sequence[str], marker: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "type": scatter(len(x)),
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def _special(study: Study, shown: Iterable[Trial], ends: Mapping[int, Segment], by: By) -> list[dict[str, Any]]:
    """Return the points of initial configurations, and of values on the test data."""
    traces = []
    initial = [trial for trial in shown if trial.values.initial and is_scored(trial)]
    if initial:
        x, y = [place_of(ends[trial.number], by) for trial in initial], [trial.objective for trial in initial]
        texts = [describe(study, trial) for trial in initial]
        marker = {"color": GREY, "symbol": "circle-open", "size": 15, "line": {"width": 2}}
        traces.append(_points("initial configuration", x, y, texts, marker))
    tested = [(trial, value) for trial in shown if (value := test_score(study, trial)) is not None]
    if tested:
        x, y = [place_of(ends[trial.number], by) for trial, _ in tested], [value for _, value in tested]
        texts = [f"on the test data {value:.5g}<br>{describe(study, trial)}" for trial, value in tested]
        traces.append(_points("test data", x, y, texts, {"color": COLORS[3], "symbol": "diamond", "size": 9}))
    return traces


def test_score(study: Study, trial: Trial) -> float | None:
    """Return the objective of `trial` on the test data; None if it was not evaluated on them."""
    logs = {} if trial.best.tested is None else trial.best.tested.logs
    name = study.objective.name
    value = logs.get(name, logs.get(name.removeprefix("val_")))
    return value if value is not None and math.isfinite(value) else None
