"""Tests of the explanation pages: their pictures are there and small, and private-names.md has every capability."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from places import ROOT

FOLDER = ROOT / "docs" / "explanation"
PICTURES = sorted(path.name for path in FOLDER.glob("*.svg"))
LARGEST = 60_000


def capabilities() -> Iterator[tuple[str, str]]:
    """Yield each capability of the islands: its name, and the text that says how it is done without."""
    for path in sorted((ROOT / "search").rglob("*internals.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "capability":
                (without,) = (keyword.value for keyword in node.keywords if keyword.arg == "without")
                yield ast.literal_eval(node.args[0]), ast.literal_eval(without)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_and_on_a_page_of_its_folder(name: str) -> None:
    assert (FOLDER / name).stat().st_size < LARGEST
    assert any(f"]({name})" in page.read_text() for page in FOLDER.glob("*.md"))


def test_every_picture_is_drawn_by_the_script() -> None:
    script = (ROOT / "docs" / "figures.py").read_text()
    drawn = re.findall(r'^    "([\w-]+)": draw_\w+,$', script, re.MULTILINE)
    assert sorted(f"{name}.svg" for name in drawn) == PICTURES


def test_the_page_about_private_names_has_every_capability() -> None:
    page = (FOLDER / "private-names.md").read_text()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    shown = {(row[0], row[-1]) for row in rows}
    found = set(capabilities())
    assert len(found) > 10
    assert found - shown == set()
