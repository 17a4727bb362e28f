"""The notes of a back end about its trials: the attributes that it journals with suggestions, values and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from search.study.journal import Entry
from search.study.records import Judged, ParameterSet, SegmentRequested

__all__ = ["noted_attributes"]

MAX_NOTES = 8
"""The most notes that are kept for a trial."""

MAX_TEXT = 80
"""The longest text that is a note. Longer ones are a sampler's whole state, such as CMA-ES's."""


def noted_attributes(entries: Iterable[Entry]) -> dict[int, dict[str, str]]:
    """Return the notes about each trial, by its number and the note's name.

    Numbers and short texts are kept as they are. `drawn together` names the hyperparameters that an Optuna sampler
    drew at once, with its model of all of them.
    """
    found: dict[int, dict[str, str]] = {}
    for entry in entries:
        record = entry.record
        if isinstance(record, (SegmentRequested, ParameterSet, Judged)) and record.attributes:
            notes = found.setdefault(record.trial, {})
            for name, text in _notes(record.attributes):
                if name in notes or len(notes) < MAX_NOTES:
                    notes[name] = text
    return {number: notes for number, notes in found.items() if notes}


def _notes(attributes: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in attributes.items():
        if name == "relative" and isinstance(value, Mapping):
            # The keys are Optuna's names, with the domain behind the hyperparameter's own.
            yield from [("drawn together", ", ".join(key.rpartition(" (")[0] or key for key in value))] if value else []
        elif isinstance(value, Mapping):
            yield from _notes(value)
        elif isinstance(value, (bool, int, float, str)) and len(text := str(value)) <= MAX_TEXT:
            yield name, f"{value:.5g}" if isinstance(value, float) else text
