"""Messages for callers from Python: they name arguments where the command line's name flags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from search.errors import SearchError
from search.options import FIELDS

__all__ = ["name_arguments", "python_arguments"]

_CALL_SWITCHES = ("resume", "overwrite", "accept_changes", "take_over")
"""Switches of `search.run` that are no options of a search."""

_SUBJECTS = ("space", "data[0][0]", "data[0][1]", "data[0][2]", "data[0]", "data[1]")
"""Arguments of `search.run` with which a message may begin."""

_FLAG = re.compile(r"(?P<with>\bwith )?(?<![\w-])--(?P<flag>[a-z]+(?:-[a-z]+)*)(?P<values> [a-z]+(?: or [a-z]+)?\b)?")

_argument_names: ContextVar[Mapping[str, str]] = ContextVar("_argument_names", default=MappingProxyType({}))


@contextmanager
def python_arguments(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let the errors of the block name arguments of Python's in place of flags of the command line.

    Args:
        names: the argument for each flag, without its dashes, and for each of `_SUBJECTS`, if it is not called as in
            `search.run`; by default those of the outer block.
    """
    token = _argument_names.set(_argument_names.get() if names is None else names)
    try:
        yield
    except SearchError as error:
        if (text := name_arguments(str(error))) == str(error):
            raise
        raise type(error)(text) from error
    finally:
        _argument_names.reset(token)


_COMMANDS = (
    (re.compile(r"search run --help"), "help(search.run)"),
    (re.compile(r"search resume\b(?: [A-Za-z0-9][\w.-]*(?=`|$))?"), "search.run(…, resume=True)"),
    (re.compile(r"search trials ([A-Za-z0-9][\w.-]*)"), r"search.load_study('\1').trials"),
    (re.compile(r"search show ([A-Za-z0-9][\w.-]*) (\d+)"), r"search.load_study('\1').trials[\2]"),
    (re.compile(r"search continue ([A-Za-z0-9][\w.-]*)"), r"search.load_study('\1').continue_()"),
)
"""Commands in messages, and the Python for each."""


def name_arguments(text: str) -> str:
    """Return a message with arguments and calls of Python's in place of flags and commands of the command line."""
    names = _argument_names.get()

    def argument(found: re.Match[str]) -> str:
        before, flag, values = found["with"] or "", found["flag"], found["values"] or ""
        if flag in names:
            return before + names[flag] + values
        name = flag.replace("-", "_")
        if name in _CALL_SWITCHES:
            return f"{before}{name}=True{values}"
        field_ = FIELDS.get(name.removeprefix("no_"))
        if field_ is None:
            return found[0]
        if isinstance(field_.default, bool):
            return f"{before}{field_.name}={not name.startswith('no_')}{values}"
        words = values.split(" or ")
        if {word.strip() for word in words} <= set(field_.metadata.get("choices", ())):
            return f"{before}{name}={' or '.join(repr(word.strip()) for word in words)}"
        return f"{before}{name}{'=…' if before and not values else ''}{values}"

    subject, space, rest = text.partition(" ")
    if subject in _SUBJECTS and subject in names:
        text = names[subject] + space + rest
    for command, call in _COMMANDS:
        text = command.sub(call, text)
    return _FLAG.sub(argument, text)
