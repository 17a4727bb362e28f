"""The slots of a cluster: how many each node gets, and what each asks of Ray. Pure functions.

A slot is planned for a node, as on a machine of its own by `make_slots`. Ray places it there, or on another node if the
planned one is gone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from search.devices.gpus import Gpu
from search.devices.slots import Slot, make_slots
from search.errors import OptionError
from search.options import Options
from search.wording import pluralize

__all__ = [
    "Demand",
    "Node",
    "Wanted",
    "choose_cores",
    "demands_of",
    "describe_missing",
    "label_of",
    "plan_joined",
    "plan_slots",
    "sharing_of",
]

UNITS = 10_000
"""Ray counts resources in units of one ten-thousandth."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        id: Ray's own.
        name: for users.
        cpus, gpus: the numbers that Ray may give away there in all.
        machine: the name of the machine; nodes of a test cluster share one.
    """

    id: str
    name: str
    cpus: float
    gpus: int
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options that slots depend on.

    Attributes:
        workers: the number of slots; None for all that fit.
        gpus: whether GPUs are used, if there are any.
        gpus_per_trial, logical_devices: the options.
    """

    workers: int | None = None
    gpus: bool = True
    gpus_per_trial: float = 1.0
    logical_devices: int = 1

    @classmethod
    def of(cls, opts: Options) -> Wanted:
        """Return the wish in the options. OptionError if `--gpus` names GPUs."""
        request = opts.gpus.strip().lower()
        if request not in ("auto", "none"):
            raise OptionError(f"--gpus {opts.gpus}: Ray chooses the GPUs on its nodes: give auto or none")
        return cls(opts.workers, request == "auto", opts.gpus_per_trial, opts.logical_devices)


@dataclass(frozen=True, slots=True)
class Demand:
    """The resources that a slot asks of Ray: numbers of processors, more than 0, and of GPUs."""

    cpus: float
    gpus: float


def plan_slots(nodes: Sequence[Node], wanted: Wanted) -> tuple[Slot, ...]:
    """Return the slots to ask for, numbered from 0, those of one node together.

    If any node has GPUs, and they are wanted, only nodes with GPUs get slots. Slots for which no node has room yet are
    planned for no node (`node` is ""): they wait for one.

    Raises:
        OptionError: no node can ever hold such a slot.
    """
    usable = usable_nodes(nodes, wanted)
    rooms = {node.id: _room(node, wanted) for node in usable}
    if wanted.workers is None:
        counts: Mapping[str, int] = rooms
    else:
        counts = _spread(wanted.workers, usable, rooms, bounded=_with_gpus(usable, wanted))
    slots: list[Slot] = []
    for node in usable:
        if count := counts.get(node.id, 0):
            slots += _slots_of(node, count, wanted, several=len(nodes) > 1)
    for _ in range((wanted.workers or 0) - len(slots)):
        slots.append(replace(slots[0], node="", label="waits for a node"))
    return tuple(replace(slot, index=index) for index, slot in enumerate(slots))


def plan_joined(node: Node, wanted: Wanted, taken: int, waiting: int, *, with_gpus: bool) -> tuple[Slot, ...]:
    """Return the slots to ask for on a node that joins a search; none if it has no room for one.

    Args:
        taken: the number of slots that Ray has placed there already.
        waiting: the number of slots that wait for a place. With a number of workers, there are no further ones.
        with_gpus: the search's slots have GPUs. Then a node without any gets none, so that no trial is trained on
            processors by chance.
    """
    if with_gpus and not node.gpus:
        return ()
    try:
        planned = plan_slots([node], replace(wanted, workers=None))[taken:]
        if wanted.workers is not None and waiting < len(planned):
            planned = plan_slots([node], replace(wanted, workers=waiting)) if waiting else ()
    except OptionError:
        return ()
    return planned


def usable_nodes(nodes: Sequence[Node], wanted: Wanted) -> tuple[Node, ...]:
    """Return the nodes that can hold a slot. OptionError if there is none."""
    chosen = [node for node in nodes if node.gpus >= 1] if wanted.gpus else []
    needed = math.ceil(wanted.gpus_per_trial)
    if wanted.gpus and needed > 1 and not any(node.gpus >= needed for node in chosen):
        largest = max((node.gpus for node in nodes), default=0)
        raise OptionError(
            f"--gpus-per-trial {wanted.gpus_per_trial:g}: no node has {pluralize(needed, 'GPU')}; the largest has "
            f"{largest}: lower it, or add such a node"
        )
    usable = [node for node in chosen or nodes if node.cpus > 0 and (not chosen or node.gpus >= needed)]
    if not usable:
        kind = "GPUs and processors" if chosen else "processors"
        raise OptionError(f"no node of the Ray cluster has {kind}: start one with ray start --num-cpus")
    return tuple(usable)


def _with_gpus(nodes: Sequence[Node], wanted: Wanted) -> bool:
    return wanted.gpus and nodes[0].gpus >= 1


def _room(node: Node, wanted: Wanted) -> int:
    """Return the number of slots that `--workers auto` makes of a node."""
    return len(_slots_of(node, None, wanted))


def _spread(workers: int, nodes: Sequence[Node], rooms: Mapping[str, int], *, bounded: bool) -> Mapping[str, int]:
    """Return the number of slots for each node, by its id. The next slot goes where the most is left for it.

    Args:
        bounded: a node takes no more slots than it has room for. Otherwise processors are shared.
    """
    if workers < 1:
        raise OptionError(f"--workers {workers}: give at least 1, or auto")
    counts: Counter[str] = Counter()
    for _ in range(workers):
        free = [node for node in nodes if not bounded or counts[node.id] < rooms[node.id]]
        if not free:
            break

        def left(node: Node) -> float:
            return (rooms[node.id] if bounded else node.cpus) / (counts[node.id] + 1)

        counts[max(free, key=left).id] += 1
    return counts


def _slots_of(node: Node, count: int | None, wanted: Wanted, *, several: bool = False) -> list[Slot]:
    """Return the slots of a node, as `make_slots` makes them of a machine."""
    gpus = [Gpu(index, f"{node.id}:{index}", "", 0) for index in range(node.gpus)] if wanted.gpus else []
    cores = range(max(1, math.floor(node.cpus)))
    slots = make_slots(gpus, node.cpus, cores, count, wanted.gpus_per_trial, wanted.logical_devices)
    return [replace(slot, node=node.id, label=place_label(slot.label, node if several else None)) for slot in slots]


def place_label(label: str, node: Node | None) -> str:
    """Return the label of a slot for users; None if there is only one node."""
    return label if node is None else f"{node.name} {label}"


def label_of(planned: Slot, gpus: Sequence[str], node: Node | None) -> str:
    """Return the label of a slot with the GPUs that Ray gave it.

    Args:
        node: the node to name; None if there is only one.
    """
    if not gpus:
        return place_label("CPU " + planned.label.rpartition("CPU ")[2], node)
    share = planned.label[planned.label.index(" (") :] if planned.label.endswith(")") else ""
    return place_label(f"GPU{'s' if len(gpus) > 1 else ''} {'+'.join(gpus)}{share}", node)


def demands_of(slots: Sequence[Slot], nodes: Iterable[Node]) -> tuple[Demand, ...]:
    """Return what each of the planned `slots` asks of Ray.

    Slots that share a GPU ask for equal shares that fill it: Ray, which fills one GPU before it begins the next, then
    puts them where they were planned.
    """
    cpus = {node.id: node.cpus for node in nodes}
    on_node = Counter(slot.node for slot in slots)
    on_gpu = Counter(uuid for slot in slots if slot.node for uuid in slot.gpus)
    demands = []
    for slot in slots:
        share = max((on_gpu[uuid] for uuid in slot.gpus), default=1) or 1
        part = cpus[slot.node] / on_node[slot.node] if slot.node in cpus else slot.threads
        gpus = math.floor(UNITS * len(slot.gpus) / share) / UNITS
        demands.append(Demand(max(1 / UNITS, math.floor(UNITS * min(slot.threads, part)) / UNITS), gpus))
    return tuple(demands)


def describe_missing(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return the reason why Ray has not placed a slot, for users."""
    if not nodes:
        return "the cluster has no node left"
    for count, have, unit in (
        (demand.gpus, [node.gpus for node in nodes], "GPU"),
        (demand.cpus, [node.cpus for node in nodes], "CPU"),
    ):
        if count > max(have):
            return f"no node has {pluralize(math.ceil(count), unit)}; the largest has {max(have):g}"
    parts = [f"{count:g} {unit}" for count, unit in ((demand.gpus, "GPU"), (demand.cpus, "CPU")) if count]
    return f"no node has {' and '.join(parts)} free"


def choose_cores(cores: Sequence[int], held: Iterable[Collection[int]], threads: int) -> tuple[int, ...]:
    """Return `threads` of a node's cores for one more slot: those that no slot holds, or else those that fewest hold.

    Args:
        cores: the ids of the node's cores.
        held: the cores of each of the node's other slots.
    """
    users = Counter(core for each in held for core in each)
    chosen = sorted(cores, key=lambda core: (users[core], core))[:threads]
    return tuple(sorted(chosen))


def sharing_of(places: Mapping[int, tuple[str, Collection[str]]], slot: int) -> tuple[int, ...]:
    """Return the slots that share the memory of `slot`'s device: of one GPU, or without GPUs of the same node.

    Args:
        places: the node and the GPUs of each slot that is placed.
    """
    node, gpus = places[slot]
    return tuple(
        other
        for other, (other_node, other_gpus) in sorted(places.items())
        if other != slot and other_node == node and (set(gpus) & set(other_gpus) or not (gpus or other_gpus))
    )
