"""Each name in the tables of `docs/coming-from` exists: in the other tool, and here."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
from doc_pages import ROOT, commands

import search
from search.results.study_results import StudyResults

PACKAGES = ("keras_tuner", "optuna", "ray")
DISTRIBUTIONS = {"keras-tuner": "keras-tuner", "optuna": "optuna", "ray-tune": "ray"}
"""The name of each page, and of the package that it is about."""

PAGES = {name: (ROOT / "docs" / "coming-from" / f"{name}.md").read_text() for name in DISTRIBUTIONS}


def rows(page: str) -> list[list[str]]:
    """Return the cells of the table of words."""
    table = page.partition("## Words")[2].partition("\n## ")[0]
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    return found[2:]


def theirs() -> list[str]:
    """Return each dotted name of another tool."""
    names = "|".join(PACKAGES)
    return sorted({name for page in PAGES.values() for name in re.findall(rf"`((?:{names})(?:\.\w+)+)", page)})


def look_up(name: str) -> Any:
    """Return the object of a dotted name: an attribute of the longest part that is a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", PAGES)
def test_a_table_has_three_columns(name: str) -> None:
    assert len(rows(PAGES[name])) > 20
    assert [row for row in rows(PAGES[name]) if len(row) != 3] == []


@pytest.mark.parametrize("name", theirs())
def test_a_name_of_another_tool_exists(name: str) -> None:
    pytest.importorskip(name.partition(".")[0])
    assert look_up(name) is not None


@pytest.mark.parametrize("name", PAGES)
def test_a_name_of_ours_exists(name: str) -> None:
    flags = set().union(*commands().values())
    for _, ours, remark in rows(PAGES[name]):
        text = f"{ours} {remark}"
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= flags, ours
        assert set(re.findall(r"`search ([a-z]+)", text)) <= set(commands()), ours
        assert [used for used in re.findall(r"`search\.(\w+)", text) if not hasattr(search, used)] == []
        assert [used for used in re.findall(r"`study\.(\w+)", text) if not hasattr(StudyResults, used)] == []


@pytest.mark.parametrize("name", PAGES)
def test_the_version_compared_with_is_that_of_the_tests(name: str) -> None:
    pinned = (ROOT / "constraints.txt").read_text()
    version = re.search(rf"^{DISTRIBUTIONS[name]}==([\d.]+)$", pinned, re.MULTILINE)
    assert version is not None
    stated = re.search(r"comparison\s+is\s+with\s+\w+\s+([\d.]+\d)", PAGES[name])
    assert stated is not None
    assert version[1].startswith(stated[1])
