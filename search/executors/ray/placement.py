"""Slots on the nodes of a cluster: asked for, placed, opened, lost, asked for again.

Unavailable is not dead. The work of an owner that is gone counts as lost only when its processes are known to have
ended: a new owner of the node has ended them, or the owner's lease is over, after which it ends them itself.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError

from search.devices.slots import Slot
from search.errors import OptionError
from search.executors.ray import cluster as clusters
from search.executors.ray.cluster import Cluster
from search.executors.ray.links import (
    Excuse,
    OwnerLink,
    SlotState,
    Times,
    describe,
    end_actor,
    is_out_of_memory,
    places_of,
    result_of,
    start_holder,
    start_owner,
)
from search.executors.ray.owner import DriverSilent, Held, OwnerSetup, Process, Report
from search.executors.ray.plan import (
    Demand,
    Node,
    Wanted,
    demands_of,
    label_of,
    plan_joined,
    sharing_of,
)
from search.messages import Evaluated, Lost, Message, Notice, SlotClosed, SlotOpened
from search.study.records import EpochDone, SegmentEnded

__all__ = ["SILENCE_SECONDS", "WATCH_SECONDS", "Placement", "node_died"]

SILENCE_SECONDS = 10.0
"""Seconds after which an owner that is unavailable, but not dead, is ended."""

WATCH_SECONDS = 1.0
"""Seconds between two looks at the cluster."""

EXCUSES = 3
"""Losses of its place that a trial is not blamed for. After more it is suspected: a trial can bring a node down."""

OWNERS = 3
"""Owners that may die on a node before the node is not used any more."""


class Placement(ABC):
    """The slots of a search on a cluster, and the owners of their nodes.

    Args:
        cluster: the cluster, connected.
        wanted: the wish that slots are planned for.
        setup: for owners.
        packages: those whose versions must be the same on all nodes.
        times: its patience.
        now: the clock.
    """

    def __init__(
        self,
        cluster: Cluster,
        wanted: Wanted,
        setup: OwnerSetup,
        packages: Sequence[str],
        times: Times,
        now: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._wanted = wanted
        self._setup = setup
        self._packages = packages
        self._times = times
        self._now = now
        self._events: deque[tuple[int, int, Message]] = deque()
        self._waits: dict[Any, Callable[[Any], None]] = {}
        """For each call that is under way, the function that takes its result: a value, or an exception."""
        self._slots: list[SlotState] = []
        self._nodes: dict[str, Node] = {}
        self._usable: set[str] = set()
        """The nodes with the same versions as here."""
        self._checked: set[str] = set()
        """The nodes whose versions are known, or asked for."""
        self._checking: dict[str, float] = {}
        """The nodes whose versions were asked for, each with the time of that."""
        self._refused: dict[str, str] = {}
        """The nodes that cannot be used, each with the reason."""
        self._draining: frozenset[str] = frozenset()
        self._links: dict[str, OwnerLink] = {}
        self._leftover: dict[str, tuple[Process, ...]] = {}
        """For each node, the processes of dead owners that may still run there."""
        self._losing: dict[int, float] = {}
        """For each slot whose owner is dead, the time at which its work is certainly not running any more."""
        self._retry: list[OwnerLink] = []
        """The owners to ask for messages again."""
        self._excuses: Counter[int] = Counter()
        self._worn: Counter[str] = Counter()
        self._told: set[str] = set()
        self._begun = False
        self._needs_folder = False
        """The user wants all files in the study's folder, and no way around it."""
        self._watched = self._answered = self._looked = now()
        self._over = threading.Event()

    def _keep_owners(self) -> None:
        """Renew the leases of all owners, whatever else this process does, until the end."""
        while not self._over.wait(self._times.lease / 4):
            for link in list(self._links.values()):
                if self._over.is_set():
                    return
                with suppress(Exception):
                    link.renew()

    # Waiting --------------------------------------------------------------------------------------------------------

    def _wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for a call to end, and take in all results."""
        calls = list(self._waits)
        if not calls:
            time.sleep(timeout)
        elif ray.wait(calls, num_returns=1, timeout=timeout)[0]:
            for call in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
                if (take := self._waits.pop(call, None)) is not None:
                    take(result_of(call))
        if self._now() - self._watched >= WATCH_SECONDS:
            self._watched = self._now()
            self._watch()

    def _say(self, text: str) -> None:
        """Tell the user something once."""
        if text not in self._told:
            self._told.add(text)
            self._events.append((0, 0, Notice(0, text)))

    # Slots ----------------------------------------------------------------------------------------------------------

    def _plan(self, number: int, planned: Slot, demand: Demand) -> None:
        """Ask for a slot, which may be a new one."""
        if number == len(self._slots):
            self._slots.append(SlotState(number, planned, demand, self._now(), planned))
        slot = self._slots[number]
        slot.planned = slot.share = planned
        slot.demand = demand
        self._ask(slot)

    def _ask(self, slot: SlotState) -> None:
        """Ask Ray for a slot's resources."""
        alive = slot.planned.node in self._nodes and slot.planned.node not in self._draining
        slot.holder = holder = start_holder(slot.demand, slot.planned.node if alive else None)
        slot.since = slot.requested = self._now()
        slot.requests += 1

        def placed(result: Any) -> None:
            if slot.holder is not holder:
                return  # the slot was planned anew meanwhile
            if isinstance(result, Held):
                self._placed(slot, result)
            else:
                self._holder_died(slot, result)

        self._waits[holder.held.remote()] = placed

    def _placed(self, slot: SlotState, held: Held) -> None:
        """Take in that Ray has placed a slot."""
        slot.node = held.node
        slot.requests = 0
        slot.keep_hold()
        if held.node not in self._nodes:
            self._look_at_nodes()
        node = self._nodes.get(held.node)
        if node is None:
            return  # it died at once: the holder's call says so
        label = label_of(slot.planned, held.gpus, node if len(self._nodes) > 1 else None)
        slot.share = replace(slot.planned, gpus=held.gpus, node=held.node, label=label)
        slot.users, slot.asked = None if held.gpus else (), None
        self._occupy(node)

    def _occupy(self, node: Node) -> None:
        """Open the slots that are placed on a node, as soon as it has an owner."""
        if node.id not in self._usable or node.id in self._refused:
            return
        if node.id not in self._links:
            self._start_owner(node)
        elif self._links[node.id].ready:
            for slot in self._slots_on(node.id):
                if slot.ready or slot.leaving or slot.number in self._losing:
                    continue
                if slot.users is not None and not slot.users:
                    self._open(slot)
                elif slot.asked is None:
                    self._ask_for_users(self._links[node.id], slot)

    def _ask_for_users(self, link: OwnerLink, slot: SlotState) -> None:
        """Ask the owner whether others use the GPUs of a slot. If so, the slot keeps them, and stays closed."""
        slot.asked, holder = self._now(), slot.holder

        def answered(result: Any) -> None:
            if slot.holder is not holder or isinstance(result, BaseException):
                return
            slot.users = tuple(f"{link.node.name} {use}" for use in result)
            if not slot.users:
                self._occupy(link.node)
                return
            reason = f"left out: {', '.join(slot.users)}"
            self._say(f"{reason}; it is used once it is free")
            if slot.work is not None:
                self._close(slot, reason)
                self._finish(slot, Lost(reason, fault=False))

        self._waits[link.command("users_of", slot.share.gpus)] = answered

    def _slots_on(self, node: str) -> list[SlotState]:
        return [slot for slot in self._slots if slot.node == node]

    def _open(self, slot: SlotState) -> None:
        """Open a placed slot at its node's owner, and tell the search."""
        slot.ready, slot.since = True, self._now()
        self._command(slot, "open_slot", slot.number, slot.share)
        sharing = sharing_of(places_of(self._slots), slot.number)
        self._events.append((slot.number, 0, SlotOpened(slot.share.label, sharing)))
        slot.opened = True
        if slot.work is not None and not slot.sent:
            self._send_work(slot)

    @abstractmethod
    def _send_work(self, slot: SlotState) -> None:
        """Have the owner of a slot's node start its work."""

    def _close(self, slot: SlotState, reason: str) -> None:
        """Tell the search that a slot takes no new work."""
        if slot.opened:
            slot.opened = False
            self._events.append((slot.number, 0, SlotClosed(reason)))

    def _give_back(self, slot: SlotState) -> None:
        """Give a free slot's resources back to Ray, once its worker has ended."""
        holder, link = slot.holder, self._links.get(str(slot.node))
        slot.holder = slot.hold = slot.node = None
        was_ready, slot.ready, slot.leaving = slot.ready, False, False
        if was_ready and link is not None:
            self._waits[link.command("close_slot", slot.number)] = lambda _: end_actor(holder)
        else:
            end_actor(holder)

    def _finish(self, slot: SlotState, message: Message) -> None:
        """Pass on the last message of a slot's work."""
        assert slot.work is not None
        work, slot.work, slot.sent, slot.since = slot.work, None, False, self._now()
        if slot.excuse is not None and isinstance(message, Lost):
            self._excuses[work.trial] += 1
            message = slot.excuse.ending(work, slot.epoch, fault=self._excuses[work.trial] > EXCUSES)
        slot.excuse = None
        self._losing.pop(slot.number, None)
        self._events.append((slot.number, work.id, message))

    def _command(self, slot: SlotState, name: str, *arguments: Any) -> None:
        """Call a method of the owner of a slot's node."""
        link = self._links.get(str(slot.node))
        if link is not None:
            self._expect(link, link.command(name, *arguments))

    def _expect(self, link: OwnerLink, call: Any) -> None:
        """Give an owner up if a command to it fails: it may have been carried out, or not."""

        def done(result: Any) -> None:
            if isinstance(result, BaseException) and not isinstance(result, ActorDiedError):
                self._give_up(link, describe(result))

        self._waits[call] = done

    # Owners ---------------------------------------------------------------------------------------------------------

    def _start_owner(self, node: Node) -> None:
        """Start the owner of a node. It first ends what an earlier one may have left."""
        link = self._links[node.id] = start_owner(node, self._setup, self._now())
        if left := self._leftover.get(node.id):
            self._waits[link.command("end_processes", left)] = lambda result: self._ended(link, result)
        self._ask_owner(link)

    def _ask_owner(self, link: OwnerLink) -> None:
        """Ask an owner for messages, or, before it is ready, whether it is."""
        if link.ready:
            self._waits[link.ask_for_messages()] = lambda result: self._heard(link, result)
        else:
            self._waits[link.command("reaches_folder")] = lambda result: self._owner_answered(link, result)

    def _ended(self, link: OwnerLink, result: Any) -> None:
        """Take in that the processes of the node's earlier owner have ended: their work is lost now."""
        if isinstance(result, BaseException):
            return  # the lease ends them
        self._leftover.pop(link.node.id, None)
        for slot in self._slots_on(link.node.id):
            if slot.number in self._losing:
                self._finish(slot, Lost("its node's owner died"))

    def _owner_answered(self, link: OwnerLink, result: Any) -> None:
        node = link.node
        if isinstance(result, BaseException):
            self._owner_failed(link, result)
        elif not result and self._needs_folder:
            self._refuse(
                node,
                f"node {node.name} cannot reach the study's folder: give --runs on a disk that all share, or give "
                "--storage driver",
            )
        else:
            link.shares_folder = bool(result)
            link.ready, link.contact = True, self._now()
            self._ask_owner(link)
            self._occupy(node)

    def _refuse(self, node: Node, reason: str) -> None:
        """Use a node no more. OptionError before the search has begun."""
        if not self._begun:
            raise OptionError(f"--executor ray: {reason}")
        self._refused[node.id] = reason
        self._say(f"{reason}; the search goes on without it")
        for slot in self._slots_on(node.id):
            # Its resources stay taken, so that Ray places no other slot there.
            self._close(slot, reason)
            slot.ready = False
            if slot.work is not None and not slot.sent:
                self._finish(slot, Lost(reason, fault=False))

    def _heard(self, link: OwnerLink, result: Any) -> None:
        if self._links.get(link.node.id) is not link:
            return
        if isinstance(result, Report):
            for slot, work, message in link.take(result, self._now()):
                self._take(link, self._slots[slot], work, message)
            self._ask_owner(link)
        else:
            self._owner_failed(link, result)

    def _take(self, link: OwnerLink, slot: SlotState, work: int, message: Message) -> None:
        """Take in a message of a worker. One of other work than the slot's present one is dropped."""
        if isinstance(message, Notice):
            self._events.append((slot.number, work, message))
        elif slot.work is not None and slot.work.id == work and slot.node == link.node.id:
            if isinstance(message, EpochDone):
                slot.epoch = message.epoch
            if isinstance(message, (SegmentEnded, Evaluated, Lost)):
                self._finish(slot, message)
            else:
                self._events.append((slot.number, work, message))

    def _owner_failed(self, link: OwnerLink, error: BaseException) -> None:
        """Take in that a call of an owner has failed."""
        if self._links.get(link.node.id) is not link:
            return
        if isinstance(error, ActorDiedError) or is_out_of_memory(error):
            self._owner_died(link, error)
        elif isinstance(error, RayActorError):
            if link.silent is None:
                link.silent = self._now()
            elif self._now() - link.silent > SILENCE_SECONDS:
                self._give_up(link, "it did not answer")
            # `_watch` asks again.
            self._retry.append(link)
        else:
            self._worn[link.node.id] += not isinstance(error, DriverSilent)
            self._give_up(link, describe(error))
            self._retry.append(link)

    def _give_up(self, link: OwnerLink, reason: str) -> None:
        """End an owner. Its work counts as lost when it is known to be dead."""
        if link.failure is None:
            link.failure = reason
            end_actor(link.actor)

    def _owner_died(self, link: OwnerLink, error: BaseException) -> None:
        """Take in that an owner is dead. Its workers end within its lease."""
        node = link.node
        del self._links[node.id]
        self._look_at_nodes()
        alive = node.id in self._nodes
        reason = f"the owner of its workers on node {node.name} died" if alive else node_died(node)
        reason += f": {link.failure}" if link.failure else ""
        self._leftover[node.id] = (*self._leftover.get(node.id, ()), *link.processes)
        for slot in self._slots_on(node.id):
            self._close(slot, reason)
            slot.ready = False
            slot.leaving |= not alive
            if slot.work is not None and slot.sent:
                slot.excuse = slot.excuse or Excuse(reason, is_out_of_memory(error))
                self._losing[slot.number] = self._now() + self._times.lease + WATCH_SECONDS
        if alive and self._worn[node.id] >= OWNERS:
            self._refuse(node, f"node {node.name} cannot be used ({link.failure})")
        elif alive and self._slots_on(node.id):
            self._start_owner(node)

    # Nodes ------------------------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        """Take in the nodes that have joined or gone."""
        before, found = self._nodes, self._cluster.nodes()
        self._nodes = {node.id: node for node in found}
        for slot in self._slots:
            # A slot that was given back, on a node that was taken away then.
            if slot.holder is None and slot.planned.node in before and slot.planned.node not in self._nodes:
                self._close(slot, "its node is gone")
                slot.leaving = True
        for node in found:
            if self._begun and node.id not in self._checked and self._has_use_for(node):
                self._checked.add(node.id)
                self._check(node)

    def _has_use_for(self, node: Node) -> bool:
        """Return whether a node that has joined gets a slot, or has one: Ray may have placed it before this look."""
        return bool(self._slots_on(node.id) or self._planned_on(node, len(self._slots)))

    def _check(self, node: Node) -> None:
        """Use a node that has joined if it has the same versions."""
        self._checking[node.id] = self._now()

        def checked(result: Any) -> None:
            if self._checking.pop(node.id, None) is None:
                return  # it was asked twice, and has answered
            difference = clusters.describe_node(node, result, self._packages)
            if difference is not None:
                self._refuse(node, difference)
            else:
                self._usable.add(node.id)
                self._fill(node)
                self._occupy(node)

        self._waits[clusters.ask_versions(node, self._packages)] = checked

    def _fill(self, node: Node) -> None:
        """Plan slots for a node that has joined: those that wait for a place, and with `--workers auto` new ones."""
        waiting = [slot for slot in self._slots if slot.waits]
        planned = self._planned_on(node, len(waiting))
        for slot, demand in zip(planned, demands_of(planned, [node]), strict=True):
            number = waiting.pop(0).number if waiting else len(self._slots)
            if number < len(self._slots):
                end_actor(self._slots[number].holder)
            self._plan(number, replace(slot, index=number), demand)

    def _planned_on(self, node: Node, waiting: int) -> tuple[Slot, ...]:
        with_gpus = any(slot.planned.gpus for slot in self._slots)
        return plan_joined(node, self._wanted, len(self._slots_on(node.id)), waiting, with_gpus=with_gpus)

    @abstractmethod
    def _watch(self) -> None:
        """Look at the cluster, and at all that waits for a time."""

    @abstractmethod
    def _holder_died(self, slot: SlotState, error: Any) -> None:
        """Take in that the actor is dead that holds a slot's resources: Ray may give them to others."""


def node_died(node: Node) -> str:
    """Return the reason that ends the work on a node that is gone, for users."""
    return f"node {node.name} died"
