"""The parts of the reference's pages that are made of the code.

    python docs/generated.py

writes them anew, between `<!-- generated: NAME -->` and `<!-- end -->`. A test fails if a page is not current.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import typer

from search import options
from search.backends import registry
from search.cli.program import COMMANDS, make_app
from search.study import records
from search.study.journal import FORMAT
from search.wording import format_time

PAGES = Path(__file__).parent / "reference"

COMMON = {
    "attempt": "the number of times that the trial has been started, from 0",
    "backend": "the back end's name",
    "epoch": "an epoch of the trial, from 1",
    "execution": "the number of the trial's execution, from 0",
    "from_epoch": "the epoch after which the training begins, 0 for a new trial",
    "logs": "the metrics by name",
    "options": "the options by name",
    "request": "the id of the user's request",
    "slot": "the number of the worker's slot, from 0",
    "to_epoch": "the last epoch of the training",
    "trial": "the trial's number, from 0",
    "values": "the values of hyperparameters, by name",
}
"""Fields that mean the same in all records and messages."""


# Options --------------------------------------------------------------------------------------------------------------


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default in (None, ()):
        return "none"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if field.metadata.get("time"):
        return f"`{format_time(field.default)}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _values(field: dataclasses.Field[Any]) -> str:
    metadata, kind = field.metadata, str(field.type)
    if "choices" in metadata:
        own = ", ".join(f"`{each}`" for each in metadata["choices"])
        return f"{own + ', ' if own else ''}or a part of a package" if "registry" in metadata else own
    if isinstance(field.default, bool):
        return "a switch"
    number = "a whole number" if kind.startswith("int") else "a number"
    word = "a time" if metadata.get("time") else "a size" if metadata.get("size") else number
    if word == number and not kind.startswith(("int", "float")):
        return "text"
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None:
        shown = format_time(low) if metadata.get("time") and low else low
        word += f", more than {shown}" if metadata.get("above") else f", {shown} or more"
    return f"{word}, at most {high}" if high is not None else word


def _meaning(name: str, field: dataclasses.Field[Any]) -> str:
    text = str(field.metadata["help"])
    takers = registry.takers_of(name)
    with_ = f". Goes with {', '.join(f'`{each}`' for each in takers)}" if takers and name != "max_epochs" else ""
    return f"{text[0].upper()}{text[1:]}{with_}"


def _flag(name: str, field: dataclasses.Field[Any]) -> str:
    flag = name.replace("_", "-")
    return f"`--{flag}`, `--no-{flag}`" if isinstance(field.default, bool) else f"`--{flag}`"


def table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    lines = [list(header), ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def options_tables() -> str:
    """Return a table of the options of each group, and one of those that the command line lacks."""
    header = ("option", "default", "values", "meaning")
    parts = []
    for group in options.GROUPS:
        fields = {
            n: f for n, f in options.FIELDS.items() if f.metadata["group"] == group and not f.metadata.get("hidden")
        }
        if fields:
            rows = [(_flag(n, f), _default(f), _values(f), _meaning(n, f)) for n, f in fields.items()]
            parts.append(f"## {group}\n\n{table(header, rows)}")
    hidden = {n: f for n, f in options.FIELDS.items() if f.metadata.get("hidden")}
    rows = [(f"`{n}`", _default(f), _values(f), _meaning(n, f)) for n, f in hidden.items()]
    parts.append(f"## In Python only\n\n{table(header, rows)}")
    return "\n\n".join(parts)


# Commands -------------------------------------------------------------------------------------------------------------

RUN_COMMANDS = ("run", "resume")
"""Commands that take all options of a search, which have a page of their own."""


@functools.cache
def _commands() -> dict[str, Any]:
    program: Any = typer.main.get_command(make_app())
    return dict(program.commands)


def _row(found: Any) -> tuple[str, str]:
    """Return the cells of an argument or an option of a command."""
    if found.param_type_name == "argument":
        name = str(found.metavar or found.name.upper()).strip("[]…").replace("]…", "")
        return f"`{name.strip()}`", str(found.help)
    shown = ", ".join(f"`{flag}`" for flag in (*found.opts, *found.secondary_opts))
    return f"{shown} `{found.metavar}`" if found.metavar else shown, str(found.help or "")


def command_table(name: str) -> str:
    """Return a table of a command's arguments and options, without those of a search if it takes all of them."""
    found = [each for each in _commands()[name].params if each.name != "help"]
    if name in RUN_COMMANDS:
        found = [each for each in found if each.name not in options.FIELDS]
    return table(("argument or option", "meaning"), map(_row, found))


# Records --------------------------------------------------------------------------------------------------------------


def attributes(owner: type) -> dict[str, str]:
    """Return the meaning of each field that the docstring of a class explains."""
    section = re.search(r"^Attributes:\n((?: {4}.*\n?|\n)+)", inspect.getdoc(owner) or "", re.MULTILINE)
    found: dict[str, str] = {}
    text = textwrap.dedent(section[1]) if section else ""
    for names, meaning in re.findall(r"^(\w+(?:, \w+)*): ((?:.*\n?)(?: {4}.*\n?)*)", text, re.MULTILINE):
        found |= {name: " ".join(meaning.split()) for name in names.split(", ")}
    return found


def _meanings(owner: type) -> list[tuple[dataclasses.Field[Any], str]]:
    """Return each field of a record with its meaning."""
    known = attributes(owner)
    other = "as said above"
    return [(each, known.get(each.name) or COMMON.get(each.name) or other) for each in dataclasses.fields(owner)]


def records_tables() -> str:
    """Return a section for each record: its summary, and a table of its fields."""
    parts = []
    for owner in get_args(records.Record):
        text = (inspect.getdoc(owner) or "").partition("\n\nExample:")[0]
        prose = " ".join(re.split(r"\n\n?Attributes:\n", text)[0].split())
        rows = []
        for meaning, fields in itertools.groupby(_meanings(owner), key=lambda pair: pair[1]):
            same = [field for field, _ in fields]
            types = ", ".join(dict.fromkeys(f"`{field.type}`" for field in same))
            rows.append((", ".join(f"`{field.name}`" for field in same), types, meaning))
        parts.append(
            f"### {owner.__name__}\n\n{textwrap.fill(prose, 120)}\n\n{table(('field', 'type', 'meaning'), rows)}"
        )
    return "\n\n".join(parts)


def record_format() -> str:
    return f"The format of the lines that this version writes is {FORMAT}."


# Pages ----------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "options": options_tables,
    "records": records_tables,
    "format": record_format,
    **{f"command-{name}": functools.partial(command_table, name) for name in COMMANDS},
}

_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def current(text: str) -> str:
    """Return a page's text with its generated parts as they should be."""
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", text)


def pages() -> list[Path]:
    """Return the pages that have generated parts."""
    return [page for page in sorted(PAGES.glob("*.md")) if _PART.search(page.read_text())]


if __name__ == "__main__":
    for page in pages():
        page.write_text(current(page.read_text()))
        print(page, file=sys.stderr)
