"""HTML as text. Every text of a user's enters a page here: secrets are hidden, and all else is escaped."""

from __future__ import annotations

import base64
import gzip
import html
import re

from search.report.redaction import hide_secrets

__all__ = ["Html", "block", "element", "escape", "join", "json_script", "one_line"]


class Html(str):
    """Text that is HTML already. Only this module and constants make it."""

    __slots__ = ()


Child = Html | str | int | None
"""A part of an element: `Html` stays as it is, text is escaped, None is left out."""

PLAIN_CHARACTERS = 100_000
"""Characters of JSON up to which a page holds it as it is."""

_EMPTY = ("br", "meta", "wbr")
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)", re.DOTALL)


def one_line(text: str) -> str:
    """Return `text` on one line, without characters that change the direction or the place of others."""
    return "".join(char if char.isprintable() else " " for char in _ESCAPES.sub("", text))


def block(text: str) -> str:
    """Return `text` with its lines and tabs, and without other characters that cannot be printed."""
    clean = _ESCAPES.sub("", text)
    return "\n".join("".join(c if c.isprintable() or c == "\t" else " " for c in line) for line in clean.splitlines())


def escape(text: str) -> Html:
    """Return `text` as HTML that shows it, without its secrets."""
    return text if isinstance(text, Html) else Html(html.escape(hide_secrets(text)))


def join(*children: Child) -> Html:
    """Return the children one after the other."""
    return Html(
        "".join(escape(str(child)) if type(child) is not Html else child for child in children if child is not None)
    )


def element(name: str, *children: Child, **attributes: str | int | bool | None) -> Html:
    """Return an element.

    Args:
        name: the element's name.
        children: its parts.
        attributes: by name, with underscores in the place of dashes: `class_`, `aria_label`. None and False leave an
            attribute out, True gives it no value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{escape(str(value))}"')
    end = "" if name in _EMPTY else f"{join(*children)}</{name}>"
    return Html(f"<{' '.join(parts)}>{end}")


def json_script(text: str, id: str) -> Html:
    """Return a script element that holds JSON and runs nothing. `readData` in page.js reads it.

    Long JSON is compressed: the hover texts of 5,000 trials take a tenth.

    Args:
        text: the JSON, without secrets.
        id: the element's id.
    """
    if len(text) > PLAIN_CHARACTERS:
        packed = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
        return Html(f'<script type="text/plain" data-gzip id="{escape(id)}">{packed}</script>')
    # In JSON these stand in texts only, so that an escape means the same. No text can end the element then.
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Html(f'<script type="application/json" id="{escape(id)}">{text}</script>')
