"""The commands of `search` for their page of the reference, as sphinx-click reads them: `commands:run`, ….

Typer has a copy of click of its own, and sphinx-click knows the real one. So each command becomes one of click's.
The options of a search are left out: they have a page.
"""

from __future__ import annotations

from typing import Any

import click
import typer

from search.cli.program import make_app
from search.options import FIELDS


def _parameter(found: Any) -> click.Parameter:
    if found.param_type_name == "argument":
        many = found.nargs != 1
        shown = found.metavar if many else (found.metavar or found.name.upper())
        return click.Argument([found.name], metavar=shown, required=found.required, nargs=found.nargs)
    declared = "/".join([found.opts[0], *found.secondary_opts]) if found.secondary_opts else found.opts
    return click.Option(
        [declared] if isinstance(declared, str) else declared,
        help=found.help,
        metavar=found.metavar,
        is_flag=found.is_flag,
        multiple=found.multiple,
    )


def _command(name: str, found: Any) -> click.Command:
    own = [each for each in found.params if each.name != "help"]
    if name in ("run", "resume"):
        own = [each for each in own if each.name not in FIELDS]
    return click.Command(name, params=[_parameter(each) for each in own], help=found.help)


_program: Any = typer.main.get_command(make_app())
globals().update({name: _command(name, found) for name, found in _program.commands.items()})
