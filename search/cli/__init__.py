"""The command line, `search …`: it reads arguments, calls the library and prints. It decides nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from search.platforms import UNSUPPORTED, is_unsupported

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; see `search.cli.program.main`.

    The import of the program takes longer than a person likes to look at nothing, so a search says its first words
    before it. On Windows nothing is imported, as modules of the program need POSIX.

    Args:
        arguments: those of the program by default.

    Returns:
        The exit code; 2 on Windows.
    """
    if is_unsupported():
        print(f"search: {UNSUPPORTED}", file=sys.stderr)
        return 2
    from search.display.lasting import lasting_output
    from search.display.waiting import WaitingLine, is_live
    from search.executors.waiting import listen, show_stage

    given = sys.argv[1:] if arguments is None else arguments
    _replace_unknown_characters()
    with ExitStack() as stack:
        words = first_words(given)
        if words is not None:
            stack.enter_context(lasting_output())
            line = WaitingLine(sys.stderr, live=is_live(sys.stderr) and "--no-progress" not in given)
            stack.callback(line.close)
            stack.enter_context(listen(line))
            show_stage(words)
        from search.cli import program

        return program.main(given)


def _replace_unknown_characters() -> None:
    """Let stdout print a question mark for what its encoding lacks, as with `PYTHONIOENCODING=ascii`."""
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def first_words(arguments: Sequence[str]) -> str | None:
    """Return what a command waits for first, as far as its arguments tell; None for a command that does not search."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        return None
    named = next((each for each in arguments[1:] if not each.startswith("-")), "")
    if arguments[0] in ("run", "check"):
        return f"reading {named}" if named.endswith(".py") else "reading the space file"
    return "reading the study" if arguments[0] == "resume" else None
