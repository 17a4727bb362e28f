"""Fingerprints of data: those that a study began with, against those of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Fingerprint = Mapping[str, Mapping[str, str]]
"""By split and part, a text; see `search.worker.data.fingerprint`."""


def changed_data(before: Fingerprint, now: Fingerprint) -> str:
    """Return the differences, as "other values in train x; train y was int64[192], is int64[96]"; "" if none."""
    changes = list(_changes(before, now))
    values = [name for name, old, new in changes if _shape(old) == _shape(new)]
    words = [f"other values in {', '.join(values)}"] if values else []
    words += [f"{name} was {_shape(old)}, is {_shape(new)}" for name, old, new in changes if name not in values]
    return "; ".join(words)


def _changes(before: Fingerprint, now: Fingerprint) -> Iterator[tuple[str, str, str]]:
    for split in dict.fromkeys((*before, *now)):
        if split not in before or split not in now:
            yield split, *(("given", "none") if split in before else ("none", "given"))
            continue
        old, new = before[split], now[split]
        for part in dict.fromkeys((*old, *new)):
            # Not every process reads the first batch of a stream, or counts its batches.
            known = part in old and part in new
            if old.get(part) != new.get(part) and (known or not part.startswith(("first", "batches"))):
                yield f"{split} {part}", old.get(part, "none"), new.get(part, "none")


def _shape(text: str) -> str:
    """Return a part's text without its checksum."""
    return text.partition(" ")[0]
