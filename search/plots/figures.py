"""The look of all figures, and the one place that imports Plotly.

A figure's background is transparent, and its colours are readable on a light page and on a dark one. Categories have
the colours of Okabe and Ito 2008, "Color Universal Design", quantities those of viridis: people who see few colours can
tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.errors import OptionError
from search.study.trial import State

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "COLORS",
    "FAILED",
    "GREY",
    "GRID",
    "SCALE",
    "STATE_COLORS",
    "axis",
    "color",
    "make_figure",
    "note",
    "scatter",
    "short_number",
]

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b59f00")
"""Okabe and Ito's colours without black, which a dark page hides; yellow is darker, for a light page."""

GREY = "#777777"
"""The colour of text and of what stands back: 4.5 times as dark as white, and as bright as black."""

FAILED = "#d55e00"
"""The colour of failures."""

STATE_COLORS: Mapping[State, str] = {
    "completed": COLORS[2],
    "stopped": COLORS[1],
    "paused": COLORS[4],
    "running": COLORS[3],
    "failed": FAILED,
    "infeasible": GREY,
}
"""The colour of trials by state."""

SCALE = [
    [0.0, "#46327e"],
    [0.2, "#365c8d"],
    [0.4, "#277f8e"],
    [0.6, "#1fa187"],
    [0.8, "#4ac16d"],
    [1.0, "#a0da39"],
]
"""Viridis without its ends: a dark page hides the one, a light page the other."""

SVG_POINTS = 4000
"""The most points of a trace that the browser draws as SVG. WebGL draws more of them quickly."""

GRID = "rgba(127,127,127,0.22)"

Traces = Sequence[Mapping[str, Any]]


def color(place: int) -> str:
    """Return the colour of category number `place`, from 0; they repeat."""
    return COLORS[place % len(COLORS)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title, which is escaped already."""
    return {
        "title": {"text": title},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "outside",
        "tickcolor": GRID,
        "automargin": True,
        **more,
    }


def scatter(points: int) -> str:
    """Return the type of a trace of `points` points. A page has room for few WebGL traces, so most are SVG."""
    return "scattergl" if points > SVG_POINTS else "scatter"


def note(text: str, x: float = 0.5, y: float = 0.5) -> dict[str, Any]:
    """Return an annotation at a place of the figure, as fractions of its width and height."""
    return {"text": text, "x": x, "y": y, "xref": "paper", "yref": "paper", "showarrow": False, "font": {"color": GREY}}


def make_figure(traces: Traces, title: str, **layout: Any) -> go.Figure:
    """Return a figure.

    Args:
        traces: Plotly's traces, as plain dictionaries.
        title: escaped already.
        layout: further parts of Plotly's layout.

    Raises:
        OptionError: Plotly is not installed.
    """
    plotly = _graph_objects()
    look = {
        "title": {"text": title, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top", "font": {"size": 15}},
        "font": {"color": GREY, "size": 12, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "colorway": COLORS,
        "legend": {"itemsizing": "constant", "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 30, "t": 90, "b": 50},
        "template": "none",
    }
    return plotly.Figure({"data": list(traces), "layout": look | layout})


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise OptionError(f"plots need plotly, which cannot be imported ({error}): pip install plotly") from None
    return go


def short_number(value: float) -> str:
    """Return a number for a tick: 4 significant digits, 3e-05 rather than 0.00003."""
    text = f"{value:.4g}"
    return text.replace("e-0", "e-").replace("e+0", "e+") if "e" in text else text
