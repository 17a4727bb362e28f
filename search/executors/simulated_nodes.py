"""A simulated cluster: nodes with slots, and the events of their lives. Pure data, in virtual time.

    cluster = Cluster(nodes=125, slots_per_node=8, events=RandomEvents(dies_every=60.0))
    executor = SimulatedExecutor(scenario, cluster=cluster)

Nodes are numbered from 0. Node n has the slots `slots_per_node * n` and on; a node that joins has the next slots after
the last. All that a node writes to the simulated disk survives it, as storage that every node reaches would.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from search.executors.scenario import Distribution
from search.study.trial import derive_seed

__all__ = ["Cluster", "NodeDies", "NodeDrains", "NodeEvent", "NodeJoins", "NodeSlows", "RandomEvents"]

# Events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeDies:
    """A node dies, and all its workers with it. If it is dead already, nothing happens.

    Attributes:
        at: seconds since the executor was made, as in all events.
        node: its number.
        unheard: whether the messages in transit from the node are lost, as that of a checkpoint just written.
        noticed_after: seconds until the executor knows. Until then the node is silent, and work may be given to it.
        back_after: seconds until the node is back with the same slots, not before its death was noticed; None for
            never.
    """

    at: float
    node: int
    unheard: bool = False
    noticed_after: float = 0.0
    back_after: float | None = None


@dataclass(frozen=True, slots=True)
class NodeDrains:
    """A node is to be taken away. It takes no new work, and its workers are interrupted.

    Attributes:
        at, node: as in `NodeDies`.
        notice: seconds until the node dies.
        back_after: seconds after its death until the node is back; None for never.
    """

    at: float
    node: int
    notice: float
    back_after: float | None = None


@dataclass(frozen=True, slots=True)
class NodeJoins:
    """A new node joins the cluster, with `slots` new slots."""

    at: float
    slots: int


@dataclass(frozen=True, slots=True)
class NodeSlows:
    """A node is a straggler: builds and epochs that begin there within `seconds` take `factor` times as long."""

    at: float
    node: int
    factor: float
    seconds: float


NodeEvent = NodeDies | NodeDrains | NodeJoins | NodeSlows

# Clusters -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of a simulated cluster.

    Attributes:
        nodes: their number at the start.
        slots_per_node: the slots of each of these.
        events: the events of their lives, by time. They may be endless.
    """

    nodes: int
    slots_per_node: int = 1
    events: Iterable[NodeEvent] | RandomEvents = ()

    @property
    def slots(self) -> int:
        """The number of slots at the start."""
        return self.nodes * self.slots_per_node

    def begin(self) -> Iterator[NodeEvent]:
        """Return the events, from the first one."""
        return self.events.of(self.nodes) if isinstance(self.events, RandomEvents) else iter(self.events)


@dataclass(frozen=True, slots=True)
class RandomEvents:
    """Endless random events, each kind at intervals from the exponential distribution. The same seed gives the same.

    A node to die, to drain or to be slow is drawn among the nodes that are up. The last one is spared.

    Attributes:
        dies_every: the mean seconds between deaths without notice; None for no deaths. The same for the others.
        drains_every: that of deaths with notice.
        slows_every: that of stragglers' beginnings.
        joins_every: that of new nodes.
        regular: whether the intervals are all equal instead.
        unheard: the probability that a death loses the messages in transit.
        noticed_after: seconds until a death without notice is known.
        notice: seconds of notice.
        back_after: seconds until a dead node is back; None for never.
        slowness, slow_seconds: the factor and the duration of a straggler, drawn anew for each. By default the factor
            has a heavy tail: the Pareto distribution with α = 1.5, whose mean is 3.
        slots: the slots of a new node.
        seed: the seed of the draws.
    """

    dies_every: float | None = None
    drains_every: float | None = None
    slows_every: float | None = None
    joins_every: float | None = None
    regular: bool = False
    unheard: float = 0.5
    noticed_after: float = 5.0
    notice: float = 30.0
    back_after: float | None = 600.0
    slowness: Distribution = lambda rng: rng.paretovariate(1.5)
    slow_seconds: Distribution = lambda rng: rng.expovariate(1 / 300)
    slots: int = 1
    seed: int = 0

    def of(self, nodes: int) -> Iterator[NodeEvent]:
        """Yield the events of a cluster of so many nodes."""
        rng = random.Random(derive_seed(self.seed, "nodes"))
        due = [(self._interval(mean, rng), kind, mean) for kind, mean in self._means()]
        heapq.heapify(due)
        up = list(range(nodes))
        back: list[tuple[float, int]] = []
        while due:
            at, kind, mean = due[0]
            heapq.heapreplace(due, (at + self._interval(mean, rng), kind, mean))
            while back and back[0][0] <= at:
                up.append(heapq.heappop(back)[1])
            if kind == "join":
                up.append(nodes)
                nodes += 1
                yield NodeJoins(at, self.slots)
            elif len(up) > 1:
                place = rng.randrange(len(up))
                event = self._event(kind, at, up[place], rng)
                if not isinstance(event, NodeSlows):
                    del up[place]
                    if self.back_after is not None:
                        heapq.heappush(back, (at + self._away(event), event.node))
                yield event

    def _means(self) -> Iterator[tuple[str, float]]:
        """Yield each kind of event that happens, and its mean seconds."""
        every = {"die": self.dies_every, "drain": self.drains_every, "slow": self.slows_every, "join": self.joins_every}
        yield from ((kind, mean) for kind, mean in every.items() if mean is not None)

    def _interval(self, mean: float, rng: random.Random) -> float:
        return mean if self.regular else rng.expovariate(1 / mean)

    def _event(self, kind: str, at: float, node: int, rng: random.Random) -> NodeDies | NodeDrains | NodeSlows:
        if kind == "die":
            return NodeDies(at, node, rng.random() < self.unheard, self.noticed_after, self.back_after)
        if kind == "drain":
            return NodeDrains(at, node, self.notice, self.back_after)
        return NodeSlows(at, node, self.slowness(rng), self.slow_seconds(rng))

    def _away(self, event: NodeDies | NodeDrains) -> float:
        """Return the seconds from an event until its node is back."""
        assert self.back_after is not None
        if isinstance(event, NodeDrains):
            return self.notice + self.back_after
        return max(self.noticed_after, self.back_after)


# The nodes of a running search ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeathNoticed:
    """The executor learns that a node is dead."""

    at: float
    node: int


@dataclass(frozen=True, slots=True)
class NodeReturns:
    """A node that was dead is back."""

    at: float
    node: int


@dataclass(eq=False, slots=True)
class Node:
    """A node as it is now.

    Attributes:
        alive: False from its death to its return.
    """

    number: int
    slots: range
    alive: bool = True
    _factor: float = 1.0
    _slow_until: float = 0.0

    def slow_down(self, event: NodeSlows, now: float) -> None:
        """Make a straggler of the node."""
        self._factor, self._slow_until = event.factor, now + event.seconds

    def slowness(self, now: float) -> float:
        """Return the factor by which all that begins now takes longer."""
        return self._factor if now < self._slow_until else 1.0


class Nodes:
    """The nodes of a cluster as they are now, and the events to come.

    Args:
        cluster: their description.
        began: the time to which the times of events are relative.
    """

    def __init__(self, cluster: Cluster, began: float) -> None:
        self.began = began
        self._nodes: list[Node] = []
        self._node_of: list[Node] = []
        for _ in range(cluster.nodes):
            self.add(cluster.slots_per_node)
        self._described = cluster.begin()
        self._pushed = 0
        self._last_described = 0
        self._coming: list[tuple[float, int, NodeEvent | DeathNoticed | NodeReturns]] = []
        self._read()

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    @property
    def slots(self) -> int:
        """The number of slots, also of dead nodes."""
        return len(self._node_of)

    @property
    def next_time(self) -> float | None:
        """The time of the next event; None if there is none."""
        return self.began + self._coming[0][0] if self._coming else None

    def of(self, slot: int) -> Node:
        """Return the node that has `slot`."""
        return self._node_of[slot]

    def add(self, slots: int) -> Node:
        """Return a new node with so many new slots."""
        node = Node(len(self._nodes), range(self.slots, self.slots + slots))
        self._nodes.append(node)
        self._node_of += [node] * slots
        return node

    def push(self, event: NodeEvent | DeathNoticed | NodeReturns) -> None:
        """Add an event. Of two at the same time, the one that was added first happens first."""
        self._pushed += 1
        heapq.heappush(self._coming, (event.at, self._pushed, event))

    def take(self) -> NodeEvent | DeathNoticed | NodeReturns:
        """Return the next event, which happens now."""
        _, number, event = heapq.heappop(self._coming)
        if number == self._last_described:
            self._read()
        return event

    def end(self) -> None:
        """Let nothing more happen."""
        self._coming.clear()
        self._described = iter(())

    def _read(self) -> None:
        """Read the next event of the description: only one of these is ever among those to come."""
        event = next(self._described, None)
        if event is not None:
            self.push(event)
            self._last_described = self._pushed
