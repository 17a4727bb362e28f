"""Simulated nodes that die, drain, join, come back and are slow, and searches on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from search.backends.asha import Asha
from search.backends.base import BackEnd
from search.backends.hyperband import Hyperband
from search.executors.scenario import Hp, Run, Scenario
from search.executors.simulated import SimulatedExecutor
from search.executors.simulated_nodes import (
    Cluster,
    NodeDies,
    NodeDrains,
    NodeEvent,
    NodeJoins,
    NodeSlows,
    RandomEvents,
)
from search.messages import Interrupt, Lost, Message, Segment, SlotClosed, SlotOpened
from search.scheduler.limits import Limits
from search.space.file import SpaceRef
from search.study.records import Checkpointed, EpochDone, SegmentEnded, SegmentStarted
from search.study.study import Study
from search.study.trial import Objective
from search.testing import Simulation


def ask(hp: Hp) -> None:
    hp.Float("x", 0.0, 1.0)


def plain(run: Run, epoch: int) -> float:
    x = run["x"]
    assert isinstance(x, float)
    return (x - 0.3) ** 2 + 1 / epoch


TEN_SECONDS = Scenario(ask, plain, seconds=lambda run: 10.0)


def segment(trial: int = 0, work: int = 1, **options: Any) -> Segment:
    defaults: dict[str, Any] = {"values": {"x": 0.5}, "from_epoch": 0, "to_epoch": 3, "checkpoint_every": 0.0}
    return Segment(
        trial=trial,
        execution=0,
        space=SpaceRef(),
        seed=7,
        objective=Objective("val_loss", "min"),
        folder=f"trial-{trial}",
        id=work,
        **{**defaults, **options},
    )


class TwoNodes:
    """Two nodes with two slots each, and all messages with their times: (seconds, slot, work, message)."""

    def __init__(self, *events: NodeEvent, scenario: Scenario = TEN_SECONDS) -> None:
        self.executor = SimulatedExecutor(scenario, began=0.0, cluster=Cluster(2, 2, events), leap=False)
        self.received: list[tuple[float, int, int, Message]] = []

    def run(self, until: float) -> TwoNodes:
        while self.executor.now() < until:
            self.executor.poll(self._receive, until - self.executor.now())
        return self

    def _receive(self, slot: int, work: int, message: Message) -> None:
        self.received.append((self.executor.now(), slot, work, message))

    def of(self, *kinds: type[Message]) -> list[tuple[float, int, int, Message]]:
        return [item for item in self.received if isinstance(item[3], kinds)]


# A node ---------------------------------------------------------------------------------------------------------------


def test_a_dead_node_closes_its_slots_and_its_workers_are_lost_without_fault() -> None:
    cluster = TwoNodes(NodeDies(25.0, 1))
    cluster.executor.start(0, segment(0, work=1))
    cluster.executor.start(3, segment(1, work=2))
    cluster.run(40.0)
    closed = SlotClosed("node 1 died")
    assert cluster.of(SlotClosed, Lost) == [
        (25.0, 2, 0, closed),
        (25.0, 3, 0, closed),
        (25.0, 3, 2, Lost("node 1 died", fault=False)),
    ]
    assert cluster.executor.closed == {2, 3}
    assert [work for _, _, work, _ in cluster.of(SegmentEnded)] == [1]  # the other node goes on
    assert [checkpoint.epoch for checkpoint in cluster.executor.disk.values()] == [3, 2]
    with pytest.raises(AssertionError, match="closed"):
        cluster.executor.start(2, segment(2, work=3))


def test_a_dead_node_is_silent_until_its_death_is_noticed() -> None:
    cluster = TwoNodes(NodeDies(5.0, 0, noticed_after=30.0, back_after=1.0))
    cluster.executor.start(0, segment(0, work=1))
    cluster.run(20.0)
    assert len(cluster.received) == 1  # Built
    cluster.executor.start(1, segment(1, work=2))
    cluster.executor.send(0, 1, Interrupt())
    cluster.run(50.0)
    assert [(at, slot, type(message).__name__) for at, slot, _, message in cluster.received[1:]] == [
        (35.0, 0, "SlotClosed"),
        (35.0, 1, "SlotClosed"),
        (35.0, 1, "SlotOpened"),
        (35.0, 0, "SlotOpened"),
        (35.0, 0, "Lost"),
        (35.0, 1, "Lost"),
    ]


@pytest.mark.parametrize("unheard", [False, True])
def test_a_death_may_take_the_messages_in_transit(unheard: bool) -> None:
    slow = Scenario(ask, plain, seconds=lambda run: 10.0, latency=lambda run, number: 4.0)
    cluster = TwoNodes(NodeDies(27.0, 0, unheard=unheard), scenario=slow)
    cluster.executor.start(0, segment())
    cluster.run(60.0)
    # The second epoch ends at 24 and arrives at 28: its checkpoint is on the disk in any case.
    assert [checkpoint.epoch for checkpoint in cluster.executor.disk.values()] == [2]
    assert [message.epoch for *_, message in cluster.of(Checkpointed) if isinstance(message, Checkpointed)] == (
        [1] if unheard else [1, 2]
    )
    assert isinstance(cluster.received[-1][3], Lost)


def test_a_checkpoint_that_was_not_saved_yet_is_lost_with_its_node() -> None:
    slow = Scenario(ask, plain, seconds=lambda run: 10.0, saving=lambda run: 4.0)
    cluster = TwoNodes(NodeDies(27.0, 0), scenario=slow)
    cluster.executor.start(0, segment())
    cluster.run(40.0)
    assert [(at, type(message)) for at, _, _, message in cluster.of(EpochDone, Checkpointed)] == [
        (10.0, EpochDone),
        (14.0, Checkpointed),
        (24.0, EpochDone),
    ]
    assert [checkpoint.epoch for checkpoint in cluster.executor.disk.values()] == [1]


def test_a_node_that_drains_interrupts_its_workers_and_dies_after_its_notice() -> None:
    cluster = TwoNodes(NodeDrains(5.0, 0, notice=30.0, back_after=10.0))
    cluster.executor.start(0, segment(0, work=1, checkpoint_every=1e9))
    cluster.executor.start(1, segment(1, work=2, to_epoch=9, from_epoch=0))
    cluster.run(60.0)
    kinds = [(at, slot, type(message)) for at, slot, _, message in cluster.of(SlotClosed, Checkpointed, SegmentEnded)]
    assert kinds[:2] == [(5.0, 0, SlotClosed), (5.0, 1, SlotClosed)]
    assert sorted(kinds[2:], key=str) == [
        (10.0, 0, Checkpointed),
        (10.0, 0, SegmentEnded),
        (10.0, 1, Checkpointed),
        (10.0, 1, SegmentEnded),
    ]
    assert {message.outcome for *_, message in cluster.received if isinstance(message, SegmentEnded)} == {"interrupted"}
    assert not cluster.of(Lost)
    assert [(at, slot) for at, slot, _, _ in cluster.of(SlotOpened)] == [(45.0, 1), (45.0, 0)]
    assert not cluster.executor.closed


def test_an_epoch_longer_than_the_notice_is_lost_with_the_node() -> None:
    cluster = TwoNodes(NodeDrains(12.0, 0, notice=3.0))
    cluster.executor.start(0, segment())
    cluster.run(20.0)
    assert cluster.of(Lost) == [(15.0, 0, 1, Lost("node 0 died", fault=False))]
    assert len(cluster.of(SlotClosed)) == 2


def test_a_node_that_joins_has_the_next_slots() -> None:
    cluster = TwoNodes(NodeJoins(3.0, slots=2))
    cluster.run(5.0)
    assert [(at, slot, work, type(message)) for at, slot, work, message in cluster.received] == [
        (3.0, 5, 0, SlotOpened),
        (3.0, 4, 0, SlotOpened),
    ]
    assert cluster.executor.slots == 6
    cluster.executor.start(5, segment())
    assert isinstance(cluster.run(40.0).received[-1][3], SegmentEnded)


def test_all_that_begins_on_a_straggler_takes_longer() -> None:
    cluster = TwoNodes(NodeSlows(5.0, 0, factor=3.0, seconds=20.0))
    cluster.executor.start(0, segment(work=1))
    cluster.executor.start(2, segment(1, work=2))
    cluster.run(80.0)
    ends = {0: [10.0, 40.0, 50.0], 2: [10.0, 20.0, 30.0]}
    for slot, times in ends.items():
        assert [at for at, of, *_ in cluster.of(EpochDone) if of == slot] == times
    seconds = [
        message.seconds for _, slot, _, message in cluster.received if slot == 0 and isinstance(message, EpochDone)
    ]
    assert seconds == [10.0, 30.0, 10.0]


def test_an_event_may_be_added_at_any_time() -> None:
    cluster = TwoNodes().run(10.0)
    cluster.executor.happen(NodeDies(0.0, 0))
    assert [at for at, *_ in cluster.run(20.0).of(SlotClosed)] == [10.0, 10.0]


# Random events --------------------------------------------------------------------------------------------------------


def first(events: RandomEvents, count: int, nodes: int = 5) -> list[NodeEvent]:
    return list(itertools.islice(Cluster(nodes, 2, events).begin(), count))


def test_random_events_follow_from_the_seed() -> None:
    events = RandomEvents(60.0, 90.0, 30.0, 300.0, seed=1)
    assert first(events, 50) == first(events, 50) != first(RandomEvents(60.0, 90.0, 30.0, 300.0, seed=2), 50)
    assert {type(event) for event in first(events, 50)} == {NodeDies, NodeDrains, NodeSlows, NodeJoins}
    times = [event.at for event in first(events, 50)]
    assert times == sorted(times)


def test_regular_deaths_come_at_equal_intervals_and_spare_the_last_node() -> None:
    events = first(RandomEvents(60.0, regular=True, back_after=None), 4)
    assert [event.at for event in events] == [60.0, 120.0, 180.0, 240.0]
    assert len({event.node for event in events if isinstance(event, NodeDies)}) == 4
    assert list(itertools.islice(Cluster(1, 1, [NodeDies(1.0, 0)]).begin(), 2)) == [NodeDies(1.0, 0)]
    back = first(RandomEvents(60.0, regular=True, back_after=100.0), 20, nodes=2)
    for before, after in itertools.pairwise(back):
        assert before.at + 100.0 <= after.at


# Searches -------------------------------------------------------------------------------------------------------------

STORM = RandomEvents(
    dies_every=2.0, drains_every=3.0, slows_every=4.0, joins_every=6.0, back_after=5.0, noticed_after=1.0, notice=1.0
)
ROUGH = Scenario(ask, plain, saving=lambda run: 0.25).disturbed(
    noise=lambda rng: rng.gauss(0, 0.01),
    pace=lambda rng: rng.lognormvariate(0, 0.5),
    latency=lambda rng: rng.expovariate(10),
)


def hyperband(study: Study) -> BackEnd:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def asha(study: Study) -> BackEnd:
    return Asha(study.objective, study.seed, max_epochs=9)


def storm(make_backend: Callable[[Study], BackEnd], **options: Any) -> Simulation:
    return Simulation(ROUGH, make_backend, cluster=Cluster(6, 2, STORM), **options)


@pytest.mark.parametrize("make_backend", [hyperband, asha])
def test_no_trial_is_lost_when_nodes_die(make_backend: Callable[[Study], BackEnd]) -> None:
    simulation = storm(make_backend, limits=Limits(max_trials=60, retries=0)).run()
    assert simulation.end is not None
    assert simulation.end.complete
    assert all(trial.ended and not trial.failed for trial in simulation.trials)
    ended = [record for record in simulation.records if isinstance(record, SegmentEnded)]
    assert {record.outcome for record in ended} == {"reached", "interrupted"}
    assert sum(record.outcome == "interrupted" for record in ended) > 20
    assert any(record.slot >= 12 for record in simulation.records if isinstance(record, SegmentStarted))


def test_nodes_that_die_change_no_result() -> None:
    calm = Simulation(ROUGH, hyperband, slots=12).run()
    assert storm(hyperband).run().history() == calm.history()


@pytest.mark.parametrize("seed", range(6))
def test_a_search_that_was_cut_among_dying_nodes_resumes_with_the_same_results(seed: int) -> None:
    whole = storm(hyperband).run()
    keep = random.Random(seed).randrange(5, len(whole.entries))
    again = whole.resume(keep, order=seed).run()
    assert again.history() == whole.history()
    assert again.end is not None
    assert again.end.complete
