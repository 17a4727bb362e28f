"""The watch over a cluster: owners that fall silent, slots that wait or idle, nodes that drain, a head that dies."""

from __future__ import annotations

from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError

from search.errors import SearchError
from search.executors.ray import cluster as clusters
from search.executors.ray.links import (
    LONG_POLL_SECONDS,
    Excuse,
    SlotState,
    end_actor,
    end_after,
    is_out_of_memory,
    result_of,
)
from search.executors.ray.placement import SILENCE_SECONDS, Placement, node_died
from search.executors.ray.plan import describe_missing
from search.messages import Interrupt, Lost
from search.wording import format_time

TELL_SECONDS = 10.0
"""Seconds after which the user is told that a slot is not placed."""

HEAD_SECONDS = 5.0
"""Seconds without an answer of the cluster's head after which the search ends: Ray would end this process later."""

ASK_AGAIN_SECONDS = 60.0
"""Seconds after which Ray is asked again for a slot, doubled each time: a node that dies may take a request with it."""

START_SECONDS = 120.0
"""Seconds for an owner to start, and for a node to report its versions, before they are asked again."""

UNUSED_SECONDS = 10.0
"""Seconds without a slot after which an owner ends: a slot that has lost its place soon comes back."""

USERS_SECONDS = 30.0
"""Seconds between two looks at a GPU that others use."""

STALL_SECONDS = 5.0
"""Seconds between two looks at the cluster from which this process counts as suspended."""


class Watch(Placement):
    """The slots of a search on a cluster, watched."""

    def _watch(self) -> None:
        """Look at the cluster, and at all that waits for a time. SearchError if the cluster is gone."""
        if not self._cluster.answers():
            if self._now() - self._answered > HEAD_SECONDS:
                raise clusters.head_is_gone(str(self._cluster))
            return
        self._answered = self._now()
        self._look_at_nodes()
        self._watch_owners()
        for node in self._cluster.draining() - self._draining:
            self._drain(node)
        holds = {slot.hold: slot for slot in self._slots if slot.hold is not None}
        for hold in ray.wait(list(holds), num_returns=len(holds), timeout=0)[0] if holds else ():
            slot, error = holds[hold], result_of(hold)
            if isinstance(error, ActorUnavailableError):
                slot.keep_hold()
            else:
                self._holder_died(slot, error)
        self._watch_slots()

    def _watch_owners(self) -> None:
        """Give owners up that have not answered for long, and ask those again that were out of reach."""
        now = self._now()
        stalled = now - self._looked > STALL_SECONDS
        self._looked = now
        for link in list(self._links.values()):
            if stalled:
                link.contact = now  # this process was suspended, and owners may have answered meanwhile
            elif link.ready and now - link.contact > LONG_POLL_SECONDS + SILENCE_SECONDS:
                self._give_up(link, "it did not answer")
            elif not link.ready and link.failure is None and now - link.contact > START_SECONDS:
                self._worn[link.node.id] += 1
                self._give_up(link, f"its owner did not start in {format_time(START_SECONDS)}")
        retry, self._retry = self._retry, []
        for link in retry:
            self._ask_owner(link)
        for node_id, asked in list(self._checking.items()):
            if node_id not in self._nodes:
                del self._checking[node_id]
            elif now - asked > START_SECONDS:
                self._check(self._nodes[node_id])

    def _watch_slots(self) -> None:
        now = self._now()
        if self._refused and all(slot.node in self._refused for slot in self._slots):
            raise SearchError(f"no node is left: {next(iter(self._refused.values()))}; go on with search resume")
        for slot in self._slots:
            if now > self._losing.get(slot.number, now):
                self._finish(slot, Lost("its node is gone"))
                if slot.node in self._links:
                    self._occupy(self._links[slot.node].node)
            if slot.users and slot.asked is not None and now - slot.asked > USERS_SECONDS:
                slot.asked = None
                if slot.node in self._links:
                    self._occupy(self._links[slot.node].node)
            if slot.leaving and not slot.sent:
                self._give_back(slot)
                self._ask(slot)
            if slot.waits and slot.work is not None and now - slot.since > self._times.place:
                reason = f"no node was found for it in {format_time(self._times.place)}: {self._missing(slot)}"
                self._close(slot, reason)
                self._finish(slot, Lost(reason, fault=False))
            elif slot.waits and now - slot.since > TELL_SECONDS:
                self._say(f"slot {slot.number} and all like it wait for a place: {self._missing(slot)}")
            if slot.waits and now - slot.requested > ASK_AGAIN_SECONDS * 2 ** (slot.requests - 1):
                self._ask_again(slot)

    def _ask_again(self, slot: SlotState) -> None:
        """Replace a request that Ray has not answered. The slot has waited since the first."""
        since, lost = slot.since, slot.holder
        self._ask(slot)
        slot.since = since
        end_actor(lost)

    def _missing(self, slot: SlotState) -> str:
        return describe_missing(slot.demand, list(self._nodes.values()))

    def _holder_died(self, slot: SlotState, error: Any) -> None:
        """Take in that the actor is dead that holds a slot's resources: Ray may give them to others."""
        self._look_at_nodes()  # its node may have died just now
        slot.hold, slot.leaving = None, True
        link, alive = self._links.get(str(slot.node)), slot.node in self._nodes
        reason = "Ray has ended the actor that holds its resources" if alive or link is None else node_died(link.node)
        self._close(slot, reason)
        slot.excuse = slot.excuse or Excuse(reason, isinstance(error, BaseException) and is_out_of_memory(error))
        if slot.work is not None and slot.sent:
            self._command(slot, "kill", slot.number, slot.work.id, reason)

    def _drain(self, node_id: str) -> None:
        """Move the work of a node that is about to be taken away."""
        self._draining |= {node_id}
        name = self._nodes[node_id].name if node_id in self._nodes else node_id[:6]
        reason = f"node {name} is about to be taken away"
        for slot in self._slots_on(node_id):
            self._close(slot, reason)
            slot.leaving = True
            slot.excuse = Excuse(reason)
            if slot.work is not None and slot.sent:
                self._command(slot, "send", slot.number, slot.work.id, Interrupt())

    def _give_back_idle(self) -> None:
        """Give back the resources of slots that have been free for long."""
        idle = self._times.idle
        if idle is None:
            return
        for slot in self._slots:
            if slot.ready and slot.work is None and self._now() - slot.since > idle:
                self._give_back(slot)

    def _end_unused(self) -> None:
        """End the owners of nodes that have been without a slot for a while."""
        for link in list(self._links.values()):
            if not link.ready or self._slots_on(link.node.id):
                link.used = self._now()
            elif self._now() - link.used > UNUSED_SECONDS:
                del self._links[link.node.id]
                self._waits[link.command("close", False)] = partial(end_after, link.actor)
