"""The work of each slot over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.display.text import format_seconds
from search.plots.figures import COLORS, FAILED, GREY, GRID, axis, make_figure
from search.plots.shown import DETAILED, describe, nothing, study_title
from search.study.history import Begun, Segment
from search.study.records import Outcome
from search.study.study import Study
from search.wording import pluralize

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_timeline"]

MAX_SEGMENTS = 3000
"""The most segments of a figure: the last ones, as a bar of less than a pixel shows nothing."""

LABELLED = 150
"""The most segments that have their trial's number written into them."""

KINDS: tuple[tuple[str, str, tuple[Outcome | None, ...]], ...] = (
    ("trained to its end", COLORS[2], ("reached", "stopped_by_callback")),
    ("stopped by the back end", COLORS[1], ("stopped",)),
    ("interrupted", COLORS[4], ("interrupted", "no_space", None)),
    ("failed", FAILED, ("failed", "raised", "fatal", "infeasible")),
    ("lost", COLORS[3], ("lost", "no_memory")),
)
"""The name, the colour and the outcomes of each kind of segment."""

Bar = tuple[Begun, float, str]


def plot_timeline(study: Study) -> go.Figure:
    """Return which slot trained which trial when: a row for each slot, a bar for each segment, in its outcome's colour.

    Time is that of the search: pauses between processes are left out, and a dotted line marks each resume.

    Raises:
        NoResult: no segment has started yet.
        OptionError: Plotly is not installed.
    """
    history = study.history
    ended, running = list(history.segments)[-MAX_SEGMENTS:], list(history.running.values())
    total = len(history.segments) + len(running)
    if not total:
        raise nothing(study, "no segment has started yet")
    traces = []
    for title, color, outcomes in KINDS:
        bars = [_bar(segment) for segment in ended if segment.outcome in outcomes]
        if bars:
            traces.append(_trace(study, title, color, bars, total))
    if running:
        now = study.seconds()
        traces.append(_trace(study, "running", COLORS[0], [(begun, now, "running") for begun in running], total))
    slots = sorted({segment.begun.slot for segment in ended} | {begun.slot for begun in running})
    shown = len(ended) + len(running)
    count = pluralize(total, "segment") if shown == total else f"the last {shown:,} of {total:,} segments"
    return make_figure(
        traces,
        study_title(study, f"{count} in {pluralize(len(slots), 'slot')}"),
        barmode="overlay",
        xaxis=axis("seconds of the search"),
        yaxis=axis(
            "",
            autorange="reversed",
            tickvals=slots if len(slots) <= 40 else slots[:: len(slots) // 20],
            ticktext=[f"slot {slot}" for slot in (slots if len(slots) <= 40 else slots[:: len(slots) // 20])],
        ),
        shapes=[_resume(seconds) for seconds in history.starts[1:]],
        height=max(300, min(1200, 160 + 28 * len(slots))),
        showlegend=True,
    )


def _bar(segment: Segment) -> Bar:
    return segment.begun, segment.seconds, "its process died" if segment.outcome is None else segment.outcome


def _trace(study: Study, title: str, color: str, bars: Sequence[Bar], total: int) -> dict[str, Any]:
    numbers = [str(begun.trial) for begun, _, _ in bars]
    return {
        "type": "bar",
        "orientation": "h",
        "name": title,
        "y": [begun.slot for begun, _, _ in bars],
        "base": [round(begun.seconds, 3) for begun, _, _ in bars],
        "x": [round(end - begun.seconds, 3) for begun, end, _ in bars],
        "width": 0.8,
        "text": numbers if total <= LABELLED else None,
        "textposition": "inside",
        "insidetextanchor": "middle",
        "hovertext": [_hover(study, *bar, values=total <= DETAILED) for bar in bars],
        "hoverinfo": "text",
        "marker": {"color": color, "line": {"color": GRID, "width": 1 if total <= LABELLED else 0}},
    }


def _hover(study: Study, begun: Begun, end: float, outcome: str, *, values: bool) -> str:
    execution = f", execution {begun.execution}" if begun.execution else ""
    plan = "" if begun.rung is None else f", rung {begun.rung}"
    words = outcome.replace("_", " ")
    times = f"{format_seconds(begun.seconds)} to {format_seconds(end)}: {format_seconds(end - begun.seconds)}"
    about = describe(study, study.trials[begun.trial], values=values)
    return f"slot {begun.slot}, {times}{plan}{execution}, {words}<br>{about}"


def _resume(seconds: float) -> dict[str, Any]:
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": seconds, "x1": seconds, "y0": 0, "y1": 1, "yref": "paper", "line": line}
