"""The plan of a search's slots on one machine or several, as `search devices` shows it. All functions are pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from search.devices.gpus import Gpu
from search.devices.nodes import Node
from search.devices.slots import Slot, make_slots, unused_gpus
from search.devices.usage import Choice, NoFreeGpu, pick_gpus

_INSTALLS = {
    "tensorflow": "pip install 'tensorflow[and-cuda]'",
    "jax": "pip install 'jax[cuda12]'",
    "torch": "install a torch that is built for CUDA and for this driver (pytorch.org)",
}
"""By Keras's back end, the way to a framework that sees GPUs."""


_NO_GPU = "it has no GPU, and other nodes have: --gpus none trains on the processors of all nodes"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A machine, and what a search would make of it.

    Attributes:
        node: the machine.
        choice: the GPUs that the search would take.
        slots: the slots that it would have there.
        error: one line that says why it could not use the machine, "" if it could.
    """

    node: Node
    choice: Choice = field(default_factory=lambda: Choice(()))
    slots: tuple[Slot, ...] = ()
    error: str = ""


def plan_machine(
    node: Node,
    gpus: str = "auto",
    workers: int | None = None,
    gpus_per_trial: float = 1,
    logical_devices: int = 1,
) -> NodePlan:
    """Return what a search would make of one machine. Arguments are as in `make_slots`.

    Raises:
        OptionError: an option does not fit the machine.
    """
    plan = _with_gpus(node, gpus)
    if plan.error:
        return plan
    slots = make_slots(plan.choice.gpus, node.cpus, node.cores, workers, gpus_per_trial, logical_devices)
    return replace(plan, slots=slots)


def plan_placed(nodes: Mapping[str, Node], slots: Sequence[Slot], gpus: str) -> tuple[NodePlan, ...]:
    """Return the slots of a cluster by node, without those on GPUs that others use.

    Args:
        nodes: the machines by the `node` of their slots.
        slots: planned for the cluster, their GPUs named `node:index`.
        gpus: the option `--gpus`: auto or none.
    """
    wanted = gpus.strip().lower() != "none" and any(node.uses for node in nodes.values())
    plans = []
    for name, node in nodes.items():
        busy = [use for use in node.uses if use.others and wanted]
        free = tuple(use.gpu for use in node.uses if use not in busy and wanted)
        placed = []
        for slot in (slot for slot in slots if slot.node == name):
            own = tuple(node.gpus[int(gpu.rpartition(":")[2])] for gpu in slot.gpus)
            if all(gpu in free for gpu in own):
                placed.append(replace(slot, gpus=tuple(gpu.uuid for gpu in own)))
        error = f"others use {'; '.join(map(str, busy))}: its slot opens once it is free" if busy else ""
        plans.append(
            NodePlan(node, Choice(free), tuple(placed), error or (_NO_GPU if wanted and not node.uses else ""))
        )
    return tuple(plans)


def _with_gpus(node: Node, gpus: str) -> NodePlan:
    try:
        choice = pick_gpus(node.uses, gpus)
    except NoFreeGpu as error:
        return NodePlan(node, error=str(error))
    seen = len(node.uses) if node.seen is None else node.seen
    return NodePlan(node, choice, error=describe_unseen_gpus(node.keras_backend, choice.gpus, seen) or "")


def describe_unseen_gpus(keras_backend: str, gpus: Sequence[Gpu], seen: int) -> str | None:
    """Return a line with the fix if the NVIDIA driver shows `gpus` and Keras's framework sees none of them.

    Args:
        seen: the number of GPUs that the framework sees.
    """
    if not gpus or seen:
        return None
    return (
        f"the NVIDIA driver shows GPU {', '.join(map(str, gpus))}, and Keras on {keras_backend} sees no GPU: "
        f"{_INSTALLS.get(keras_backend, 'install a version of it for CUDA')}, or train on the processor by --gpus none"
    )


def notes_of(plans: Sequence[NodePlan]) -> list[str]:
    """Return lines for the user: GPUs that are left out, processes that cannot be seen, GPUs in no slot."""
    notes = []
    for plan in plans:
        prefix = f"{plan.node.name}: " if len(plans) > 1 else ""
        idle = unused_gpus(plan.choice.gpus, plan.slots) if plan.slots else ()
        unused = [f"unused: GPU {', '.join(map(str, idle))}"] if idle else []
        failed = [plan.error] if plan.error and len(plans) > 1 else []
        notes += [f"{prefix}{line}" for line in (*plan.choice.lines(), *unused, *failed)]
    return notes


def error_of(plans: Sequence[NodePlan]) -> str:
    """Return one line that says why a search would not begin; "" if it would."""
    if any(plan.slots for plan in plans):
        return ""
    return next((plan.error for plan in plans if plan.error), "there is no machine to search on")
