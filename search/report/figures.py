"""The figures of the page: each with a title, a sentence that says what it shows, and its data as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import SearchError
from search.report.html import Html, element, join, json_script, one_line
from search.report.redaction import hide_secrets
from search.report.subject import Subject

HEIGHT = 450
"""Height of a figure that has none of its own, in pixels."""

_WEBGL = ("parcoords", "scattergl", "splom", "scatter3d", "heatmapgl")
"""Types of traces that need a WebGL context, of which browsers allow a page about sixteen."""

MOST_SVG_POINTS = 3000
"""Points of a figure up to which markers are drawn as SVG: it prints sharply, and needs no WebGL context."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A figure that a section may have.

    Attributes:
        title: its heading.
        sentence: says what the figure shows, also to those who cannot see it.
        make: returns the figures, plotly's; it raises SearchError if there is nothing to show.
    """

    title: str
    sentence: str
    make: Callable[[], Sequence[Any]]


def study_plans(subject: Subject) -> list[Plan]:
    """Return the figures of one study, in the order of the page."""
    from search.plots.curves import plot_curves
    from search.plots.history import plot_history
    from search.plots.importance import plot_importance
    from search.plots.interaction import plot_interaction
    from search.plots.parallel import plot_parallel
    from search.plots.slices import plot_slices
    from search.plots.timeline import plot_timeline

    study, entries = subject.study, subject.entries
    name = one_line(study.objective.name)
    return [
        Plan(
            "Learning curves",
            f"{name} of each trial after each of its epochs.",
            lambda: [plot_curves(study)],
        ),
        Plan(
            "Best value over epochs",
            f"The best {name} so far, and each trial's end, over the epochs of the whole search.",
            lambda: [plot_history(study, by="epochs")],
        ),
        Plan(
            "Best value over time",
            f"The best {name} so far, and each trial's end, over the seconds of the search.",
            lambda: [plot_history(study, by="time")],
        ),
        Plan(
            "Values and results",
            f"Each trial is a line through its values and its {name}. Drag along an axis to keep the lines that cross "
            "there.",
            lambda: plot_parallel(study),
        ),
        Plan(
            "Importance of the hyperparameters",
            f"The share of the differences in {name} that each hyperparameter explains, with an interval for its error.",
            lambda: [plot_importance(study)],
        ),
        Plan(
            "Each hyperparameter",
            f"{name} of the trials against each hyperparameter, the most important first.",
            lambda: [plot_slices(study)],
        ),
        Plan(
            "The two most important together",
            f"{name} over the two most important hyperparameters.",
            lambda: [plot_interaction(study)],
        ),
        Plan(
            "Workers",
            "The trial that each slot trained at each time.",
            lambda: [plot_timeline(study, entries)],
        ),
    ]


def figures_section(prefix: str, plans: Sequence[Plan]) -> Html:
    """Return figures one below the other. A figure that cannot be made is a sentence.

    Args:
        prefix: begins the ids of their elements.
        plans: the figures.
    """
    return join(*(_figure(f"{prefix}-{_slug(plan.title)}", plan) for plan in plans))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def _figure(id: str, plan: Plan) -> Html:
    try:
        drawn = list(_drawn(id, plan))
    except SearchError as error:
        drawn = [element("p", f"Nothing to show: {error}", class_="quiet")]
    except Exception as error:  # one figure must not cost the others
        drawn = [element("p", f"This figure could not be made ({type(error).__name__}: {error}).", class_="note warning")]
    return element("section", element("h4", plan.title, id=id), *drawn, class_="figure", aria_labelledby=id)


def _drawn(id: str, plan: Plan) -> Iterator[Html]:
    figures = plan.make()
    for number, figure in enumerate(figures):
        own = f"{id}-{number}"
        data = _prepared(figure)
        height = int(data["layout"].get("height") or HEIGHT)
        webgl = any(trace.get("type") in _WEBGL for trace in data["data"])
        yield element(
            "figure",
            element("figcaption", plan.sentence) if number == 0 else None,
            element(
                "div",
                class_="plot",
                style=f"min-height:{height}px",
                data_figure=f"{own}-data",
                data_webgl=webgl,
                data_sentence=plan.sentence,
            ),
            json_script(_to_json(data), f"{own}-data"),
        )


def _prepared(figure: Any) -> dict[str, Any]:
    """Return a figure as a dict without secrets, with SVG markers if there are few."""
    data: dict[str, Any] = _without_secrets(figure.to_plotly_json())
    points = sum(len(trace.get("x", ())) for trace in data["data"] if trace.get("x") is not None)
    for trace in data["data"]:
        if trace.get("type") == "scattergl" and points <= MOST_SVG_POINTS:
            trace["type"] = "scatter"
    return data


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    if getattr(value, "dtype", None) == object:
        return [_without_secrets(item) for item in value.tolist()]
    return value


def _to_json(data: Any) -> str:
    from plotly.io.json import to_json_plotly

    text: str = to_json_plotly(data)
    return text
