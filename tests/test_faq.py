"""Each message that the FAQ quotes still stands in the source."""

from __future__ import annotations

import ast
import functools
import re

import pytest
from doc_pages import ROOT

PAGE = (ROOT / "docs" / "faq.md").read_text()
ELSEWHERE = {"No such option: ": "typer"}
"""Messages of other packages, by their beginning."""

MESSAGES = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
REASONS = re.findall(r"^\| `fit: (.+?)` ", PAGE, re.MULTILINE)
GAP = "…"


@functools.cache
def templates() -> set[str]:
    """Return each text of the source, with a gap for each value that is formatted into it."""
    found = set()
    for path in (ROOT / "search").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else GAP for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {text for text in found if len(text) > 8 and " " in text}


def pattern(message: str) -> re.Pattern[str]:
    """Return a pattern of the templates that may print `message`, in which a gap stands for any text."""
    return re.compile(".*".join(map(re.escape, message.split(GAP))), re.DOTALL)


def stands(message: str) -> bool:
    return any(map(pattern(message).search, templates()))


def places_to_split(message: str) -> list[int]:
    """Return the places at which a message may consist of two texts of the source, each of some length."""
    return [match.start() for match in re.finditer(r"[ :]", message) if 12 < match.start() < len(message) - 12]


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) > 50
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert len(REASONS) > 8


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_stands_in_the_source(message: str) -> None:
    if not message.startswith(tuple(ELSEWHERE)):
        assert max(map(len, message.split(GAP))) > 8, "too little of it is fixed"
        assert stands(message) or any(stands(message[:i]) and stands(message[i:]) for i in places_to_split(message))


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_against_fused_epochs_stands_in_the_source(reason: str) -> None:
    text = "".join((ROOT / "search/worker/runners" / name).read_text() for name in ("choose.py", "fused.py"))
    fixed = re.sub(r"[\d.]+|torch|MyCallback|\bfit$|\bown fit", GAP, reason).replace("on_train_batch_end", GAP)
    assert [part for part in fixed.split(GAP) if part.strip(". ") and part.strip(". ") not in text] == []


def test_a_message_that_is_not_in_the_source_is_found() -> None:
    assert not stands("there is no … in the soup")
