"""The history of a study: its segments, and each change of its best trial, by epochs and by seconds of the search.

A second counts only while a process runs the study, so a pause between two processes leaves no gap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, get_args

from search.study.records import Outcome

__all__ = ["Begun", "Best", "History", "Segment", "Segments"]


class Begun(NamedTuple):
    """A segment that runs.

    Attributes:
        slot: the place of its worker.
        seconds: the time of its start, in seconds of the search.
        bracket, rung: as suggested, or None.
    """

    trial: int
    execution: int
    slot: int
    seconds: float
    bracket: int | None
    rung: int | None


class Segment(NamedTuple):
    """A segment that has ended.

    Attributes:
        begun: its start.
        seconds: the time of its end, in seconds of the search.
        epochs: the epochs of the whole study at its end.
        outcome: None if the search's process died.
    """

    begun: Begun
    seconds: float
    epochs: int
    outcome: Outcome | None


class Best(NamedTuple):
    """A change of the study's best value.

    Attributes:
        trial: the best trial from now on; None if there is none any more, as the last one failed.
        value: its objective, or None.
        seconds, epochs: of the whole study, as of the change.
    """

    trial: int | None
    value: float | None
    seconds: float
    epochs: int


@dataclass(slots=True)
class Segments:
    """The segments that have ended, in the order of their ends, in 44 bytes each.

    A search on nodes that die has many more segments than trials, and must not take more memory for it.
    """

    _packed: bytearray = field(default_factory=bytearray)

    _FORM: ClassVar = struct.Struct("<iiidiidqb")
    _OUTCOMES: ClassVar[tuple[Outcome, ...]] = get_args(Outcome)
    _NONE: ClassVar = -1

    def append(self, segment: Segment) -> None:
        """Add a segment."""
        begun, outcome = segment.begun, segment.outcome
        self._packed += self._FORM.pack(
            begun.trial,
            begun.execution,
            begun.slot,
            begun.seconds,
            self._NONE if begun.bracket is None else begun.bracket,
            self._NONE if begun.rung is None else begun.rung,
            segment.seconds,
            segment.epochs,
            self._NONE if outcome is None else self._OUTCOMES.index(outcome),
        )

    def __len__(self) -> int:
        return len(self._packed) // self._FORM.size

    def __iter__(self) -> Iterator[Segment]:
        for *where, bracket, rung, seconds, epochs, code in self._FORM.iter_unpack(self._packed):
            trial, execution, slot, began = where
            rungs = (None if number == self._NONE else number for number in (bracket, rung))
            outcome = None if code == self._NONE else self._OUTCOMES[code]
            yield Segment(Begun(trial, execution, slot, began, *rungs), seconds, epochs, outcome)


@dataclass(slots=True)
class History:
    """The history of a study so far.

    Attributes:
        segments: those that have ended, in the order of their ends.
        running: those that run, by trial.
        best: each change of the best value.
        starts: the seconds of the search at which each process began, the first one included.
    """

    segments: Segments = field(default_factory=Segments)
    running: dict[int, Begun] = field(default_factory=dict)
    best: list[Best] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    def end(self, trial: int, seconds: float, epochs: int, outcome: Outcome | None) -> None:
        """Move the running segment of `trial`, if there is one, to those that have ended."""
        begun = self.running.pop(trial, None)
        if begun is not None:
            self.segments.append(Segment(begun, seconds, epochs, outcome))
