"""The controller's input and output: events in; records to journal and instructions to carry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.messages import Answer, Evaluated, Interrupt, Lost, Question, SlotClosed, SlotOpened, Verdict
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.records import Built, Checkpointed, DataLoaded, EpochDone, Record, SearchEnded, SegmentEnded
from search.study.requests import Reply, Request
from search.study.trial import Computation

# Events ---------------------------------------------------------------------------------------------------------------


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
    message: Question | DataLoaded | Built | EpochDone | Checkpointed | SegmentEnded | Evaluated | Lost


@dataclass(frozen=True, slots=True)
class SlotChanged:
    """The executor has opened or closed `slot`."""

    slot: int
    message: SlotOpened | SlotClosed


@dataclass(frozen=True, slots=True)
class ComputationEnded:
    """A computation of the back end has ended, with a JSON object as its result, or with an error of one line."""

    number: int
    result: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Steer:
    """The user steers the running search.

    Attributes:
        request: the user's request.
        limits: all limits of the search, as a request that changes limits would have them; else None.
        parameters: hyperparameters that the space declares and no trial may have asked for yet.
        frees_memory: the executor ends workers that have nothing to do, if it is told to.
    """

    request: Request
    limits: Limits | None = None
    parameters: tuple[Parameter, ...] = ()
    frees_memory: bool = False


Event = Tick | StopRequested | FromWorker | SlotChanged | ComputationEnded | Steer

# Instructions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOn:
    """Give a trial the checkpoints of its parent, as files of its own.

    Attributes:
        trial: the child.
        again: an earlier process may have done so already. Then its files count.
    """

    trial: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class StartSegment:
    """Train an execution of a trial from its last checkpoint to the end of epoch `to_epoch`.

    `judged` says that the worker waits for a verdict after every epoch but the last.
    """

    trial: int
    execution: int
    to_epoch: int
    judged: bool


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Evaluate a trial's best model on the test data if `test`, and write it to a file if `export`."""

    trial: int
    test: bool
    export: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of a slot, whatever it does. `reason` is a line for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class EndWorker:
    """End the process of a slot where nothing runs, so that its memory is free. Its cached models are gone."""


Command = StartSegment | StartEvaluation | Kill | EndWorker | Answer | Verdict | Interrupt
"""A command for a slot or for its worker."""

Instruction = tuple[int, Command]
"""A slot, and a command for it or for its worker."""


@dataclass(slots=True)
class Reaction:
    """The controller's decisions on an event.

    Attributes:
        records: to journal first.
        hand_on: the checkpoints to give to children, after that and before any of their parents goes on.
        instructions: to carry out after that, in this order.
        compute: a computation to start beside the search.
        end: the end of the search, None while it goes on.
        reply: the reply to the user's request, if the event was one.
        lines: lines for the user.
    """

    records: list[Record] = field(default_factory=list)
    hand_on: list[HandOn] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    compute: Computation | None = None
    end: SearchEnded | None = None
    reply: Reply | None = None
    lines: list[str] = field(default_factory=list)
