"""What a controller is told, and what it answers: an event in, records to journal and instructions to carry out."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.messages import Answer, Evaluated, Interrupt, Lost, Question, Verdict
from search.study.records import Built, Checkpointed, EpochDone, Record, SearchEnded, SegmentEnded

# What happens ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The user wants the search to stop: Ctrl-C, or a cluster that takes its machine back."""


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A message of the worker in `slot`."""

    slot: int
    message: Question | Built | EpochDone | Checkpointed | SegmentEnded | Evaluated | Lost


Event = Tick | StopRequested | FromWorker

# What to do about it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartSegment:
    """Start a segment: train `trial` from what it has to the end of epoch `to_epoch`."""

    trial: int
    execution: int
    to_epoch: int
    judged: bool


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Evaluate `trial`'s best model on the test data, with `test`, and write it to a file, with `export`."""

    trial: int
    test: bool
    export: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of a slot, whatever it does."""

    reason: str


Instruction = tuple[int, StartSegment | StartEvaluation | Kill | Answer | Verdict | Interrupt]
"""A slot, and what to do or say there."""


@dataclass(slots=True)
class Reaction:
    """Records to journal first, instructions to carry out then; `finished` when the search is over."""

    records: list[Record] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    end: SearchEnded | None = None
