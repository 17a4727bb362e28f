"""What the README shows works, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import search
from search import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> dict[str, set[str]]:
    """Every command of `search`, and its flags."""
    group = typer.main.get_command(cli.app)
    return {
        name: {flag for parameter in command.params for flag in parameter.opts}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def test_the_space_file_and_what_follows_it(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    space, results = blocks("python")[:2]
    (workplace / "space.py").write_text(space)
    assert cli.main(["run", "space.py", "--max-epochs", "3", "--workers", "1", "--seed", "0"]) == 0
    shown = capfd.readouterr()
    assert "objective val_accuracy, max, as nothing else was asked for" in shown.err
    assert cli.main(["best", "space"]) == 0
    scope: dict[str, object] = {}
    exec(results, scope)
    model = scope["model"]
    assert model.count_params() > 0  # type: ignore[attr-defined]


def test_every_command_and_flag_that_the_readme_names_is_there() -> None:
    known = commands()
    flags = set().union(*known.values())
    assert set(re.findall(r"`search ([a-z]+)", README)) - set(known) == set()
    assert set(re.findall(r"^search ([a-z]+)", README, re.MULTILINE)) - set(known) == set()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--constraint", "--help", "--seeds"}
    assert named - flags == set()
    assert len(named) > 20


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in commands() if f"search {name}" not in README] == []


def test_every_exported_name_is_there_and_in_the_readme() -> None:
    for name in search.__all__:
        assert getattr(search, name) is not None
    public = [name for name in search.__all__ if name.islower() and not name.startswith("__")]
    assert [name for name in public if f"search.{name}" not in README] == []
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        search.nothing  # noqa: B018


def test_the_versions_that_were_tested_satisfy_what_is_required() -> None:
    import tomllib

    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text
