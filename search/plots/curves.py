"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from search.errors import NoResult, nearest
from search.plots.figures import GREY, STATE_COLORS, axis, color, make_figure, scatter
from search.plots.shown import describe, nothing, study_title, thin
from search.plots.text import label
from search.study.study import Study
from search.study.trials import Trial
from search.wording import pluralize

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["MAX_CURVES", "plot_curves"]

MAX_CURVES = 300
"""The most curves of a figure: more can neither be told apart nor drawn quickly."""

MAX_POINTS = 60_000
"""The most points of a figure. Longer curves keep every second, third, … epoch, and the last one."""


def plot_curves(study: Study, metric: str | None = None) -> go.Figure:
    """Return the learning curves of the trials, coloured by rung, else by the epochs that they were to reach.

    With more than `MAX_CURVES` trials, the best half of that number is shown, and as many others. A curve of each
    execution is shown. A trial that continues another one begins at that one's epoch.

    Args:
        metric: a name of the epochs' logs, such as `loss`; the objective by default.

    Raises:
        NoResult: no trial has an epoch with `metric`.
        OptionError: Plotly is not installed.
    """
    name = study.objective.name if metric is None else metric
    having = [trial for trial in study.trials.values() if _has_curve(trial, name)]
    if not having:
        raise _no_curve(study, name)
    trials = thin(study, having, MAX_CURVES)
    points = sum(len(execution.curve) for trial in trials for execution in trial.executions)
    step = max(1, math.ceil(points / MAX_POINTS))
    lines = [(title, color, _lines(study, name, members, step)) for title, color, members in _groups(trials)]
    traces = [_trace(title, color, line) for title, color, line in lines]
    if study.best in trials and study.best is not None:
        best = _lines(study, name, [study.best], step)
        traces.append(
            _trace(f"the best, trial {study.best.number}", GREY, best) | {"line": {"color": GREY, "width": 3}}
        )
    count = f"{len(trials)} of {len(having):,} curves" if len(trials) < len(having) else pluralize(len(having), "curve")
    return make_figure(
        traces,
        study_title(study, f"{label(name, 40)}, {count}"),
        xaxis=axis("epoch", **({"dtick": 1} if max(trial.epochs for trial in trials) <= 12 else {})),
        yaxis=axis(label(name, 40), **_robust_range(trials, name)),
        showlegend=len(traces) > 1,
    )


def _has_curve(trial: Trial, name: str) -> bool:
    return not trial.black_box and any(
        math.isfinite(record.logs.get(name, math.nan)) for execution in trial.executions for record in execution.curve
    )


def _no_curve(study: Study, name: str) -> NoResult:
    logs = {each: None for trial in study.trials.values() for record in trial.curve for each in record.logs}
    if not logs:
        return nothing(study, "no trial has ended an epoch yet")
    if name not in logs:
        return nothing(study, f"no epoch has the metric {name!r}, but {', '.join(logs)}.{nearest(name, logs)}")
    if all(trial.black_box for trial in study.trials.values()):
        return nothing(study, "a fit of the user's shows no epochs")
    return nothing(study, f"no epoch has a finite {name}")


# Groups ---------------------------------------------------------------------------------------------------------------

Group = tuple[str, str, list[Trial]]


def _groups(trials: Sequence[Trial]) -> list[Group]:
    """Return the title, the colour and the trials of each group: by rung, by budget, or by state."""
    rungs = {trial.progress.rung for trial in trials if trial.progress.rung is not None}
    budgets = {trial.progress.to_epoch for trial in trials}
    if rungs:
        keys = [("no rung" if trial.progress.rung is None else f"rung {trial.progress.rung}") for trial in trials]
    elif 1 < len(budgets) <= 8:
        keys = [f"up to epoch {trial.progress.to_epoch}" for trial in trials]
    else:
        keys = [trial.state for trial in trials]
    ordered = sorted(set(keys), key=lambda key: (len(key), key))
    colors: Mapping[Any, str] = STATE_COLORS
    return [
        (key, colors.get(key, color(place)), [trial for trial, own in zip(trials, keys, strict=True) if own == key])
        for place, key in enumerate(ordered)
    ]


# Lines ----------------------------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """The curves of several trials as one line with gaps.

    Attributes:
        x, y: epochs and values; None makes a gap.
        trials: the trial's number at each point.
        texts: the description of the trial, at the last point of each curve.
    """

    x: list[int | None]
    y: list[float | None]
    trials: list[int]
    texts: list[str]


def _lines(study: Study, name: str, trials: Iterable[Trial], step: int) -> _Line:
    line = _Line([], [], [], [])
    for trial in trials:
        for execution in trial.executions:
            curve = execution.curve
            last = len(curve) - 1
            for place in sorted({*range(0, len(curve), step), last} if curve else ()):
                value = curve[place].logs.get(name, math.nan)
                line.x.append(curve[place].epoch)
                line.y.append(value if math.isfinite(value) else None)
                line.trials.append(trial.number)
                line.texts.append(f"<br>{describe(study, trial)}" if place == last else "")
            line.x.append(None)
            line.y.append(None)
            line.trials.append(trial.number)
            line.texts.append("")
    return line


def _trace(title: str, color: str, line: _Line) -> dict[str, Any]:
    # A curve of one epoch is a point, which a line does not show.
    return {
        "type": scatter(len(line.x)),
        "mode": "lines+markers",
        "name": title,
        "x": line.x,
        "y": line.y,
        "customdata": line.trials,
        "text": line.texts,
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.5g}%{text}<extra></extra>",
        "line": {"color": color, "width": 1.2},
        "marker": {"color": color, "size": 4.5},
        "opacity": 0.75,
    }


def _robust_range(trials: Iterable[Trial], name: str) -> dict[str, Any]:
    """Return the axis's range if a few values would squeeze all others: those that a diverging loss gives."""
    values = sorted(
        value
        for trial in trials
        for execution in trial.executions
        for record in execution.curve
        if math.isfinite(value := record.logs.get(name, math.nan))
    )
    low, high = values[len(values) // 50], values[-1 - len(values) // 50]
    room = (high - low) * 0.1
    if len(values) < 50 or room == 0 or values[-1] - values[0] < 5 * (high - low):
        return {}
    return {"range": [max(values[0], low - room), min(values[-1], high + room)]}
