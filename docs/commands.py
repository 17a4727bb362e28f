"""The commands of `search`, for their page of the reference."""

from __future__ import annotations

import typer

from search.cli.program import make_app

program = typer.main.get_command(make_app())
