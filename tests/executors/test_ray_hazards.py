"""Workers, actors and nodes that die, drain or join while a search runs: a cluster of several nodes on one machine."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster
from ray_clusters import Bench, started

from search.executors.ray import cluster as clusters
from search.executors.ray import placement, versions, watch
from search.executors.ray.links import OwnerLink, Times, start_holder
from search.executors.ray.owner import Owner, OwnerSetup, SlotHolder
from search.executors.ray.plan import Node, Wanted
from search.messages import Interrupt, Lost, Notice, Segment, SlotClosed, SlotOpened
from search.space.file import SpaceRef
from search.study.records import EpochDone, SegmentEnded
from search.study.trial import Objective
from search.testing.conversation import SPACE, VALUES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = 1_000_000

_trials = itertools.count(100)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started() as made:
        made.add_node(num_cpus=1)
        made.add_node(num_cpus=1)
        yield made


@pytest.fixture(scope="module")
def bench(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(cluster, tmp_path_factory.mktemp("study"), Wanted(2))
    for slot in (0, 1):
        made.until_message(slot, SlotOpened)
    yield made
    made.close()


@pytest.fixture
def segment(tmp_path: Path) -> Callable[..., Segment]:
    (tmp_path / "space.py").write_text(SPACE)

    def make(to_epoch: int = LONG, **options: Any) -> Segment:
        trial = options.pop("trial", 0)
        ref, folder = SpaceRef(str(tmp_path / "space.py")), str(tmp_path / f"trial-{trial}")
        return Segment(trial, 0, ref, VALUES, 7, 0, to_epoch, Objective("val_loss", "min"), folder, **options)

    return make


@pytest.fixture
def running(bench: Bench, segment: Callable[..., Segment]) -> Iterator[int]:
    """Start a long segment in slot 0, and return its id. Afterwards slot 0 must work."""
    # A trial that loses its place too often is blamed for it.
    work = bench.start(0, segment(trial=next(_trials)))
    bench.until_message(0, EpochDone)
    yield work
    bench.start(0, segment(2, trial=1))
    assert bench.until_message(0, SegmentEnded).outcome == "reached"


def is_alive(pid: int) -> bool:
    """Return whether a process still runs. One that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_moved(bench: Bench, *, reason: str) -> None:
    """Check that slot 0 closes, loses its work without fault, and opens again."""
    assert reason in bench.until_message(0, SlotClosed).reason
    lost = bench.until_message(0, Lost)
    assert reason in lost.reason
    assert not lost.fault
    bench.until_message(0, SlotOpened)


def test_a_killed_worker_is_replaced_at_once(bench: Bench, running: int) -> None:
    _, *workers = bench.link(0).processes
    os.kill(workers[0][0], signal.SIGKILL)
    lost = bench.until_message(0, Lost)
    assert lost.fault
    assert "SIGKILL" in lost.reason
    assert not any(isinstance(message, SlotClosed) for _, _, message in bench.events)


def test_a_killed_slot_actor_is_asked_for_again(bench: Bench, running: int) -> None:
    ray.kill(bench.executor._slots[0].holder)
    assert_moved(bench, reason="holds its resources")


def test_the_work_of_a_killed_owner_is_lost_when_its_workers_have_ended(bench: Bench, running: int) -> None:
    link = bench.link(0)
    zygote = psutil.Process(link.processes[0][0])
    os.kill(zygote.ppid(), signal.SIGKILL)
    bench.until_message(0, SlotClosed)
    lost = bench.until_message(0, Lost)
    assert not lost.fault
    assert "the owner of its workers" in lost.reason
    assert not [pid for pid, _ in link.processes if is_alive(pid)]
    bench.until_message(0, SlotOpened)


def test_an_owner_that_hangs_is_ended_before_its_work_is_lost(
    bench: Bench, running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 1.0)
    link = bench.link(0)
    os.kill(psutil.Process(link.processes[0][0]).ppid(), signal.SIGSTOP)
    assert_moved(bench, reason="did not answer")
    assert not [pid for pid, _ in link.processes if is_alive(pid)]


def test_an_owner_that_is_unavailable_for_a_moment_loses_nothing(bench: Bench, running: int) -> None:
    link = bench.link(0)
    bench.executor._heard(link, ray.exceptions.ActorUnavailableError("the connection broke", None))
    before = bench.until_message(0, EpochDone).epoch
    assert bench.until_message(0, EpochDone).epoch == before + 1
    bench.executor.send(0, running, Interrupt())
    assert bench.until_message(0, SegmentEnded).outcome == "interrupted"


def test_a_request_for_a_slot_that_ray_loses_is_made_again(
    bench: Bench, running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ASK_AGAIN_SECONDS", 3.0)
    lose_first(monkeypatch, placement, "start_holder", lambda demand, _: start_holder(replace(demand, cpus=1000), None))
    ray.kill(bench.executor._slots[0].holder)
    assert_moved(bench, reason="holds its resources")
    assert bench.executor._slots[0].requests == 0


def test_an_owner_that_does_not_start_is_started_again(
    bench: Bench, running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_place(node: Node, setup: OwnerSetup, now: float) -> OwnerLink:
        actor = ray.remote(num_cpus=1000, concurrency_groups=dict.fromkeys(("messages", "commands", "renewals"), 1))
        monkeypatch.setattr(watch, "START_SECONDS", 3.0)
        return OwnerLink(node, actor(Owner).remote(setup), contact=now)

    started = lose_first(monkeypatch, placement, "start_owner", without_place)
    os.kill(psutil.Process(bench.link(0).processes[0][0]).ppid(), signal.SIGKILL)
    bench.wait_until(lambda: len(started) == 2)
    monkeypatch.setattr(watch, "START_SECONDS", 120.0)
    assert_moved(bench, reason="the owner of its workers")


def lose_first(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, lost: Callable[..., Any]
) -> list[tuple[Any, ...]]:
    """Have the first call of a function do something else. Return the arguments of all calls, as they are made."""
    real, calls = getattr(module, name), []

    def replaced(*arguments: Any) -> Any:
        calls.append(arguments)
        return lost(*arguments) if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(module, name, replaced)
    return calls


def test_messages_of_other_work_are_dropped(bench: Bench, running: int, segment: Callable[..., Segment]) -> None:
    bench.executor.kill(0, running, "enough")
    bench.until_message(0, Lost)
    work = bench.start(0, segment(trial=3))
    bench.executor._take(bench.link(0), bench.executor._slots[0], running, EpochDone(0, 0, 99, {"loss": 1.0}, 0.1))
    found = bench.until_message(0, EpochDone)
    assert found.trial == 3
    bench.executor.kill(0, work, "enough")
    bench.until_message(0, Lost)


def test_a_slot_without_work_gives_its_resources_back_and_waits_for_them_when_there_is_work(
    bench: Bench, segment: Callable[..., Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.executor, "_times", Times(idle=0.1, place=3, lease=4))
    bench.wait_until(lambda: all(slot.holder is None for slot in bench.executor._slots))
    taker = ray.remote(num_cpus=1)(SlotHolder)
    takers = [taker.remote() for _ in range(2)]
    taken = [each.held.remote() for each in takers]
    bench.wait_until(lambda: len(ray.wait(taken, num_returns=2, timeout=0)[0]) == 2)
    bench.start(0, segment(2, trial=7))
    assert "no node has 1 CPU free" in bench.until_message(0, SlotClosed).reason
    lost = bench.until_message(0, Lost)
    assert not lost.fault
    assert "no node was found for it in 3s" in lost.reason
    monkeypatch.setattr(bench.executor, "_times", Times(idle=None, place=60, lease=4))
    for each in takers:
        ray.kill(each)
    bench.until_message(0, SlotOpened)
    for slot in (0, 1):
        bench.start(slot, segment(2, trial=7 + slot))
        assert bench.until_message(slot, SegmentEnded).outcome == "reached"


def test_a_drained_node_moves_its_work_and_a_killed_one_loses_it(
    bench: Bench, cluster: Cluster, segment: Callable[..., Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that joins takes the place of one that drains or dies, also if it does not report its versions at once."""
    work = bench.start(0, segment())
    bench.until_message(0, EpochDone)
    drain(cluster, str(bench.executor._slots[0].node))
    assert "taken away" in bench.until_message(0, SlotClosed).reason
    ended = bench.until_message(0, SegmentEnded)
    assert (ended.outcome, ended.error) == ("interrupted", None)
    assert work
    bench.wait_until(lambda: bench.executor._slots[0].waits)
    node = cluster.add_node(num_cpus=1)
    ray.get(bench.executor._slots[0].holder.held.remote())  # Ray places the slot before the executor sees the node
    bench.until_message(0, SlotOpened)
    assert bench.executor._slots[0].node == node.node_id

    bench.start(0, segment(trial=5))
    bench.until_message(0, EpochDone)
    processes = bench.link(0).processes
    cluster.remove_node(node, allow_graceful=False)
    assert "died" in bench.until_message(0, SlotClosed).reason
    lost = bench.until_message(0, Lost)
    assert not lost.fault
    assert not [pid for pid, _ in processes if is_alive(pid)]
    bench.executor._told.clear()  # at the start, slots may have waited as well
    told = bench.until(lambda event: isinstance(event[2], Notice))[2]
    assert "no node has 1 CPU free" in told.text
    monkeypatch.setattr(watch, "START_SECONDS", 10.0)
    without_place = ray.remote(num_cpus=1000)(versions.installed)
    asked = lose_first(monkeypatch, clusters, "ask_versions", lambda *_: without_place.remote(()))
    cluster.add_node(num_cpus=1)
    bench.wait_until(lambda: len(asked) == 2)
    monkeypatch.setattr(watch, "START_SECONDS", 120.0)
    bench.until_message(0, SlotOpened)


def drain(cluster: Cluster, node: str) -> None:
    """Tell Ray that a node is about to be taken away, as a cloud's autoscaler does."""
    from ray.core.generated import autoscaler_pb2

    client = ray._raylet.GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "spot", 0)
    assert accepted, why
