"""Users' text in figures: hostile names and values are shown as they are, in every figure, and never as HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import plot_studies
import pytest
from plot_studies import HOSTILE

from search.plots.compare import plot_comparison
from search.plots.curves import plot_curves
from search.plots.history import plot_history
from search.plots.importance import plot_importance
from search.plots.interaction import plot_interaction
from search.plots.parallel import plot_parallel
from search.plots.slices import plot_slices
from search.plots.text import LABEL, full, label, params_lines, plain_value
from search.plots.timeline import plot_timeline
from search.study.study import Study

FIGURES: dict[str, Callable[[Study], Any]] = {
    "curves": plot_curves,
    "metric": lambda study: plot_curves(study, HOSTILE[1]),
    "history": plot_history,
    "importance": plot_importance,
    "parallel": lambda study: plot_parallel(study)[0],
    "slices": plot_slices,
    "interaction": plot_interaction,
    "timeline": plot_timeline,
    "comparison": lambda study: plot_comparison([study]),
}

ALLOWED = re.compile(r"</?b>|<br>|<extra></extra>")


@pytest.fixture(scope="module")
def hostile() -> Study:
    return plot_studies.hostile().study


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text of a figure with the key that it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, key)
    elif isinstance(value, str):
        yield key, value


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_hostile_names_as_text(hostile: Study, name: str) -> None:
    figure = json.loads(FIGURES[name](hostile).to_json())
    found = [*texts(figure)]
    assert any("script" in text for _, text in found)
    for data in (axis for trace in figure["data"] for axis in trace.get("dimensions", ())):
        data.pop("ticktext", None)  # parallel coordinates read no HTML there
    for key, text in texts(figure):
        assert "<" not in ALLOWED.sub("", text), f"{key}: {text}"
        assert not re.search(r"\$.*\$", text), f"{key}: {text}"
        if key.endswith("template"):
            assert not any(word in text for word in ("script", "curly", "xxx")), f"{key}: {text}"


def test_a_label_is_short_and_escaped_after_it_is_shortened() -> None:
    assert label("lr") == "lr"
    assert label("<b>") == "&lt;b&gt;"
    assert label("a & b") == "a &amp; b"
    assert label("<" * 30) == "&lt;" * (LABEL - 1) + "…"
    assert label("two\nlines") == "two lines"
    assert label("half \ud800") == "half ?"
    assert "$" not in label("$x$")


def test_a_hover_text_is_whole_and_broken_into_lines() -> None:
    assert full("x" * 200).count("<br>") == 2
    assert full("x" * 200).replace("<br>", "") == "x" * 200
    assert full("x" * 10_000).endswith("<br>…")
    assert full("") == ""


def test_many_hyperparameters_are_counted_in_a_hover_text() -> None:
    lines = params_lines({f"p{place}": place for place in range(600)}).split("<br>")
    assert len(lines) == 12
    assert lines[-1] == "… 589 more"


def test_ticks_of_parallel_coordinates_are_plain() -> None:
    assert plain_value("<b>&</b>") == "<b>&</b>"
    assert len(plain_value("x" * 200)) == 16
