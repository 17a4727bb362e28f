"""The help of a command, with its options in groups. It is plain text, and fits in 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from search import options

OWN_GROUPS = {
    "resume": options.EXISTING,
    "overwrite": options.EXISTING,
    "accept_changes": options.EXISTING,
    "take_over": options.EXISTING,
}
"""The groups of switches that commands have beside the options of a search."""

KEPT = "\N{NO-BREAK SPACE}"
"""The space at which no line is broken."""

RANGE = re.compile(r"; (\d+<=)?x[<>]=?\d+\]")
"""The range of numbers that Typer adds to a default."""

OTHER = "Other options"
"""The group of all that has no group."""

MANY = 16
"""Options from which on a command's help has groups."""

FIRST_COLUMN = 26
"""Cells of the column of the options' names. A longer name has a line of its own."""

EXAMPLES = {
    "run": (
        ("search run space.py --max-epochs 9", "with Hyperband"),
        ("search run space.py --backend optuna --timeout 2h", "Optuna's TPE for two hours"),
        ("search run space.py --study wide --seed 0", "another study, repeatable"),
    ),
    "resume": (
        ("search resume digits", "go on where it stopped"),
        ("search resume digits --max-total-epochs 500 --workers 4", "with a larger budget, on 4 cores"),
    ),
    "best": (("search best", "of the newest study"), ("search best digits -n 3 --json", "for a program")),
    "show": (
        ("search show 7", "trial 7 of the newest study"),
        ("search show digits 7 --curve", "all its epochs"),
    ),
    "export": (
        ("search export --to model.keras", "the best model of the newest study"),
        ("search export digits --rank 2 --to model.onnx", "the second best, for ONNX"),
    ),
}
"""Examples of each command: what to type, and its purpose."""


class Group(TyperGroup):
    """The program, whose help has the whole summary of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their summaries."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command.get_short_help_str(1000)) for name, command in commands if command is not None]
        _write_section(formatter, "Commands", shown, first=12)


class Command(TyperCommand):
    """A command whose help lists its options in the groups of `search.options`, and examples at its end."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name in its usage line."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [*map(_argument_name, arguments), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options by group, and the examples."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{name: [] for name in options.GROUPS}}
        sections[OTHER] = []
        parameters = self.get_params(ctx)
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((_argument_name(parameter), str(getattr(parameter, "help", ""))))
            elif (record := parameter.get_help_record(ctx)) is not None:
                group = _group_of(parameter.name) if len(parameters) >= MANY else OTHER
                sections[group].append(record)
        if len(parameters) < MANY:
            sections["Options"] = sections.pop(OTHER)
        for name, records in sections.items():
            _write_section(formatter, name, records)
        if examples := EXAMPLES.get(str(self.name)):
            width = max(len(command) for command, _ in examples)
            lines = [f"  {command:{width}}  {purpose}".rstrip() for command, purpose in examples]
            formatter.write("\n".join(["", "Examples:", *lines, ""]))


def _argument_name(parameter: Any) -> str:
    """Return the name of an argument; square brackets stand around one that may be left out."""
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _group_of(name: str) -> str:
    field = options.FIELDS.get(name)
    return OWN_GROUPS.get(name, OTHER) if field is None else str(field.metadata.get("group", OTHER))


def _write_section(formatter: Any, heading: str, records: Iterable[tuple[str, str]], first: int = FIRST_COLUMN) -> None:
    """Write a heading, and names with their texts in two columns; nothing if there are none."""
    lines: list[str] = []
    for name, text in records:
        found = _wrap(text, formatter.width - first - 2)
        if len(name) > first - 4:
            lines.append(f"  {name}")
        elif found:
            found[0] = f"  {name:{first - 2}}{found[0]}"
        else:
            found = [f"  {name}"]
        begun = len(name) <= first - 4
        lines += [line if begun and i == 0 else " " * first + line for i, line in enumerate(found)]
    if lines:
        formatter.write("\n".join(["", f"{heading}:", *lines, ""]))


def _wrap(text: str, width: int) -> list[str]:
    """Return `text` in lines, without ranges of numbers. A default value stays on one line."""
    before, mark, default = RANGE.sub("]", " ".join(text.split())).rpartition("[default: ")
    kept = f"{before}{mark.replace(' ', KEPT)}{default.replace(' ', KEPT)}" if mark else default
    lines = textwrap.wrap(kept, max(20, width), break_on_hyphens=False, break_long_words=False)
    return [line.replace(KEPT, " ") for line in lines]
