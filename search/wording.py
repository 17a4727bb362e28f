"""Words, sizes and times as people read and write them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["format_bytes", "format_memory", "format_time", "parse_bytes", "pluralize"]

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
"""By the first letter of a unit, its power of 1000, or of 1024 if an i follows."""


def pluralize(number: float, noun: str, separator: str = "") -> str:
    """Return a number with its noun: `1 epoch`, `2 epochs`.

    Args:
        separator: between thousands: "" or ",".
    """
    ending = "" if number == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number:{separator}.0f} {noun}{ending}"


def format_time(seconds: float) -> str:
    """Return a time in its two largest units, as `--timeout` takes it: `0.42s`, `12s`, `5m`, `1h 20m`, `1d 3h`."""
    if seconds < 9.95:
        return f"{round(max(0.0, seconds), 3):.2g}s"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in _TIMES:
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit} {rest}{smaller_unit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


_TIMES = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
"""Units of time: seconds, name, and the same of the next smaller unit."""


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(value: Any, *, zero: bool = False) -> float:
    """Return a time in seconds.

    Args:
        value: a number of seconds, or text such as `90s`, `30m`, `2h`, `1h 30m`.
        zero: accept no time at all.

    Raises:
        ValueError: the time cannot be read, or is not positive.
    """
    text = str(value).strip().lower().replace(" ", "")
    negative, text = text.startswith("-"), text.removeprefix("-")
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", text)
    if isinstance(value, bool) or not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("give seconds, or a time such as 90s, 30m, 2h or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if negative or (total == 0 and not zero):
        raise ValueError(f"it must be {'at least' if zero else 'more than'} 0")
    return total


def parse_bytes(value: Any) -> int:
    """Return a size in bytes.

    Args:
        value: a number of bytes, or text such as `500MB`, `1.5 GB` or `2GiB`.

    Raises:
        ValueError: the size cannot be read, or is less than a byte.
    """
    text = f"{value:.0f}" if isinstance(value, float) else str(value).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text)
    if isinstance(value, bool) or found is None:
        raise ValueError("give a number of bytes, or a size such as 500MB, 1.5GB or 2GiB")
    number, unit, binary = found.groups(default="")
    size = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit])
    if size < 1:
        raise ValueError("it must be more than 0")
    return size


def format_bytes(size: int) -> str:
    """Return a size with three digits and its unit, in a form that `parse_bytes` reads: `1.25GB`, `21.3MB`, `512B`."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.3g}{units[0]}" if number < 999.5 else f"{number:.0f}{units[0]}"


def format_memory(size: int) -> str:
    """Return a size of memory as makers of memory count: `140.4 GiB`, `21 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 1023.5 * 2**20 else f"{size / 2**20:.0f} MiB"
