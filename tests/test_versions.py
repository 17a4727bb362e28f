"""The script that tests other versions: what it installs, and how it finds interpreters."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
import versions
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(versions.ROOT) / "pyproject.toml").read_text())["project"]


def test_all_requirements_are_installed_but_those_left_out() -> None:
    found = versions.requirements(PROJECT, [])
    assert set(PROJECT["dependencies"]) < set(found)
    assert len(found) == len(set(found))
    names = {versions.package_name(text) for text in found}
    assert {"jax", "onnx", "tensorboard", "scipy", "pytest-xdist"} <= names
    assert not names & versions.LEFT_OUT
    # Named alone it would be the lowest version of all: the bound of the project stays.
    asked = versions.requirements(PROJECT, ["torch"])
    assert asked[-1] == "torch"
    assert any(text.startswith("torch>=") for text in asked)


def test_an_interpreter_that_is_found_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim of pyenv that refuses is passed over, for an interpreter of the folder of pyenv's versions."""
    shim, real = tmp_path / "shims" / "pythonX", tmp_path / "versions" / "X.1" / "bin" / "pythonX"
    for path, text in ((shim, "exit 127"), (real, f'exec {sys.executable} "$@"')):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=":")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "nowhere"))
    assert versions.find_python("pythonX") is None
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert versions.find_python("pythonX") == sys.executable


def test_the_table_has_a_row_for_each_set() -> None:
    results = [
        versions.Result("lowest", "3 passed, 1 failed, 0 skipped", "3.11.7", ["1.0"] * len(versions.SHOWN), 61.4, True),
        versions.Result("python3.13", "python3.13 is not installed"),
    ]
    head, *rows = versions.table(results).splitlines()
    assert head.split()[:3] == ["set", "python", "tensorflow"]
    assert [row.split()[0] for row in rows] == ["lowest", "python3.13"]
    assert rows[0].endswith("61 s")
    assert "3 passed, 1 failed, 0 skipped" in rows[0]
    assert "python3.13 is not installed" in rows[1]


def test_the_pinned_versions_satisfy_the_requirements() -> None:
    lines = (Path(versions.ROOT) / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text
