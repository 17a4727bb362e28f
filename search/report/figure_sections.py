"""The figures of the page: each with a title, a sentence that says what it shows, and its data as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from search.errors import SearchError
from search.report.html import Html, element, join, json_script, one_line
from search.report.redaction import hide_secrets
from search.report.subject import Subject

HEIGHT = 450
"""Height of a figure that has none of its own, in pixels."""

_WEBGL = ("parcoords", "scattergl", "splom", "scatter3d", "heatmapgl")
"""Types of traces that need a WebGL context, of which browsers allow a page about sixteen."""


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
    name = one_line(subject.study.objective.name)
    results = f"The best {name} so far, and each trial's end, over the"
    plans: list[tuple[str, str, Callable[[Subject], Sequence[Any]]]] = [
        ("Learning curves", f"{name} of each trial after each of its epochs.", _curves),
        ("Best value over epochs", f"{results} epochs of the whole search.", _history_by_epochs),
        ("Best value over time", f"{results} seconds of the search.", _history_by_time),
        (
            "Values and results",
            f"Each trial is a line through its values and its {name}. Drag along an axis to keep the lines that cross "
            "there.",
            _parallel,
        ),
        (
            "Importance of the hyperparameters",
            f"The share of the differences in {name} that each hyperparameter explains, and how sure that is.",
            _importance,
        ),
        (
            "Each hyperparameter",
            f"{name} of the trials against each hyperparameter, the most important first.",
            _slices,
        ),
        ("The two most important together", f"{name} over the two most important hyperparameters.", _interaction),
        ("Workers", "The trial that each slot trained at each time.", _timeline),
    ]
    return [Plan(title, sentence, partial(make, subject)) for title, sentence, make in plans]


# Imports stand in the functions: a package that is missing costs the figure that needs it, and no other.


def _curves(subject: Subject) -> Sequence[Any]:
    from search.plots.curves import plot_curves

    return [plot_curves(subject.study)]


def _history_by_epochs(subject: Subject) -> Sequence[Any]:
    from search.plots.history import plot_history

    return [plot_history(subject.study, by="epochs")]


def _history_by_time(subject: Subject) -> Sequence[Any]:
    from search.plots.history import plot_history

    return [plot_history(subject.study, by="time")]


def _parallel(subject: Subject) -> Sequence[Any]:
    from search.plots.parallel import plot_parallel

    return plot_parallel(subject.study)


def _importance(subject: Subject) -> Sequence[Any]:
    from search.plots.importance import plot_importance

    return [plot_importance(subject.study)]


def _slices(subject: Subject) -> Sequence[Any]:
    from search.plots.slices import plot_slices

    return [plot_slices(subject.study)]


def _interaction(subject: Subject) -> Sequence[Any]:
    from search.plots.interaction import plot_interaction

    return [plot_interaction(subject.study)]


def _timeline(subject: Subject) -> Sequence[Any]:
    from search.plots.timeline import plot_timeline

    return [plot_timeline(subject.study)]


def figures_section(prefix: str, plans: Sequence[Plan], *, level: int) -> Html:
    """Return figures one below the other. A figure that cannot be made is a sentence.

    Args:
        prefix: begins the ids of their elements.
        plans: the figures.
        level: of their headings.
    """
    return join(*(_figure(f"{prefix}-{_slug(plan.title)}", plan, level) for plan in plans))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def _figure(id: str, plan: Plan, level: int) -> Html:
    try:
        drawn = list(_drawn(id, plan))
    except SearchError as error:
        drawn = [element("p", f"Nothing to show: {error}", class_="quiet")]
    except Exception as error:  # one figure must not cost the others
        drawn = [
            element("p", f"This figure could not be made ({type(error).__name__}: {error}).", class_="note warning")
        ]
    return element("section", element(f"h{level}", plan.title, id=id), *drawn, class_="figure", aria_labelledby=id)


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
    """Return a figure as a dict without secrets."""
    data: dict[str, Any] = _without_secrets(figure.to_plotly_json())
    return data


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


def _to_json(data: Any) -> str:
    from plotly.io.json import to_json_plotly

    text: str = to_json_plotly(data)
    return text
