"""The `ray` executor: slots on all nodes of a Ray cluster.

A slot is a light actor that holds processors and GPUs, so that Ray places it. On each node with a slot, one owner actor
runs a `LocalExecutor`, which imports the framework once and forks the node's workers. All decisions stay in the driver.
Nothing is detached, so all actors end with the driver, and all workers with their owner.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from search.devices import nodes as devices
from search.devices.plan import describe_unseen_gpus
from search.devices.slots import Slot
from search.errors import OptionError, SearchError
from search.executors.base import ExecutorSetup, Handle, tell_user
from search.executors.ray import cluster as clusters
from search.executors.ray.cluster import Cluster
from search.executors.ray.code import Code, pack_code
from search.executors.ray.links import OwnerLink, SlotState, Times, describe, end_actor
from search.executors.ray.owner import OwnerSetup
from search.executors.ray.placement import WATCH_SECONDS
from search.executors.ray.plan import Wanted, demands_of, describe_missing, plan_slots, usable_nodes
from search.executors.ray.watch import Watch
from search.messages import (
    DRIVER,
    Evaluate,
    Evaluated,
    Interrupt,
    Lost,
    Message,
    Notice,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    WorkCommand,
)
from search.options import FOLDER, Options
from search.space.file import SpaceRef
from search.study.records import SegmentEnded
from search.wording import format_time, pluralize

FORWARDED = ("KERAS_", "TF_", "XLA_", "JAX_", "PYTORCH_", "OMP_", "CUDA_DEVICE_ORDER", "PYTHONHASHSEED")
"""Beginnings of the names of variables that workers take from the driver, not from their node."""


class RayExecutor(Watch):
    """An executor with workers on the nodes of a Ray cluster.

    Args:
        cluster: the cluster, connected.
        slots: the slots, as `plan_slots` returns them.
        wanted: the wish that they were planned for, for nodes that join later.
        setup: the circumstances of the search.
        times: the executor's patience.
        memory: bytes that a node's workers may use in all; by default what the node has.
        now: the clock.

    Raises:
        OptionError: a node has other versions, or no processors.
    """

    protocol = 2

    @classmethod
    def find_slots(cls, options: Options) -> tuple[Slot, ...]:
        """Return the slots that the options ask for on the cluster that they name. OptionError if there are none."""
        wanted = Wanted.of(options)
        return plan_slots(clusters.connect(options).nodes(), wanted)

    @classmethod
    def find_nodes(cls, options: Options) -> dict[str, devices.Node]:
        """Return the machines of the cluster by the `node` of their slots. OptionError if one does not answer."""
        return clusters.find_devices(clusters.connect(options).nodes())

    @classmethod
    def from_setup(cls, setup: ExecutorSetup) -> RayExecutor:
        """Return the executor of a search."""
        assert setup.options is not None
        cluster = clusters.connect(setup.options)
        # Nobody else waits for the resources of a cluster of this search's own.
        times = Times() if cluster.address else Times(idle=None)
        return cls(cluster, setup.slots, Wanted.of(setup.options), setup, times=times)

    def __init__(
        self,
        cluster: Cluster,
        slots: Sequence[Slot],
        wanted: Wanted,
        setup: ExecutorSetup,
        *,
        times: Times | None = None,
        memory: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        times = times or Times()
        self._marker = setup.log.parent / f".node-check-{secrets.token_hex(4)}"
        for_owners = _owner_setup(setup, self._marker, times.lease, memory)
        packages = ("keras", setup.keras_backend or os.environ.get("KERAS_BACKEND") or "tensorflow")
        super().__init__(cluster, wanted, for_owners, packages, times, now)
        self._needs_folder = setup.options is not None and setup.options.storage == FOLDER
        self._codes: dict[tuple[str, int], tuple[Code, Any]] = {}
        """The code at each path and time of change, and the reference to its contents."""
        self._seen_files: dict[str, tuple[tuple[str, str], ...]] = {}
        """The files that a probe of each space has seen."""
        self._probe_machine: str | None = None
        nodes = cluster.nodes()
        self._nodes = {node.id: node for node in nodes}
        here = self._nodes.get(ray.get_runtime_context().get_node_id())
        self._machine = None if here is None else here.machine
        """This process's machine."""
        for node, difference in clusters.check_nodes(usable_nodes(nodes, wanted), packages).items():
            if difference is not None:
                raise OptionError(f"--executor ray: {difference}")
            self._usable.add(node)
        self._checked = set(self._usable)
        self._marker.write_text(for_owners.token)
        if not cluster.tells_draining:
            self._say(
                f"notice of draining nodes is off, as ray {ray.__version__} has other internals: a node that is taken "
                "away costs the epochs since the last checkpoint"
            )
        self._leases = threading.Thread(target=self._keep_owners, name="search-leases", daemon=True)
        self._leases.start()
        self.set_slots(slots)

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def closed(self) -> Collection[int]:
        """The slots that take no work yet."""
        return [slot.number for slot in self._slots if not slot.opened]

    @property
    def description(self) -> str:
        """The cluster, for users."""
        return f"{self._cluster} with {pluralize(len(self._nodes), 'node')}"

    def set_options(self, options: Options) -> None:
        """Take the options of the search for nodes that join later."""
        self._wanted = Wanted.of(options)

    def set_slots(self, slots: Sequence[Slot]) -> None:
        """Replace the slots while nothing runs. One that is planned as before stays."""
        self._look_at_nodes()
        demands = demands_of(slots, self._nodes.values())
        for slot in self._slots[len(slots) :]:
            self._give_back(slot)
        del self._slots[len(slots) :]
        for planned, demand in zip(slots, demands, strict=True):
            if planned.index < len(self._slots):
                slot = self._slots[planned.index]
                if (slot.planned, slot.demand) == (planned, demand):
                    continue
                self._give_back(slot)
                slot.opened = False
            self._plan(planned.index, planned, demand)

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        slot = self.wait_for_slot()
        link = self._links[str(slot.node)]
        self._send_code(link, probe.space)
        found = self._result_of(link.command("probe", slot.number, probe))
        if isinstance(found, SearchError):
            raise SearchError(describe(found))
        if isinstance(found, BaseException):
            return ProbeFailed(f"node {link.node.name} failed while it probed the space: {describe(found)}", "")
        assert isinstance(found, (Probed, ProbeFailed))
        if isinstance(found, ProbeFailed):
            return found
        if probe.share is not None:
            self._probe_machine = link.node.machine
        self._seen_files[probe.space.label] = found.files
        self._codes.clear()
        return self._check_seen_gpus(found, link, slot.share.gpus)

    def _check_seen_gpus(self, probed: Probed, link: OwnerLink, gpus: Sequence[str]) -> Probed | ProbeFailed:
        """Fail a probe on GPUs that Keras's framework does not see: its trials would be trained on the processor."""
        if not gpus or probed.gpus != 0:
            return probed
        found = self._result_of(link.command("find_gpus"))
        known = [gpu for gpu in found if {str(gpu.index), gpu.uuid} & set(gpus)] if isinstance(found, tuple) else []
        line = describe_unseen_gpus(probed.versions["keras_backend"], known, 0)
        return probed if line is None else ProbeFailed(f"node {link.node.name}: {line}", "")

    def _result_of(self, call: Any) -> Any:
        """Wait for the result of a call, or for its exception, and return it."""
        results: list[Any] = []
        self._waits[call] = results.append
        while not results:
            self._wait(WATCH_SECONDS)
            self._tell_at_once()
        return results[0]

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        state = self._slots[slot]
        state.work, state.sent, state.excuse = work, False, None
        state.epoch = work.from_epoch if isinstance(work, Segment) else 0
        state.since = self._now()
        if state.ready:
            self._send_work(state)
        elif state.holder is None:
            self._ask(state)

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        state = self._slots[slot]
        if state.work is None or state.work.id != work:
            return
        if state.sent:
            self._command(state, "send", slot, work, command)
        elif isinstance(command, Interrupt):
            self._finish(state, _interrupted(state.work))

    def kill(self, slot: int, work: int, reason: str) -> None:
        state = self._slots[slot]
        if state.work is None or state.work.id != work:
            return
        if state.sent:
            self._command(state, "kill", slot, work, reason)
        else:
            self._finish(state, Lost(reason))

    def retire(self, slot: int) -> None:
        """Give the resources of a slot where nothing runs back to Ray. The next work asks for them again."""
        state = self._slots[slot]
        if state.ready and state.work is None:
            self._give_back(state)

    def poll(self, handle: Handle, timeout: float) -> None:
        self._begun = True
        self._wait(0 if self._events else timeout)
        self._give_back_idle()
        self._end_unused()
        while self._events:
            handle(*self._events.popleft())

    def close(self, *, now: bool = False) -> None:
        if self._over.is_set():
            return
        self._over.set()
        links = self._links.values()
        if links:
            with suppress(Exception):
                calls = [link.command("close", now) for link in links]
                ray.wait(calls, num_returns=len(calls), timeout=clusters.ANSWER_SECONDS)
        for actor in [*(link.actor for link in links), *(slot.holder for slot in self._slots)]:
            end_actor(actor)
        self._marker.unlink(missing_ok=True)
        # After a disconnection, a call of Ray's ends this process with exit code 1, in any thread.
        self._leases.join(clusters.ANSWER_SECONDS)
        if not self._leases.is_alive():
            self._cluster.disconnect()

    # Waiting --------------------------------------------------------------------------------------------------------

    def wait_for_slot(self) -> SlotState:
        """Wait until a slot can be used, and return the first. OptionError if Ray places none in time."""
        began = self._now()
        while not (ready := [slot for slot in self._slots if slot.ready]):
            used = [use for slot in self._slots for use in slot.users or ()]
            if used and all(slot.users for slot in self._slots):
                raise OptionError(f"--executor ray: no GPU is free: others use {'; '.join(used)}; or give --gpus none")
            if self._now() - began > self._times.place:
                missing = describe_missing(self._slots[0].demand, list(self._nodes.values()))
                raise OptionError(f"--executor ray: no slot was placed in {format_time(self._times.place)}: {missing}")
            self._wait(0.2)
            self._tell_at_once()
        return ready[0]

    def _tell_at_once(self) -> None:
        """Show notices: the driver, which shows them otherwise, waits for a probe."""
        for event in [event for event in self._events if isinstance(event[2], Notice)]:
            self._events.remove(event)
            assert isinstance(event[2], Notice)
            tell_user(event[2].text)

    # Work -----------------------------------------------------------------------------------------------------------

    def _send_work(self, slot: SlotState) -> None:
        """Have the owner start a slot's work."""
        assert slot.work is not None
        link, work = self._links[str(slot.node)], slot.work
        self._send_code(link, work.space)
        slot.sent = True
        if work.storage is None and not link.shares_folder:
            work = replace(work, storage=DRIVER)
        self._command(slot, "start", slot.number, work, link.node.machine == self._probe_machine)

    def _send_code(self, link: OwnerLink, ref: SpaceRef) -> None:
        """Let a node's workers find the user's code, if they do not yet. This machine has it."""
        if link.node.machine == self._machine:
            return
        path = str(ref.path or ref.pickle)
        stat = Path(path).stat() if Path(path).exists() else None
        key = (path, stat.st_mtime_ns if stat else 0)
        if key not in self._codes:
            code = pack_code(ref, self._seen_files.get(ref.label, ()))
            self._codes[key] = (replace(code, contents=None), ray.put(code))
        code, contents = self._codes[key]
        if link.lacks(code):
            self._expect(link, link.command("place_code", code, [contents]))


def _owner_setup(setup: ExecutorSetup, marker: Path, lease: float, memory: int | None) -> OwnerSetup:
    return OwnerSetup(
        log=str(setup.log.absolute()),
        keras_backend=setup.keras_backend,
        compiled=str(setup.compiled.absolute()) if setup.compiled is not None else None,
        heartbeat=setup.heartbeat,
        marker=str(marker.absolute()),
        token=secrets.token_hex(16),
        folder=str(Path.cwd()),
        environment={name: value for name, value in os.environ.items() if name.startswith(FORWARDED)},
        lease=lease,
        memory=memory,
    )


def _interrupted(work: Segment | Evaluate) -> Message:
    """Return the last message of work that is interrupted before it has begun."""
    if isinstance(work, Segment):
        return SegmentEnded(work.trial, work.execution, "interrupted", work.from_epoch)
    return Evaluated(work.trial)
