"""The driver's side of a cluster's actors: one `OwnerLink` for each node in use, one `SlotState` for each slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.devices.slots import Slot
from search.executors.ray.cluster import on_node
from search.executors.ray.code import Code
from search.executors.ray.owner import Owner, OwnerSetup, Process, Report, SlotHolder
from search.executors.ray.plan import Demand, Node
from search.messages import Evaluate, Lost, Message, Segment
from search.space.error_text import as_one_line
from search.study.records import SegmentEnded

__all__ = [
    "Excuse",
    "OwnerLink",
    "SlotState",
    "Times",
    "describe",
    "end_actor",
    "end_after",
    "is_out_of_memory",
    "places_of",
    "result_of",
    "start_holder",
    "start_owner",
]

LONG_POLL_SECONDS = 2.0
"""Seconds that a call for messages waits in the owner."""


@dataclass(frozen=True, slots=True)
class Times:
    """The patience of an executor, in seconds.

    Attributes:
        idle: after this time a slot without work gives its resources back, so that an autoscaler can take its node
            away; None keeps them.
        place: the time for Ray to place a slot that has work. An autoscaler starts a node meanwhile.
        lease: without a call of the driver's for this time, an owner ends its workers.
    """

    idle: float | None = 60.0
    place: float = 300.0
    lease: float = 30.0


def start_owner(node: Node, setup: OwnerSetup, now: float) -> OwnerLink:
    """Start the owner actor of a node. It ends with this process."""
    groups = {"messages": 1, "commands": 1, "renewals": 1}
    cls = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups=groups)(Owner)
    actor = cls.options(scheduling_strategy=on_node(node.id)).remote(setup)
    return OwnerLink(node, actor, contact=now)


def start_holder(demand: Demand, node: str | None) -> Any:
    """Start the actor that holds a slot's resources, as soon as Ray has them.

    Args:
        node: the node for it, if that has them; None for any.
    """
    strategy = NodeAffinitySchedulingStrategy(node, soft=True) if node is not None else "DEFAULT"
    groups = {"hold": 1}
    cls = ray.remote(max_restarts=0, concurrency_groups=groups)(SlotHolder)
    return cls.options(num_cpus=demand.cpus, num_gpus=demand.gpus, scheduling_strategy=strategy).remote()


@dataclass(slots=True, eq=False)
class OwnerLink:
    """The owner actor of a node, as the driver knows it.

    Attributes:
        ready: the owner runs.
        shares_folder: its workers can use the study's folder.
        seen: the number of its last message here.
        contact: the time of its last answer, by the driver's clock.
        used: the time when it had a slot last.
        silent: the time since when it does not answer, though it is not dead; None if it answers.
        processes: its workers and their zygote.
        placed: the code that its workers find, by path, as digests.
        failure: the reason why it was given up, or None.
    """

    node: Node
    actor: Any
    ready: bool = False
    shares_folder: bool = True
    seen: int = 0
    contact: float = 0.0
    used: float = 0.0
    silent: float | None = None
    processes: Sequence[Process] = ()
    placed: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    def command(self, name: str, *arguments: Any) -> Any:
        """Call a method of the owner, after all earlier ones. Return the reference to its result."""
        return getattr(self.actor, name).options(concurrency_group="commands").remote(*arguments)

    def ask_for_messages(self) -> Any:
        """Return the reference to the owner's next report."""
        return self.actor.messages.options(concurrency_group="messages").remote(self.seen, LONG_POLL_SECONDS)

    def renew(self) -> None:
        """Tell the owner that this process lives."""
        self.actor.renew.options(concurrency_group="renewals").remote()

    def take(self, report: Report, now: float) -> list[tuple[int, int, Message]]:
        """Return the messages in a report that are new here, as (slot, work, message)."""
        self.contact, self.silent, self.processes = now, None, report.processes
        new = [entry for entry in report.entries if entry.number > self.seen]
        self.seen = max([self.seen, *(entry.number for entry in new)])
        return [(entry.slot, entry.work, entry.message) for entry in new]

    def lacks(self, code: Code) -> bool:
        """Return whether the owner must be sent the code first. It counts as sent from now on."""
        lacks = self.placed.get(code.path) != code.digest
        self.placed[code.path] = code.digest
        return lacks


@dataclass(frozen=True, slots=True)
class Excuse:
    """The reason why the work of a slot ends, if not the trial is to blame but the place where it runs."""

    reason: str
    out_of_memory: bool = False

    def ending(self, work: Segment | Evaluate, epoch: int, *, fault: bool) -> Message:
        """Return the last message of work that ends for this reason after `epoch`."""
        if self.out_of_memory and isinstance(work, Segment):
            return SegmentEnded(work.trial, work.execution, "no_memory", epoch, f"out of memory: {self.reason}")
        return Lost(self.reason, fault=fault)


@dataclass(slots=True, eq=False)
class SlotState:
    """A slot, as the driver knows it.

    Attributes:
        number: of the slot.
        planned: the slot as it was planned.
        demand: what it asks of Ray.
        share: the slot as it was placed.
        holder: the actor that holds its resources, or is to hold them; None if they are given back.
        hold: a call of the holder that fails when the holder dies; None until it is placed.
        node: the id of the node where it is placed; None if it is not.
        ready: the node's owner has opened it.
        opened: the search was told that it takes work.
        users: what others use of its GPUs, as text for users; None until its owner knows.
        asked: the time when its owner was asked for that; None if it is to be asked.
        leaving: its node is taken away, or its resources are lost: it ends with its work.
        work: the work that runs here or waits for the slot's place; None if it is free.
        sent: whether the owner was given the work.
        epoch: the last epoch of the work.
        excuse: the reason why the work ends soon, if the trial is not to blame.
        since: the time of its last change: asked for, placed, given work, or freed.
        requests: the number of times that Ray was asked since it placed the slot last.
        requested: the time of the last of them.
    """

    number: int
    planned: Slot
    demand: Demand
    since: float
    share: Slot
    holder: Any = None
    hold: Any = None
    node: str | None = None
    ready: bool = False
    opened: bool = False
    users: Sequence[str] | None = None
    asked: float | None = None
    leaving: bool = False
    work: Segment | Evaluate | None = None
    sent: bool = False
    epoch: int = 0
    excuse: Excuse | None = None
    requests: int = 0
    requested: float = 0.0

    @property
    def waits(self) -> bool:
        """True if Ray was asked for its resources and has not given them."""
        return self.holder is not None and self.node is None

    def keep_hold(self) -> None:
        """Make the call that fails when the holder dies."""
        self.hold = self.holder.hold.options(concurrency_group="hold").remote()

    def place(self) -> tuple[str, Sequence[str]] | None:
        """Return the node and the GPUs; None if the slot is not placed."""
        return None if self.node is None else (self.node, self.share.gpus)


def places_of(slots: Sequence[SlotState]) -> Mapping[int, tuple[str, Sequence[str]]]:
    """Return the node and the GPUs of each slot that is placed."""
    return {slot.number: place for slot in slots if (place := slot.place()) is not None}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Ray has ended a process as its node ran out of memory."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)


def end_actor(actor: Any) -> None:
    """End an actor, if it is one and still runs."""
    if actor is not None:
        with suppress(Exception):
            ray.kill(actor, no_restart=True)


def end_after(actor: Any, _: Any) -> None:
    """End an actor after the result of its last call."""
    end_actor(actor)


def describe(error: Any) -> str:
    """Return an error of an actor's in one line."""
    return as_one_line(str(getattr(error, "cause", None) or error))


def result_of(call: Any) -> Any:
    """Return the result of a call that has ended, or its exception."""
    try:
        return ray.get(call, timeout=0)
    except Exception as error:
        return error
