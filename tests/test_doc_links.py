"""Each link of the documents to a file of the repository, and to a section of a page, leads to something."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from doc_pages import ROOT, pages

PAGES = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "spaces" / "README.md"]

_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.M)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+(\S+)", re.M)
_INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.M)


def links_of(text: str) -> list[str]:
    """Return the targets of the links in a page's text, those to the network left out."""
    found = [first or second for first, second in _LINK.findall(_CODE.sub("", text))]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@cache
def anchors_of(page: Path) -> set[str]:
    """Return the names of the sections of `page`, as GitHub and MyST make them, those of included files with them."""
    text = page.read_text()
    found: set[str] = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    for name in _INCLUDE.findall(text):
        if name.endswith(".md"):
            found |= anchors_of((page.parent / name).resolve())
    times: Counter[str] = Counter()
    for title in re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.M), re.M):
        slug = slug_of(title)
        found.add(f"{slug}-{times[slug]}" if times[slug] else slug)
        times[slug] += 1
    return found


def slug_of(title: str) -> str:
    """Return the name of the section with this title."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    return re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")


def fault_of(page: Path, target: str) -> str | None:
    """Return the fault of a link of `page`, None if it leads to something."""
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return "there is no such file"
    if not path.is_relative_to(ROOT):
        return "it leaves the repository"
    if anchor and path.suffix == ".md" and anchor not in anchors_of(path):
        return "there is no such section"
    return None


@pytest.mark.parametrize("name", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_to_something(name: str) -> None:
    page = ROOT / name
    faults = {target: fault_of(page, target) for target in links_of(page.read_text())}
    assert {target: fault for target, fault in faults.items() if fault is not None} == {}


def test_links_in_code_and_to_the_network_are_left_alone() -> None:
    text = "[a](b.md) `[c](d.md)` ![e](f.png)\n```text\n[g](h.md)\n```\n[i](https://j.org)\n[k]: l.md\n"
    assert links_of(text) == ["b.md", "f.png", "l.md"]


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("GPUs, cores and processes", "gpus-cores-and-processes"),
        ("The `hp` of [KerasTuner](x.md)", "the-hp-of-kerastuner"),
        ("Coming from …", "coming-from-"),
        ("To change X, open Y", "to-change-x-open-y"),
    ],
)
def test_sections_are_named_as_github_names_them(title: str, slug: str) -> None:
    assert slug_of(title) == slug


def test_faults_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# One\n\n## Two words\n\n## Two words\n")
    assert fault_of(page, "#two-words-1") is None
    assert fault_of(page, "#three") == "there is no such section"
    assert fault_of(page, "other.md") == "there is no such file"
    assert fault_of(page, "..") == "it leaves the repository"
