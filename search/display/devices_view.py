"""The output of `search devices`: tables for people, and a document for programs. All functions are pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from search.devices.plan import NodePlan
from search.devices.usage import Use
from search.display.grid import Column, Grid
from search.display.text import NONE
from search.wording import format_memory


def devices_tables(plans: Sequence[NodePlan]) -> RenderableType:
    """Return the machines, their GPUs with the use by others, and the slots."""
    parts: list[RenderableType] = [_nodes(plans)]
    if any(plan.node.uses for plan in plans):
        parts += [Text(), _gpus(plans)]
    if any(plan.slots for plan in plans):
        parts += [Text(), _slots(plans)]
    return Group(*parts)


def _nodes(plans: Sequence[NodePlan]) -> Grid:
    nodes = [plan.node for plan in plans]
    columns = [
        Column("node", [node.name for node in nodes], left=True),
        Column("processors", [f"{node.cpus:g}" for node in nodes]),
        Column("memory", [format_memory(node.memory) for node in nodes]),
        Column("GPUs", [str(len(node.uses)) for node in nodes]),
        Column("slots", [str(len(plan.slots)) for plan in plans]),
    ]
    return Grid(columns)


def _gpus(plans: Sequence[NodePlan]) -> Grid:
    found = [(plan, use) for plan in plans for use in plan.node.uses]
    fixed = [
        Column("node", [plan.node.name for plan, _ in found], left=True),
        Column("GPU", [str(use.gpu.index) for _, use in found]),
        Column("name", [use.gpu.name for _, use in found], left=True),
        Column("memory", [_memory(use.gpu.memory or None) for _, use in found]),
        Column("used", [_memory(use.gpu.used) for _, use in found]),
        Column("search", ["yes" if use.gpu in plan.choice.gpus else "no" for plan, use in found], left=True),
    ]
    return Grid(fixed, [Column("in use by", [_others(use) for _, use in found], left=True)])


def _memory(size: int | None) -> str:
    return "unknown" if size is None else format_memory(size)


def _others(use: Use) -> str:
    shown = ", ".join(map(str, use.others))
    return "; ".join([*([shown] if shown else []), *(["processes that cannot be seen"] if use.hidden else [])]) or NONE


def _slots(plans: Sequence[NodePlan]) -> Grid:
    found = [(plan.node, slot) for plan in plans for slot in plan.slots]
    columns = [
        Column("slot", [str(number) for number in range(len(found))]),
        Column("node", [node.name for node, _ in found], left=True),
        Column("place", [slot.label for _, slot in found], left=True),
        Column("threads", [str(slot.threads) for _, slot in found]),
    ]
    return Grid(columns)


def devices_fields(plans: Sequence[NodePlan], notes: Sequence[str]) -> dict[str, Any]:
    """Return the document of `search devices --json`. Sizes are in bytes, and unknown ones null."""
    return {"nodes": [_node_fields(plan) for plan in plans], "notes": list(notes)}


def _node_fields(plan: NodePlan) -> dict[str, Any]:
    node = plan.node
    return {
        "node": node.name,
        "cpus": node.cpus,
        "memory": node.memory,
        "keras_backend": node.keras_backend or None,
        "gpus_seen_by_keras": node.seen,
        "gpus": [
            {
                "index": use.gpu.index,
                "uuid": use.gpu.uuid,
                "name": use.gpu.name,
                "memory": use.gpu.memory or None,
                "used": use.gpu.used,
                "others": [
                    {"pid": each.pid, "name": each.name, "user": each.user, "memory": each.memory}
                    for each in use.others
                ],
                "hidden_processes": use.hidden,
                "chosen": use.gpu in plan.choice.gpus,
            }
            for use in node.uses
        ],
        "slots": [
            {"place": slot.label, "gpus": slot.gpus, "cores": slot.cores, "threads": slot.threads}
            for slot in plan.slots
        ],
        "error": plan.error or None,
    }
