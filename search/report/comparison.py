"""The comparison of several studies: their answers in one table, and their progress on the same axes."""

from __future__ import annotations

from collections.abc import Sequence

from search.display.text import NONE, format_objective, format_seconds
from search.report.answer import describe_end, test_value
from search.report.figure_sections import Plan, figures_section
from search.report.html import Child, Html, element, join
from search.report.subject import Subject
from search.report.table import Cell, code, number_cell, table


def comparison_section(subjects: Sequence[Subject], ids: Sequence[str]) -> Html:
    """Return the comparison.

    Args:
        subjects: the studies, in the order that the user gave.
        ids: the id of each study's own part of the page.
    """
    heads: list[Child] = ["study", "objective", "best", "test", "trials", "epochs", "time", "workers", "end"]
    rows = [_row(subject, id) for subject, id in zip(subjects, ids, strict=True)]
    return join(
        element("p", _verdict(subjects), class_="note"),
        table("The studies", heads, rows, sortable=True, key=True),
        figures_section("comparison", _plans(subjects), level=3),
    )


def _row(subject: Subject, id: str) -> list[Cell]:
    study, best = subject.study, subject.study.best
    tested = None if best is None else test_value(subject, best)
    epochs, value = study.known_epochs, None if best is None else best.objective
    return [
        Cell(element("a", subject.name, href=f"#{id}")),
        Cell(join(study.objective.direction, " ", code(study.objective.name))),
        number_cell(value, format_objective(value)),
        number_cell(tested and tested[1], format_objective(tested and tested[1])),
        number_cell(len(study.trials), f"{len(study.trials):,}"),
        number_cell(epochs, NONE if epochs is None else f"{epochs:,}"),
        number_cell(seconds := subject.seconds, format_seconds(seconds)),
        Cell(str(subject.options.workers or "auto"), number=True),
        Cell(describe_end(subject)),
    ]


def _verdict(subjects: Sequence[Subject]) -> str:
    """Return the study with the best value, in words; or the reason why they cannot be ranked."""
    objectives = {subject.study.objective for subject in subjects}
    if len(objectives) > 1:
        return "The studies have different objectives, so their best values cannot be compared."
    objective = next(iter(objectives))
    found = [(subject, best) for subject in subjects if (best := subject.study.best) is not None]
    if not found:
        return "No study has a trial with an objective yet."
    first, best = min(found, key=lambda pair: objective.cost(pair[1].objective))
    return (
        f"{first.name} has the best {objective.name}, {format_objective(best.objective)}. To tell searches apart from "
        "luck, run several seeds of each."
    )


def _plans(subjects: Sequence[Subject]) -> list[Plan]:
    from search.plots.compare import plot_comparison

    studies = [subject.study for subject in subjects]
    return [
        Plan(
            "All studies over epochs",
            "The best value of each study over its epochs.",
            lambda: [plot_comparison(studies, by="epochs")],
        ),
        Plan(
            "All studies over time",
            "The best value of each study over the seconds of its search.",
            lambda: [plot_comparison(studies, by="time")],
        ),
    ]
