"""Commands as tests run them, in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def without_waits(err: str) -> str:
    """Return the output without the lines that name a long wait: how long a wait is depends on the machine."""
    return "".join(
        line for line in err.splitlines(keepends=True) if line.startswith("search: ") or not line.endswith(" …\n")
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file in `folder` except logs and caches, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".log"}


def assert_refused(command: Command, *arguments: object, words: tuple[str, ...]) -> str:
    """Run a command that must be refused with a line that has `words`, and change no file. Return the line."""
    before = contents(Path.cwd())
    outcome = command(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    line = outcome.err.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith("search: ")
    for word in words:
        assert word in line
    for ugly in ("Traceback", "╭", "\x1b", "{{"):
        assert ugly not in line
    assert contents(Path.cwd()) == before
    return line
