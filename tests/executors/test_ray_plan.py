"""The slots of a cluster: planned from its nodes and the options alone."""

from __future__ import annotations

import pytest

from search.devices.gpus import Gpu
from search.devices.slots import make_slots
from search.errors import OptionError
from search.executors.ray.plan import (
    Demand,
    Node,
    Wanted,
    choose_cores,
    demands_of,
    describe_missing,
    label_of,
    plan_joined,
    plan_slots,
    sharing_of,
)
from search.options import Options


def node(name: str, cpus: float = 4, gpus: int = 0) -> Node:
    return Node(name, name, cpus, gpus)


@pytest.mark.parametrize("workers", [None, 1, 2, 3, 6])
@pytest.mark.parametrize("cpus", [1, 2, 4, 5, 16])
def test_one_node_gives_the_threads_that_the_machine_gives(workers: int | None, cpus: int) -> None:
    planned = plan_slots([node("a", cpus)], Wanted(workers))
    local = make_slots((), cpus, range(cpus), workers)
    assert [(slot.threads, slot.label) for slot in planned] == [(slot.threads, slot.label) for slot in local]


@pytest.mark.parametrize("share", [0.25, 0.3, 1, 2])
def test_one_node_with_gpus_gives_the_slots_that_the_machine_gives(share: float) -> None:
    planned = plan_slots([node("a", 8, 4)], Wanted(gpus_per_trial=share))
    local = make_slots([Gpu(index, str(index), "", 0) for index in range(4)], 8, range(8), None, share)
    assert [(slot.threads, slot.label) for slot in planned] == [(slot.threads, slot.label) for slot in local]


def test_only_nodes_with_gpus_get_slots_if_there_are_any() -> None:
    nodes = [node("head", 16), node("a", 8, 2), node("b", 8, 1)]
    assert [slot.node for slot in plan_slots(nodes, Wanted())] == ["a", "a", "b"]
    assert {slot.node for slot in plan_slots(nodes, Wanted(gpus=False))} == {"head", "a", "b"}
    assert [slot.label for slot in plan_slots(nodes, Wanted())] == ["a GPU 0", "a GPU 1", "b GPU 0"]


def test_workers_are_spread_over_the_nodes() -> None:
    nodes = [node("a", 8, 2), node("b", 8, 4)]
    slots = plan_slots(nodes, Wanted(3))
    assert [(slot.index, slot.node, slot.threads) for slot in slots] == [(0, "a", 8), (1, "b", 4), (2, "b", 4)]
    assert [slot.node for slot in plan_slots([node("a", 8), node("b", 2)], Wanted(3))] == ["a", "a", "a"]


def test_more_workers_than_gpus_wait_for_a_node() -> None:
    slots = plan_slots([node("a", 4, 1)], Wanted(3))
    assert [slot.node for slot in slots] == ["a", "", ""]
    assert demands_of(slots, [node("a", 4, 1)]) == (Demand(4, 1), Demand(4, 1), Demand(4, 1))


def test_a_node_that_joins_takes_the_slots_that_wait_and_with_auto_new_ones() -> None:
    machine = node("b", 8, 4)

    def joined(wanted: Wanted, taken: int = 0, waiting: int = 0) -> list[int]:
        return [slot.threads for slot in plan_joined(machine, wanted, taken, waiting, with_gpus=True)]

    assert joined(Wanted()) == joined(Wanted(), waiting=9) == [2, 2, 2, 2]
    assert joined(Wanted(), taken=1) == [2, 2, 2]
    assert joined(Wanted(3)) == []
    assert joined(Wanted(3), waiting=2) == [4, 4]
    assert joined(Wanted(9), waiting=9) == [2, 2, 2, 2]
    assert joined(Wanted(gpus_per_trial=8)) == []


def test_a_node_without_gpus_does_not_join_a_search_with_gpus() -> None:
    assert plan_joined(node("b", 8), Wanted(), 0, 1, with_gpus=True) == ()
    assert len(plan_joined(node("b", 2), Wanted(), 0, 1, with_gpus=False)) == 2


def test_slots_ask_for_shares_that_fill_a_gpu() -> None:
    """Ray fills a GPU before it begins the next: two slots that ask for halves would share the first of two GPUs."""
    machine = node("a", 8, 2)
    asked = demands_of(plan_slots([machine], Wanted(2, gpus_per_trial=0.5)), [machine])
    assert asked == (Demand(4, 1), Demand(4, 1))
    asked = demands_of(plan_slots([machine], Wanted(None, gpus_per_trial=0.3)), [machine])
    assert asked == (Demand(1, 0.3333),) * 6
    assert demands_of(plan_slots([machine], Wanted(gpus_per_trial=2)), [machine]) == (Demand(8, 2),)


def test_more_workers_than_processors_fit() -> None:
    machine = node("a", 2)
    asked = demands_of(plan_slots([machine], Wanted(3)), [machine])
    assert asked == (Demand(0.6666, 0),) * 3


@pytest.mark.parametrize(
    ("nodes", "wanted", "words"),
    [
        ([node("a", 4, 1), node("b", 4)], Wanted(gpus_per_trial=2), "no node has 2 GPUs; the largest has 1"),
        ([node("a", 4)], Wanted(gpus_per_trial=2), "no node has 2 GPUs; the largest has 0"),
        ([node("a", 0)], Wanted(), "no node of the Ray cluster has processors"),
        ([], Wanted(), "no node of the Ray cluster has processors"),
        ([node("a", 0, 1)], Wanted(), "no node of the Ray cluster has GPUs and processors"),
        ([node("a", 4, 2)], Wanted(gpus_per_trial=1.5), "above 1, give a whole number"),
        ([node("a", 4, 2)], Wanted(logical_devices=2), "--gpus none"),
    ],
)
def test_slots_that_no_node_can_hold_are_refused(nodes: list[Node], wanted: Wanted, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        plan_slots(nodes, wanted)


def test_ray_chooses_the_gpus() -> None:
    assert Wanted.of(Options(gpus="none", workers=2)) == Wanted(2, gpus=False)
    with pytest.raises(OptionError, match="--gpus 0,1: Ray chooses the GPUs on its nodes: give auto or none"):
        Wanted.of(Options(gpus="0,1"))


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(1, 2), "no node has 2 GPUs; the largest has 1"),
        (Demand(8, 1), "no node has 8 CPUs; the largest has 4"),
        (Demand(2, 1), "no node has 1 GPU and 2 CPU free"),
        (Demand(2, 0), "no node has 2 CPU free"),
    ],
)
def test_the_missing_resource_is_named(demand: Demand, words: str) -> None:
    assert describe_missing(demand, [node("a", 4, 1), node("b", 2)]) == words
    assert describe_missing(demand, []) == "the cluster has no node left"


def test_a_slot_gets_cores_that_no_other_slot_has() -> None:
    assert choose_cores(range(8), [], 3) == (0, 1, 2)
    assert choose_cores(range(8), [(0, 1, 2)], 3) == (3, 4, 5)
    assert choose_cores(range(8), [(0, 1, 2), (6, 7)], 3) == (3, 4, 5)
    assert choose_cores((0, 1), [(0, 1), (0,)], 1) == (1,)
    assert choose_cores((5,), [(5,)], 4) == (5,)


def test_slots_share_memory_on_one_gpu_or_one_node_without_gpus() -> None:
    places = {0: ("a", ("0",)), 1: ("a", ("0",)), 2: ("a", ("1",)), 3: ("b", ("0",)), 4: ("c", ()), 5: ("c", ())}
    assert [sharing_of(places, slot) for slot in places] == [(1,), (0,), (), (), (5,), (4,)]


def test_a_label_names_the_gpus_that_ray_gave() -> None:
    one, half = plan_slots([node("a", 4, 1)], Wanted())[0], plan_slots([node("a", 4, 1)], Wanted(gpus_per_trial=0.5))[1]
    assert label_of(one, ("3",), None) == "GPU 3"
    assert label_of(half, ("3",), node("b")) == "b GPU 3 (2 of 2)"
    assert label_of(one, ("1", "2"), None) == "GPUs 1+2"
    processor = plan_slots([node("a", 4), node("b", 4)], Wanted(2))[1]
    assert label_of(processor, (), node("b")) == "b CPU 0-3"
