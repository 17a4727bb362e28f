"""Tests of the README: its examples, commands and options work as written."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import mlflow
import pytest
import typer

import search
from search import cli
from search.cli.program import make_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> dict[str, set[str]]:
    """Return the flags of every command of `search`, by its name."""
    group = typer.main.get_command(make_app())
    return {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Yield a folder with the README's files, in which the first one was searched, and the output of that search."""
    folder = tmp_path_factory.mktemp("readme")
    for block in blocks("python"):
        if named := re.match(r"# (\w+\.py)\n", block):
            (folder / named[1]).write_text(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        with redirect_stderr(io.StringIO()) as printed:
            assert cli.main(["run", "space.py", "--max-epochs", "3", "--workers", "1", "--seed", "0"]) == 0
        yield folder, printed.getvalue()
        # A block of the README has set it, for this process and its children.
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_the_first_search_prints_the_objective_and_the_plan_of_the_readme(searched: tuple[Path, str]) -> None:
    objective, plan, *_ = blocks("console")[0].splitlines()[1:]
    assert objective in searched[1]
    plan = (
        plan.partition("; ")[0]
        .replace("max_epochs 9", "max_epochs 3")
        .replace("17 trials, 75 epochs in 3", "5 trials, 11 epochs in 2")
    )
    assert f"\n{plan}; 1 at once: CPU " in searched[1]
    assert cli.main(["best", "space"]) == 0


@pytest.mark.parametrize(
    "name", [name for block in blocks("python") for name in re.findall(r"^# (\w+\.py)\n", block)[:1]]
)
def test_every_space_file_of_the_readme_can_be_searched(
    searched: tuple[Path, str], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", name]) == 0, capfd.readouterr().err


@pytest.mark.slow
def test_every_other_block_of_the_readme_runs(searched: tuple[Path, str]) -> None:
    scope: dict[str, Any] = {}
    for block in blocks("python"):
        if not re.match(r"# \w+\.py\n", block):
            exec(compile(block, "README.md", "exec"), scope)
    assert scope["model"].count_params() > 0
    assert len(scope["study"].trials) > 0


def test_every_command_and_flag_of_the_readme_exists() -> None:
    known = commands()
    flags = set().union(*known.values())
    assert set(re.findall(r"`search ([a-z]+)", README)) - set(known) == set()
    assert set(re.findall(r"^search ([a-z]+)", README, re.MULTILINE)) - set(known) == set()
    text = re.sub(r"`python [^`]*`", "", README)  # without the options of benchmarks
    others = {"--constraint", "--help", "--seeds", "--logdir", "--install-completion"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - others
    assert named - flags == set()
    assert len(named) > 20


def test_the_tables_name_every_ready_space() -> None:
    spaces = {path.name for path in (ROOT / "spaces").glob("*.py")}
    assert set(re.findall(r"\[(\w+\.py)\]\(\1\)", (ROOT / "spaces" / "README.md").read_text())) == spaces
    assert set(re.findall(r"`(\w+\.py)`", README[README.index("### Ready to copy") :].split("[spaces/")[0])) == spaces


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in commands() if f"search {name}" not in README] == []


def test_every_exported_name_exists_and_is_in_the_readme() -> None:
    for name in search.__all__:
        assert getattr(search, name) is not None
    public = [name for name in search.__all__ if name.islower() and not name.startswith("__")]
    assert [name for name in public if f"search.{name}" not in README] == []
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        search.nothing  # noqa: B018


def test_the_cluster_page_links_to_files_and_sections_that_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    sections = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([\w-]+)\)", page)) == sections
    files = re.findall(r"\(\.\./\.\./([\w./]+)\)", page)
    assert len(files) >= 4
    assert [name for name in files if not (ROOT / name).exists()] == []
    for line in re.findall(r"^search run .*$", page, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", line)) - commands()["run"] == set()


def test_the_pinned_versions_satisfy_the_requirements() -> None:
    import tomllib

    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text
