"""The package as it is installed: its requirements, its metadata, its files, and the platforms that it runs on."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import release
from packaging.requirements import Requirement
from places import ROOT, SPACES, TINY
from trove_classifiers import classifiers

import search
from search import cli, platforms
from search.plugins import loading
from search.study.records import FORMAT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
USER_EXTRAS = {name: texts for name, texts in EXTRAS.items() if name not in ("dev", "bench")}

DISTRIBUTIONS = {
    "google": "protobuf",
    "keras_tuner": "keras-tuner",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
}
"""Distributions that are not called like their modules."""

THROUGH = {"alembic": "mlflow", "protobuf": "tensorboard", "requests": "mlflow", "sqlalchemy": "mlflow"}
"""Packages that are imported as another one's own: to catch its exceptions, or to call what it has made."""

UNIMPORTED = {"cmaes": "Optuna's sampler imports it", "tf2onnx": "Keras's export imports it"}


def names(texts: list[str]) -> set[str]:
    return {Requirement(text).name for text in texts}


def imported(folder: Path) -> Iterator[str]:
    """Yield the distribution of each import in the files of `folder` that is not Python's or this package's own."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"search"}:
                yield DISTRIBUTIONS.get(top, top)


# Requirements ---------------------------------------------------------------------------------------------------------


def test_every_package_that_is_imported_is_required() -> None:
    required = names(PROJECT["dependencies"]).union(*map(names, USER_EXTRAS.values()))
    assert {THROUGH.get(name, name) for name in imported(ROOT / "search")} - required == set()


def test_every_package_that_is_required_is_imported() -> None:
    required = names(PROJECT["dependencies"]).union(*map(names, USER_EXTRAS.values()))
    examples = names(EXTRAS["examples"])
    assert required - {*imported(ROOT / "search")} - set(UNIMPORTED) - examples == set()
    assert examples <= {*imported(SPACES)}


def test_the_ready_spaces_need_the_package_and_the_extra_examples() -> None:
    # JAX is imported only if Keras trains with it.
    required = names(PROJECT["dependencies"]) | names(EXTRAS["examples"]) | names(EXTRAS["jax"])
    local = {path.stem for path in SPACES.rglob("*.py")}
    assert {*imported(SPACES)} - local - required == set()


def test_hints_name_packages_and_no_extras() -> None:
    hints = [
        (path, hint)
        for path in (ROOT / "search").rglob("*.py")
        for hint in re.findall(r"pip install ([^\n]*)", path.read_text())
    ]
    assert len(hints) > 8
    assert [(path, hint) for path, hint in hints if "keras-search" in hint] == []


# Metadata -------------------------------------------------------------------------------------------------------------


def test_the_classifiers_exist_and_name_the_versions_of_python_that_are_allowed() -> None:
    assert set(PROJECT["classifiers"]) - classifiers == set()
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)}
    assert named == {f"3.{minor}" for minor in range(30) if allowed.contains(f"3.{minor}.5")}


def test_the_changelog_begins_with_this_version() -> None:
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert heading[1].partition(",")[0] == search.__version__ == release.current_version()


def test_the_page_of_versions_has_the_ranges_of_the_metadata() -> None:
    requirements = map(
        Requirement, [*PROJECT["dependencies"], *(text for texts in USER_EXTRAS.values() for text in texts)]
    )
    ranges = {each.name: each.specifier for each in requirements if not each.extras}
    ranges["python"] = Requirement(f"python{PROJECT['requires-python']}").specifier
    page = (ROOT / "docs" / "versions.md").read_text()
    shown = dict(re.findall(r"^\| (\w+) +\| `([<>=\d.,]+)` ", page, re.MULTILINE))
    assert len(shown) > 12
    for name, text in shown.items():
        found = {"KerasTuner": "keras-tuner"}.get(name, name.lower())
        assert Requirement(f"{found}{text}").specifier == ranges[found], name


def test_the_page_of_versions_has_the_numbers_of_the_journal_and_of_the_protocols() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    assert f"The journal's format is {FORMAT}. Formats 1 to {FORMAT - 1} are read" in page
    shown = dict(re.findall(r"^\| (back end|executor|stop rule|follower) +\| (\d+) ", page, re.MULTILINE))
    registries = (loading.BACKENDS, loading.EXECUTORS, loading.STOP_RULES, loading.FOLLOWERS)
    assert shown == {each.kind: str(each.protocol) for each in registries}


def test_every_goal_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text()
    goals = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)) - {"help", "install"}
    assert set(re.findall(r'@echo "make ([a-z-]+)', text)) == goals
    assert [name for name in goals if f"make {name}" not in (ROOT / "CONTRIBUTING.md").read_text()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_of_the_source_distribution_searches_in_another_folder(tmp_path: Path) -> None:
    """The environment is new, and sees the installed packages of this one, but no checkout."""
    wheel, sdist = release.build(tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (again,) = release.build(tmp_path / "again", tmp_path / sdist.name.removesuffix(".tar.gz"), ["wheel"])
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        assert {name.partition("/")[0].partition("-")[0] for name in one.namelist()} == {"search", "keras_search"}
    python = release.make_environment(tmp_path / "environment")
    release.run(python, "-m", "pip", "install", "-qq", "--no-index", "--no-deps", again, cwd=tmp_path)
    own = release.run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", capture_output=True)
    (Path(own.stdout.strip()) / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    place = tmp_path / "elsewhere"
    place.mkdir()
    release.try_out(python, place)


# Release --------------------------------------------------------------------------------------------------------------


def test_a_release_needs_a_clean_tree_and_a_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(release, "ROOT", tmp_path)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3, unreleased\n")
    git("init")
    with pytest.raises(release.Failed, match=r"not committed: CHANGELOG\.md, search/"):
        release.version()
    git("add", ".")
    git("commit", "-m", "one")
    with pytest.raises(release.Failed, match=r'"## 1\.2\.3, unreleased": write "## 1.2.3, YEAR'):
        release.version()
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3, 2026-12-01\n")
    git("commit", "--all", "-m", "two")
    release.version()
    git("tag", "v1.2.3")
    with pytest.raises(release.Failed, match=r"v1\.2\.3 exists"):
        release.version()


def test_every_step_of_a_release_runs_and_a_failure_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise release.Failed("no\nmore")

    monkeypatch.setattr(release, "STEPS", {"one": fail, "two": lambda: None})
    assert release.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["one", "two"]
    assert lines[-2].endswith("no")
    assert lines[-1].endswith("passed")
    assert release.main(["--only", "two"]) == 0
    assert "git tag" not in capsys.readouterr().out


# Platforms ------------------------------------------------------------------------------------------------------------

ON_WINDOWS = """
import sys
sys.platform = "win32"
before = set(sys.modules)
from search.cli import main
code = main(["run", "space.py"])
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
sys.exit(code)
"""


def test_a_command_on_windows_names_wsl_before_any_import() -> None:
    done = subprocess.run([sys.executable, "-c", ON_WINDOWS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"search: {platforms.UNSUPPORTED}\n"
    assert "WSL" in done.stderr
    assert ast.literal_eval(done.stdout) == ["search", "search.cli", "search.platforms"]


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'fcntl'"), AttributeError("SIGHUP")])
def test_a_public_name_on_windows_names_wsl(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(type(error), match=str(error)):
        search.__getattr__("run")
    monkeypatch.setattr(platforms.sys, "platform", "win32")
    with pytest.raises(ImportError, match="run it in WSL"):
        search.__getattr__("run")


def test_only_linux_is_tested() -> None:
    assert platforms.untested_line("linux") is None
    assert platforms.untested_line("darwin") == (
        "macOS is untested: all tests run on Linux. If something fails here, try it on Linux"
    )
    assert str(platforms.untested_line("freebsd14")).startswith("freebsd14 is untested")


def test_a_search_on_another_platform_says_that_it_is_untested(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.driver.launch.untested_line", lambda: platforms.untested_line("darwin"))
    arguments = ["run", str(TINY), "--max-epochs", "1", "--max-trials", "1", "--workers", "1", "--no-progress"]
    assert cli.main(arguments) == 0
    assert capfd.readouterr().err.count("macOS is untested") == 1
