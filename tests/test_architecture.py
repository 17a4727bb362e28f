"""The architecture page names files and packages that exist, and every package has its place there."""

from __future__ import annotations

import re

import pytest
from places import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:search|tests|benchmarks|spaces)/[\w./]*)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("package", sorted(path.parent.name for path in (ROOT / "search").glob("*/__init__.py")))
def test_every_package_is_on_the_page(package: str) -> None:
    assert f"{package}/" in PAGE


def test_the_page_names_many_files() -> None:
    assert len(NAMED) > 60


def test_a_module_that_a_row_names_without_a_folder_is_in_the_folder_of_the_one_before() -> None:
    table = PAGE[PAGE.index("## To change X") : PAGE.index("A back end or an executor is tried quickly")]
    for line in table.splitlines():
        folder = ROOT
        for name in re.findall(r"`([\w./]+)`", line.split("|")[2] if line.startswith("|") else ""):
            if "/" in name:
                folder = ROOT / name if (ROOT / name).is_dir() else (ROOT / name).parent
            elif name.endswith(".py"):
                assert (folder / name).exists(), f"{name} in {line}"
