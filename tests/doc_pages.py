"""The examples of the documents: read from the pages, run, and compared with the output that a page shows.

    python tests/doc_pages.py docs/tutorial.md --update

runs one page and writes the printed output into it. These are the rules for a page:

- A `python` block that begins with `# name.py` is a file of that name. Other `python` blocks are executed, in order.
- A `diff` block that begins with `--- name.py` changes that file: its `-` lines become its `+` lines.
- An `output` block shows the lines that the `python` block ahead of it has printed.
- A `console` block has commands after `$ `, each with the lines that it has printed, if any are shown.
- In shown output, a line `…` stands for any lines, and `…` within a line for any text. Numbers may differ.
- `<!-- not run: reason -->` ahead of a block says why no test runs it, `<!-- exits: 2 -->` that its last command fails.

All pages run in one folder, the README first: pages may use its `space.py`, and the study that it searches.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
FIRST = ROOT / "README.md"
RUN = ("console", "diff", "python", "output")
"""The languages of the blocks that are run or say why not."""
SHELL = ("cat", "head", "ls", "mkdir", "tail")
"""Commands of the system that pages may use."""
WIDTH = 100

_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.M)
_MASKS = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b[0-9a-f]{8,}\b"), "0"),
    (re.compile(r"[▁▂▃▄▅▆▇█]+"), "▁"),
    (re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"), "0"),
    (re.compile(r"[─━]+"), "─"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `start` and `end` are the places of its text in the page's text."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    start: int
    end: int

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """The reason that no test runs this block."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else None

    @property
    def exit_code(self) -> int:
        return int(self.mark.removeprefix("exits:")) if self.mark.startswith("exits:") else 0

    @property
    def file_name(self) -> str | None:
        named = re.match(r"# ([\w./-]+\.py)\n", self.text) if self.language == "python" else None
        return named[1] if named else None


def pages() -> list[Path]:
    """Return every page of the documents, the README first."""
    return [FIRST, *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]


@functools.cache
def commands() -> dict[str, set[str]]:
    """Return the flags of every command of `search`, by its name."""
    from search.cli.program import make_app

    program: Any = typer.main.get_command(make_app())
    return {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in program.commands.items()
    }


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["text"],
            match["mark"] or "",
            match.start("text"),
            match.end("text"),
        )
        for match in _BLOCK.finditer(text)
    ]


def is_run(page: Path) -> bool:
    """Return whether `page` has a block to run."""
    return any(block.language in RUN and block.not_run is None for block in blocks_of(page))


class Different(AssertionError):
    """A page shows something that was not printed."""


def shown(expected: str, printed: str, place: str) -> str:
    """Return `expected` with each line as it was printed.

    Raises:
        Different: a line was not printed, or not in that place.
    """
    lines = expected.rstrip("\n").split("\n") if expected.strip() else []
    actual = [line.rstrip() for line in printed.rstrip("\n").split("\n")]
    result, at, free = [], 0, False
    for line in lines:
        if line.strip() == "…":
            result.append(line)
            free = True
            continue
        found = next(
            (i for i in range(at, len(actual) if free else min(at + 1, len(actual))) if _matches(line, actual[i])), None
        )
        if found is None:
            raise Different(f"{place} shows the line\n    {line}\nPrinted was\n{printed}")
        result.append(line if "…" in line else actual[found])
        at, free = found + 1, False
    if lines and not free and any(line.strip() for line in actual[at:]):
        raise Different(f"{place} ends too early. Printed was\n{printed}")
    return "".join(f"{line}\n" for line in result)


def _matches(line: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(_masked(part)) for part in line.rstrip().split("…"))
    return re.fullmatch(pattern, _masked(printed)) is not None


def _masked(text: str) -> str:
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text


@dataclass
class Shop:
    """A folder in which pages run, one after the other, in this process."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, page: Path) -> dict[Block, str]:
        """Run the blocks of `page`, and return the text of each block that shows output, as printed.

        Raises:
            Different: a block fails, or shows something that was not printed.
        """
        found: dict[Block, str] = {}
        scope: dict[str, Any] = {"__name__": "__main__"}
        printed = ""
        for block in blocks_of(page):
            if block.language not in RUN or block.not_run is not None:
                continue
            if block.file_name:
                path = self.folder / block.file_name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "diff":
                self._change(block)
            elif block.language == "python":
                printed = self._execute(block, scope)
            elif block.language == "output":
                found[block] = shown(block.text, printed, block.place)
            else:
                found[block] = self._console(block)
        return found

    def _change(self, block: Block) -> None:
        """Replace the lines of a file as a `diff` block says."""
        head, *lines = block.text.splitlines()
        path = self.folder / head.removeprefix("--- ")
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line.startswith(sign)) for sign in "-+")
        text = path.read_text()
        if text.count(old) != 1:
            raise Different(f"{block.place}: {path.name} does not have these lines once")
        path.write_text(text.replace(old, new))

    def _execute(self, block: Block, scope: dict[str, Any]) -> str:
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                exec(compile("\n" * (block.line - 1) + block.text, block.place, "exec", dont_inherit=True), scope)
        except Exception as error:
            raise Different(f"{block.place} raised {type(error).__name__}: {error}") from error
        return output.getvalue()

    def _console(self, block: Block) -> str:
        result = []
        parts = list(_commands(block.text))
        for number, (text, command, expected) in enumerate(parts):
            code, printed = self._command(command, block)
            wanted = block.exit_code if number == len(parts) - 1 else 0
            if code != wanted:
                raise Different(f"{block.place}: `{command}` exits with {code}, not with {wanted}:\n{printed}")
            result += [text, shown(expected, printed, block.place) if expected.strip() else expected]
        return "".join(result)

    def _command(self, command: str, block: Block) -> tuple[int, str]:
        words = shlex.split(command, comments=True)
        if not words:
            return 0, ""
        if words[0] == "search":
            return _run_search(words[1:])
        program = [sys.executable, *words[1:]] if words[0] == "python" else words
        if words[0] != "python" and words[0] not in SHELL:
            raise Different(f"{block.place}: no test runs `{words[0]}`: say why with <!-- not run: … -->")
        done = subprocess.run(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=self.folder
        )
        return done.returncode, done.stdout


def _run_search(arguments: list[str]) -> tuple[int, str]:
    from search import cli

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.main(arguments)
    return code, output.getvalue()


def _commands(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each command of a console block: its lines, the command itself and the lines of output behind it."""
    parts = re.split(r"^(?=\$ )", text, flags=re.MULTILINE)
    if parts and not parts[0].strip():
        parts = parts[1:]
    for part in parts:
        match = re.match(r"\$ ((?:[^\n]*\\\n)*[^\n]*\n?)", part)
        if match is None:
            raise Different(f"a console block begins without a command: {part!r}")
        yield match[0], match[1].replace("\\\n", " ").strip(), part[match.end() :]


@contextlib.contextmanager
def opened(folder: Path, zygote: object) -> Iterator[Shop]:
    """Yield the shop in `folder`, with the environment that pages run in."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.setenv("COLUMNS", str(WIDTH))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Shop(folder)
    import mlflow

    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def written(page: Path, found: dict[Block, str]) -> str:
    """Return the text of `page` with the printed output in it.

    Raises:
        Different: the page is another one than the one that ran.
    """
    text = page.read_text()
    for block in sorted(found, key=lambda block: block.start, reverse=True):
        if text[block.start : block.end] != block.text:
            raise Different(f"{block.place} was edited while the page ran: run it again")
        text = text[: block.start] + found[block] + text[block.end :]
    return text


def main(arguments: list[str]) -> None:
    """Run pages, and write the printed output into them with `--update`."""
    import tempfile

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from search.executors.zygotes import Zygote
    from search.worker.process import set_environment

    set_environment()
    update = "--update" in arguments
    wanted = [Path(name).resolve() for name in arguments if name != "--update"] or pages()
    with tempfile.TemporaryDirectory() as folder:
        zygote = Zygote(Path(folder) / "zygote.log", None)
        with opened(Path(folder), zygote) as shop:
            for page in dict.fromkeys([FIRST, *wanted]):
                found = shop.run(page)
                if update and page in wanted:
                    page.write_text(written(page, found))
                print(f"{page.relative_to(ROOT)}: {len(found)} blocks of output", file=sys.stderr)
        zygote.close()


if __name__ == "__main__":
    main(sys.argv[1:])
