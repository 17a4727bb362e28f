"""Each example of the documents runs and prints what its page shows, and each command, flag and name in them exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import FIRST, ROOT, RUN, Different, Shop, blocks_of, commands, is_run, opened, pages, shown, written

import search

OTHERS = {"--help", "--version", "--install-completion", "--show-completion"}
"""Flags that belong to no command of `search`."""
NAMES = [str(page.relative_to(ROOT)) for page in pages()]


@pytest.fixture(scope="module")
def shop(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the folder of all pages. The README has run in it."""
    with opened(tmp_path_factory.mktemp("shop"), zygote) as made:
        yield made


@pytest.fixture(scope="module")
def readme(shop: Shop) -> Shop:
    shop.run(FIRST)
    return shop


@pytest.mark.slow
def test_the_readme_runs(readme: Shop) -> None:
    assert (readme.folder / "runs").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES[1:] if is_run(ROOT / name)])
def test_a_page_runs(readme: Shop, name: str) -> None:
    readme.run(ROOT / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_no_test_runs_says_why(name: str) -> None:
    for block in blocks_of(ROOT / name):
        assert block.not_run != "", f"{block.place}: the reason is missing"
        if block.language in ("bash", "sh", "pycon", "shell"):
            assert block.not_run, f"{block.place}: use console, or say why it is not run"
        if block.mark and not block.mark.startswith(("not run: ", "exits: ")):
            pytest.fail(f"{block.place}: <!-- {block.mark} --> is no mark of a block")
        if not block.language.startswith("{"):  # a directive of the site
            assert block.language in (*RUN, "bash", "text", "toml", "yaml", "json", "dockerfile")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_flag_of_a_page_exists(name: str) -> None:
    known = commands()
    text = (ROOT / name).read_text()
    assert set(re.findall(r"(?:`|^\$ )search ([a-z]+)", text, re.MULTILINE)) - set(known) == set()
    for line in re.findall(r"(?:`|^\$ )(search [a-z]+[^`\n]*)", text, re.MULTILINE):
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
        assert flags - known[line.split()[1]] - {"--help"} == set(), line


@pytest.mark.parametrize("name", NAMES)
def test_every_option_that_a_page_names_exists(name: str) -> None:
    scripts = "".join(path.read_text() for path in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*.py")])
    known = set().union(*commands().values(), OTHERS, re.findall(r'"(--[a-z][a-z-]+)', scripts))
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(--[a-z][a-z-]+)", text)) - known == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_a_page_is_used_in_it(name: str) -> None:
    """A file that nothing imports and no command names is written, and never run."""
    blocks = [block for block in blocks_of(ROOT / name) if block.not_run is None and block.language in RUN]
    for block in blocks:
        if block.file_name is not None:
            used = re.compile(rf"\b{re.escape(Path(block.file_name).stem)}\b")
            rest = "".join(other.text for other in blocks if other is not block and other.language != "output")
            assert used.search(rest), f"{block.place}: nothing uses {block.file_name}"


def test_no_two_pages_begin_a_study_of_the_same_name() -> None:
    """All pages run in one folder, where the second search of a name would be refused."""
    begun: dict[str, set[str]] = {}
    for page in pages()[1:]:  # the README's study is there for all of them
        for block in blocks_of(page):
            for line in re.findall(r"search run ([^\n]*)", block.text.replace("\\\n", " ")):
                named = re.search(r"--study (\S+)", line) or re.match(r"(?!space\b)(\w+)", line)
                if named and not re.search("--overwrite|--resume", line):
                    begun.setdefault(named[1], set()).add(page.name)
    assert len(begun) > 30
    assert {name: where for name, where in begun.items() if len(where) > 1} == {}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/reference/files.md"])  # has MLflow's tags
def test_every_public_name_that_a_page_uses_exists(name: str) -> None:
    for used in set(re.findall(r"`search\.([A-Za-z_]+)\(?", (ROOT / name).read_text())):
        assert hasattr(search, used) or (ROOT / "search" / used).is_dir() or (ROOT / f"search/{used}.py").exists(), used


def test_every_command_and_exported_name_is_in_the_documents() -> None:
    text = "".join(page.read_text() for page in pages())
    assert [name for name in commands() if f"search {name}" not in text] == []
    for name in search.__all__:
        assert getattr(search, name) is not None
    public = [name for name in search.__all__ if name.islower() and not name.startswith("__")]
    assert [name for name in public if f"search.{name}" not in text] == []


def test_the_table_of_ready_spaces_names_every_file() -> None:
    folder = ROOT / "spaces"
    named = re.findall(r"\[(\w+\.py)\]\(\1\)", (folder / "README.md").read_text())
    assert sorted(named) == sorted(path.name for path in folder.glob("*.py"))


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len(FIRST.read_text().splitlines()) < 150


# The rules themselves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("best 0.91 of 17 trials\n", "best 0.8 of 3 trials\n"),
        ("first\n…\nlast 3\n", "first\na\nb\nlast 4\n"),
        ("…\nlast\n", "a\nlast\n"),
        ("took … at last\n", "took 5m at last\n"),
        ("─── a ▁▂▃\n", "────── a ▁▇\n"),
    ],
)
def test_output_may_differ_in_numbers_and_at_dots(expected: str, printed: str) -> None:
    shown(expected, printed, "a page")


@pytest.mark.parametrize(
    ("expected", "printed"),
    [("a\n", "b\n"), ("a\n", "a\nb\n"), ("a\nc\n", "a\nb\nc\n"), ("a\n…\nc\n", "a\nb\n"), ("b\na\n", "a\nb\n")],
)
def test_other_output_is_refused(expected: str, printed: str) -> None:
    with pytest.raises(Different, match="a page"):
        shown(expected, printed, "a page")


def test_an_update_shows_the_lines_that_were_printed() -> None:
    assert shown("loss 0.1\n…\nend 1\n", "loss 0.25\nx\nend 2\n", "a page") == "loss 0.25\n…\nend 2\n"
    assert shown("", "anything\n", "a page") == ""


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return a shop for pages that lie in its own folder."""
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    return Shop(tmp_path)


def test_a_diff_changes_a_file(small: Shop) -> None:
    file, change = "```python\n# a.py\nx = 1\nprint(x)\n```\n", "```diff\n--- a.py\n-x = 1\n+x = 2\n```\n"
    small.run(page_of(small.folder, f"{file}{change}```console\n$ python a.py\n2\n```\n"))
    assert (small.folder / "a.py").read_text() == "# a.py\nx = 2\nprint(x)\n"
    with pytest.raises(Different, match=r"a\.py does not have these lines once"):
        small.run(page_of(small.folder, change))


def test_a_page_that_was_edited_while_it_ran_is_not_written(small: Shop) -> None:
    page = page_of(small.folder, "```python\nprint(1)\n```\n```output\n2\n```\n")
    found = small.run(page)
    assert "```output\n1\n" in written(page, found)
    page.write_text("new\n" + page.read_text())
    with pytest.raises(Different, match="edited while the page ran"):
        written(page, found)
