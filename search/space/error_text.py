"""The text of an exception as one line for people: without what frameworks add for machines, and with a hint."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from search.errors import SearchError
from search.space.keras_2 import replacement_of

__all__ = ["MAX_MESSAGE_LENGTH", "as_one_line", "escape_controls", "escape_unprintable", "summarize_error"]

MAX_MESSAGE_LENGTH = 400
"""Characters of an exception's message that are shown."""


def summarize_error(error: BaseException) -> str:
    """Return one line for an exception of the user's code: `Type: message`; of our own only the message."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else as_one_line(_text_or_empty(lambda: repr(error.code)))
        if (complaint := _complaint_of_argparse(error)) is not None:
            return (
                f"sys.exit({code}) was called by argparse ({as_one_line(complaint)}): the code gets no arguments, so "
                "give each a default"
            )
        return f"sys.exit({code}) was called: let the file's code return"
    text = _readable(_text_or_empty(lambda: _message(error)))
    text, name = as_one_line(text), as_one_line(type(error).__name__)
    if isinstance(error, SearchError):
        return text or name
    return f"{name}: {text}{_hint(name, text)}" if text else name


def as_one_line(text: str) -> str:
    """Return `text` as one line of printable characters, cut after `MAX_MESSAGE_LENGTH`."""
    text = " ".join(text.split())
    text = f"{text[:MAX_MESSAGE_LENGTH]}…" if len(text) > MAX_MESSAGE_LENGTH else text
    return escape_unprintable(text)


def escape_unprintable(text: object) -> str:
    """Return `text` with unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def escape_controls(text: str) -> str:
    """Return `text` with unprintable characters escaped. Lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" else escape_unprintable(char) for char in text)


def _message(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return str(error.msg or "")
    # The text of a KeyError is the `repr` of its key. Keras puts a message of several lines there.
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and "\n" in error.args[0]:
        return error.args[0]
    return str(error)


_NOISE = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    # Keras appends the arguments of the layer's call.
    (re.compile(r"\s*Arguments received by \S+\(\):\n.*", re.DOTALL), ""),
    # TensorFlow names nodes of its graph, and shows its own frames.
    (re.compile(r"Graph execution error:\s+Detected at node .*?\(most recent call last\):\n", re.DOTALL), "\n"),
    (re.compile(r"<stack traces unavailable>"), ""),
    (re.compile(r'\n *File "[^"\n]*", line \d+, in \S+(?=\n)'), "\n"),
    (re.compile(r" for '\{\{node .*?\}\} = [^']*' with input shapes"), " with input shapes"),
    (re.compile(r"\[\[\{\{.*?\}\}\]\]|\{\{.*?\}\}|\[\[[\w/]*IteratorGetNext\w*\]\]"), ""),
    (re.compile(r"\[Op:\w+\]( name: *)?"), ""),
    # Keras shows all numbers of an input.
    (re.compile(r"\s*Inputs received: .*", re.DOTALL), ""),
    (
        re.compile(
            r"Invalid input shape for input .* with name '(.*?)' and path '.*?'\. Expected shape (.*?), but input has "
            r"incompatible shape (\([^)]*\))",
            re.DOTALL,
        ),
        r"input '\1' has the shape \3, and the model expects \2",
    ),
)
"""Patterns of the additions of frameworks to a message, each with its replacement."""


def _readable(text: str) -> str:
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


_SHAPES = re.compile(r"target\.shape=\(([^)]*)\), output\.shape=\(([^)]*)\)")


def _hint(kind: str, text: str) -> str:
    """Return the way out after a colon: the word of Keras 3 for one of Keras 2, or the loss that fits the labels."""
    if replacement := replacement_of(kind, text):
        return f": {replacement}"
    if (shapes := _SHAPES.search(text)) is None:
        return ""
    target, output = ([size.strip() for size in group.split(",") if size.strip()] for group in shapes.groups())
    if "`target.ndim - 1`" in text and len(target) == len(output):
        return ": one-hot labels need the loss categorical_crossentropy"
    # A classifier's output has a number for each class, and the label is one.
    is_label = len(target) == len(output) - 1 or (len(target) == len(output) and target[-1:] == ["1"])
    if "must have the same" in text and "up until" not in text and is_label and output[-1] != "1":
        return ": labels that are integers need the loss sparse_categorical_crossentropy"
    return ""


def _complaint_of_argparse(error: SystemExit) -> str | None:
    """Return the message with which `argparse` has ended the program; None if it has not done so."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "error" and Path(code.co_filename).name == "argparse.py":
            return str(frame.f_locals.get("message", ""))
    return None


def _text_or_empty(make_text: Callable[[], str]) -> str:
    """Return the text of a user's object, or an empty text if its `__str__` or `__repr__` raises."""
    try:
        return make_text()
    except Exception:
        return ""
