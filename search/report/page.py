"""The page: its head with all styles and scripts, and its sections in order."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from search import __version__
from search.errors import OptionError
from search.report.answer import answer_section
from search.report.comparison import comparison_section
from search.report.figure_sections import figures_section, study_plans
from search.report.html import Html, element, join
from search.report.reproduce import model_section, reproduce_section
from search.report.subject import Subject, format_date
from search.report.trial_table import cost_section, failures_section, trials_section

_THEME = Html("try{document.documentElement.dataset.theme=localStorage.getItem('search-theme')||''}catch(e){}")
"""Runs before the page is drawn, so that it does not flash in the other theme."""


def make_page(subjects: Sequence[Subject]) -> str:
    """Return the page of one study, or of several with a comparison first.

    Raises:
        OptionError: plotly is not installed.
    """
    names = [subject.name for subject in subjects]
    title = names[0] if len(names) == 1 else " and ".join(names)
    single = len(subjects) == 1
    ids = [f"study-{number}" for number in range(len(subjects))]
    parts = [_study(subject, id, single) for subject, id in zip(subjects, ids, strict=True)]
    links = _section_links(ids[0]) if single else [("comparison", "Comparison"), *zip(ids, names, strict=True)]
    if not single:
        parts.insert(0, _section("comparison", "Comparison", comparison_section(subjects, ids), level=2))
    body = join(
        element("a", "To the content", href="#content", class_="skip"),
        _header(title, single, subjects[0].now, links),
        element("main", *parts, id="content"),
        element("footer", element("p", f"Made by keras-search {__version__}, {format_date(subjects[0].now)}.")),
    )
    return _document(title, body)


def _header(title: str, single: bool, now: float, links: Sequence[tuple[str, str]]) -> Html:
    toggle = element("button", "Dark", id="theme", type="button", aria_pressed="false")
    return element(
        "header",
        element("div", element("p", "Report of a search" if single else "Report of searches", class_="quiet"), toggle),
        element("h1", element("bdi", title)),
        element("nav", *(element("a", text, href=f"#{id}") for id, text in links), aria_label="Sections"),
    )


_SECTIONS = (
    ("answer", "Answer"),
    ("figures", "Figures"),
    ("trials", "Trials"),
    ("failures", "Failures"),
    ("cost", "Cost"),
    ("reproduce", "Reproduce"),
    ("model", "Load the model"),
)


def _section_links(id: str) -> list[tuple[str, str]]:
    return [(f"{id}-{key}", text) for key, text in _SECTIONS]


def _study(subject: Subject, id: str, single: bool) -> Html:
    """Return the sections of one study."""
    level = 2 if single else 3
    makers = {
        "answer": lambda: answer_section(subject, level + 1),
        "figures": lambda: figures_section(id, study_plans(subject), level=level + 1),
        "trials": lambda: trials_section(subject),
        "failures": lambda: failures_section(subject) or element("p", "No trial failed."),
        "cost": lambda: cost_section(subject),
        "reproduce": lambda: reproduce_section(subject),
        "model": lambda: model_section(subject),
    }
    sections = [_section(f"{id}-{key}", text, makers[key](), level=level) for key, text in _SECTIONS]
    if single:
        return join(*sections)
    heading = element("h2", element("bdi", subject.name), id=f"{id}-title")
    return element("article", heading, *sections, id=id, aria_labelledby=f"{id}-title")


def _section(id: str, title: str, content: Html, *, level: int) -> Html:
    heading = element(f"h{level}", title, id=f"{id}-title")
    return element("section", heading, content, id=id, aria_labelledby=f"{id}-title")


# The document ---------------------------------------------------------------------------------------------------------


def _document(title: str, body: Html) -> str:
    """Return the whole file. Its policy lets it load nothing, and run nothing but its own scripts."""
    scripts = [_plotly(), _asset("page.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (_THEME, *scripts))
    # plotly compiles its WebGL programs with `new Function`.
    policy = (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", f"{title}: report"),
        element("style", _asset("page.css")),
        element("script", _THEME),
    )
    page = element("html", head, element("body", body, *(element("script", script) for script in scripts)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _asset(name: str) -> Html:
    return Html(resources.files("search.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def _plotly() -> Html:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise OptionError("a report needs plotly: pip install plotly") from None
    # A browser reads one kind of line end, and compares the script's digest afterwards.
    return Html(get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"))
