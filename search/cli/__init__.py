"""The command line, `search …`: it reads arguments, calls the library and prints. It decides nothing itself."""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; see `search.cli.program.main`.

    Args:
        arguments: those of the program by default.
    """
    from search.cli import program

    return program.main(arguments)
