"""The command line, `search …`: it reads arguments, calls the library and prints. It decides nothing itself."""

from search.cli.program import app, main

__all__ = ["app", "main"]
