"""Words of messages for people."""

from __future__ import annotations

__all__ = ["pluralize"]


def pluralize(number: float, noun: str, separator: str = "") -> str:
    """Return a number with its noun: `1 epoch`, `2 epochs`.

    Args:
        separator: between thousands: "" or ",".
    """
    ending = "" if number == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number:{separator}.0f} {noun}{ending}"
