"""The `simulated` executor: no training, no processes, and a clock that jumps from one message to the next.

A whole search, including driver and journal, runs as fast as its decisions are made:

    executor = SimulatedExecutor(Scenario(ask, value), slots=100)
    Driver(controller, journal, executor, …, now=executor.now).run(records)

A back end with computations also needs `computations=VirtualComputations(executor, seconds)`, of
`search.driver.computations`: threads do not keep virtual time.

A `Scenario` says what happens in a worker. The worker sends the messages of `search.worker.segment`, one for one. A
`Cluster` (`search.executors.simulated_nodes`) says which nodes the workers are on, and when nodes die, drain, join,
come back or are slow.
"""

from __future__ import annotations

import heapq
import itertools
import random
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from search.executors.base import Handle
from search.executors.scenario import Hp, Run, Scenario, recorded
from search.executors.simulated_nodes import (
    Cluster,
    DeathNoticed,
    Node,
    NodeDies,
    NodeDrains,
    NodeEvent,
    NodeJoins,
    NodeReturns,
    Nodes,
    NodeSlows,
)
from search.executors.simulated_work import (
    LAST_MESSAGES,
    RUNNER,
    Activity,
    Disk,
    FromWorker,
    SimulatedCheckpoint,
    SimulatedEvaluation,
    SimulatedSegment,
    inherited_folder,
)
from search.messages import (
    Evaluate,
    Interrupt,
    Lost,
    Probe,
    Probed,
    ProbeFailed,
    Segment,
    SlotClosed,
    SlotOpened,
    WorkCommand,
)
from search.space.file import describe_error
from search.study.paths import TrialPaths

__all__ = ["Cluster", "Disk", "Hp", "Run", "Scenario", "SimulatedCheckpoint", "SimulatedExecutor", "recorded"]


@dataclass(eq=False, slots=True)
class _Worker:
    """A slot's worker: its work, and the messages in transit, which never overtake each other.

    Attributes:
        sent: messages in transit to the driver.
        commands: messages in transit to the worker.
        inbox: messages that have reached the worker.
        sent_until, commands_until: the arrival time of the last of `sent` and of `commands`.
        message_count: the number of messages so far, in both directions.
        waiting: whether the worker waits for a message.
        paused: whether the worker waits until the driver has its message.
        dead: whether its process has died; its messages may still be in transit.
    """

    slot: int
    id: int
    work: SimulatedSegment | SimulatedEvaluation
    activity: Activity
    sent: deque[FromWorker] = field(default_factory=deque)
    commands: deque[WorkCommand] = field(default_factory=deque)
    inbox: deque[WorkCommand] = field(default_factory=deque)
    sent_until: float = 0.0
    commands_until: float = 0.0
    message_count: int = 0
    waiting: bool = False
    paused: bool = False
    dead: bool = False

    def latency(self) -> float:
        """Return the travel time of the next message."""
        self.message_count += 1
        return self.work.scenario.latency(self.work.run, self.message_count)

    @property
    def has_ended(self) -> bool:
        """True if the last message is in transit."""
        return bool(self.sent) and isinstance(self.sent[-1], LAST_MESSAGES)


_Step = Callable[[_Worker, Handle], bool]
"""A step in a worker's life, which returns whether the driver has received a message."""


class SimulatedExecutor:
    """An executor with simulated workers and a virtual clock `now`, which must be the driver's clock, too.

    A poll delivers one message and sets the clock to its arrival.

    Args:
        scenario: the behaviour of the workers.
        slots: the number of workers.
        began: the clock's first time, in seconds.
        disk: the workers' checkpoints; to resume a search, the disk of its executor.
        order: a seed for the order of messages that arrive at the same time.
        leap: whether a poll waits for the next message however late it is, as waiting costs nothing. If False, it waits
            no longer than its timeout, so that the caller may act in between.
        cluster: the nodes, whose slots take the place of `slots`. By default each slot is a node, and nodes live on.

    Attributes:
        disk: the checkpoints.
        closed: the slots that take no new work, as the driver was told.
        trained: the number of epochs that workers have begun to train, those included that came to no end.

    Example:
        Ten workers and a clock that jumps from message to message; `Simulation` runs a whole search on one::

            >>> from search.testing import Scenario, SimulatedExecutor
            >>> scenario = Scenario(lambda hp: hp.Int("units", 2, 8), lambda run, epoch: 1 / epoch)
            >>> executor = SimulatedExecutor(scenario, slots=10, began=0.0)
            >>> executor.slots, executor.busy, executor.now()
            (10, 0, 0.0)
    """

    protocol = 2

    def __init__(
        self,
        scenario: Scenario,
        slots: int = 1,
        *,
        began: float = 1e9,
        disk: Disk | None = None,
        order: int = 0,
        leap: bool = True,
        cluster: Cluster | None = None,
    ) -> None:
        cluster = Cluster(slots) if cluster is None else cluster
        self.disk: Disk = {} if disk is None else disk
        self.closed: set[int] = set()
        self.trained = 0
        self._scenario = scenario
        self._nodes = Nodes(cluster, began)
        self._now = began
        self._random = random.Random(order)
        self._leap = leap
        self._numbers = itertools.count()
        self._attempts: Counter[str] = Counter()
        self._workers: dict[int, _Worker] = {}
        self._events: list[tuple[float, float, int, _Step, _Worker]] = []
        self._wake_at: float | None = None

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self._nodes.slots

    @property
    def nodes(self) -> int:
        """Number of nodes, with those that are dead."""
        return len(self._nodes)

    @property
    def busy(self) -> int:
        """Number of segments and evaluations that run."""
        return len(self._workers)

    @property
    def silent(self) -> bool:
        """True if no poll will bring anything until a worker receives a message."""
        return self._next_time() is None

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def wake_at(self, time: float) -> None:
        """Have a poll return at `time` without a message, so that its caller may act. A second call replaces it."""
        self._wake_at = time

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        """Return the parameters that the scenario asks for, given the values of `probe`."""
        try:
            parameters = self._scenario.parameters(probe.values)
        except Exception as error:
            return ProbeFailed(describe_error(error), traceback.format_exc())
        defaults = Run({parameter.name: parameter.default for parameter in parameters} | dict(probe.values))
        return Probed(
            digest="",
            files=(),
            parameters=parameters,
            options={},
            metrics=(self._scenario.metric,),
            compiled_metrics=(),
            directions={},
            weight_count=self._scenario.size(defaults),
            summary="",
            batch_size=1,
            samples=(None, None),
            runner=RUNNER,
            versions={},
        )

    def hand_on(self, parent: TrialPaths, child: TrialPaths, execution: int, *, again: bool) -> None:
        """Give `child` a checkpoint of `parent`, as `search.driver.hand_on.Files` does.

        Args:
            parent, child: the files of the two trials.
            execution: the number of the parent's execution.
            again: leave a checkpoint that the child has already.
        """
        key = inherited_folder(str(child.folder)), execution
        if again and key in self.disk:
            return
        self.disk.pop(key, None)
        saved = self.disk.get((str(parent.folder), execution))
        if saved is not None:
            self.disk[key] = saved

    def drop(self, trial: TrialPaths) -> None:
        """Delete the checkpoints of `trial`, as `search.driver.retention` does."""
        for key in [key for key in self.disk if key[0] == str(trial.folder)]:
            del self.disk[key]

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        """Start `work` in the free slot `slot`, as of the virtual time."""
        assert slot not in self._workers, "the slot is busy"
        assert slot not in self.closed, "the slot is closed"
        assert 0 <= slot < self.slots, "there is no such slot"
        simulated: SimulatedSegment | SimulatedEvaluation
        if isinstance(work, Evaluate):
            simulated = SimulatedEvaluation(work, self._scenario)
        else:
            self._attempts[work.folder] += 1
            simulated = self._segment(work, self._nodes.of(slot))
        worker = self._workers[slot] = _Worker(slot, work.id, simulated, simulated.act())
        worker.dead = not self._nodes.of(slot).alive
        self._schedule(self._now + worker.latency(), self._advance, worker)

    def _segment(self, work: Segment, node: Node) -> SimulatedSegment:
        attempt = self._attempts[work.folder]
        return SimulatedSegment(
            work,
            self._scenario,
            self.disk,
            attempt,
            self.now,
            lambda: node.slowness(self._now),
            self.epoch_begins,
        )

    def epoch_begins(self, segment: Segment, epoch: int) -> None:
        """Count an `epoch` of `segment`, which a worker begins to train. Subclasses may check it."""
        self.trained += 1

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        """Send `command` to the worker in `slot`, if it does the piece of work with the id `work`."""
        worker = self._workers.get(slot)
        if worker is None or worker.id != work:
            return
        worker.commands_until = max(worker.commands_until, self._now + worker.latency())
        if worker.commands_until <= self._now:
            self._deliver_to_worker(worker, command)
        else:
            worker.commands.append(command)
            self._schedule(worker.commands_until, self._command_arrives, worker)

    def kill(self, slot: int, work: int, reason: str) -> None:
        """End the process in `slot` for `reason`, if it does the piece of work with the id `work`."""
        worker = self._workers.get(slot)
        if worker is not None and worker.id == work:
            self.end_process(slot, reason)

    def end_process(self, slot: int, reason: str = "its process was killed", *, lose_messages: bool = False) -> None:
        """End the process of the worker in `slot` now, if it has anything left to do.

        Args:
            slot: the slot's number.
            reason: one line for people.
            lose_messages: lose the messages in transit with it, as that of a checkpoint just written.
        """
        worker = self._workers.get(slot)
        if worker is not None and not worker.dead and not worker.has_ended:
            self._die(worker, lose_messages=lose_messages)
            self._lose(worker, Lost(reason))

    def _die(self, worker: _Worker, *, lose_messages: bool) -> None:
        worker.dead = True
        worker.commands.clear()
        if lose_messages:
            worker.sent.clear()
            worker.sent_until = self._now

    def _lose(self, worker: _Worker, lost: Lost) -> None:
        """Send the last message of a worker that died, after those in transit."""
        worker.sent.append(lost)
        worker.sent_until = max(worker.sent_until, self._now)
        self._schedule(worker.sent_until, self._message_arrives, worker)

    def poll(self, handle: Handle, timeout: float) -> None:
        """Set the clock to the next message, and pass it to `handle`. Without `leap`, wait for `timeout` at most."""
        until = self._now + timeout
        while (at := self._next_time()) is not None and (self._leap or at <= until):
            if self._wake_at == at:
                self._now, self._wake_at = max(self._now, at), None
                return
            if self._nodes.next_time == at:
                self._now = max(self._now, at)
                if self._node_event(self._nodes.take(), handle):
                    return
                continue
            self._now, _, _, step, worker = heapq.heappop(self._events)
            if self._workers.get(worker.slot) is worker and step(worker, handle):
                return
        self._now = max(self._now, until)

    def _next_time(self) -> float | None:
        """Return the time of the next event or of `wake_at`, None if there is neither."""
        times = [at for at in (self._wake_at, self._nodes.next_time) if at is not None]
        if self._events:
            times.append(self._events[0][0])
        return min(times, default=None)

    def close(self, *, now: bool = False) -> None:
        """End all workers; `now` makes no difference here."""
        self._workers.clear()
        self._events.clear()
        self._nodes.end()
        self._wake_at = None

    def _schedule(self, at: float, step: _Step, worker: _Worker) -> None:
        event = max(at, self._now), self._random.random(), next(self._numbers), step, worker
        heapq.heappush(self._events, event)

    def _advance(self, worker: _Worker, handle: Handle, received: WorkCommand | None = None) -> bool:
        """Run a worker until time passes, it waits for a message, or its own message arrives at once."""
        while not worker.dead:
            step = worker.activity.send(received)
            received = None
            if step is None:
                if not worker.inbox:
                    worker.waiting = True
                    return False
                received = worker.inbox.popleft()
            elif isinstance(step, float):
                self._schedule(self._now + step, self._advance, worker)
                return False
            else:
                worker.sent.append(step)
                worker.sent_until = max(worker.sent_until, self._now + worker.latency())
                self._schedule(worker.sent_until, self._message_arrives, worker)
                worker.paused = worker.sent_until <= self._now
                if worker.paused or isinstance(step, LAST_MESSAGES):
                    return False
        return False

    def _deliver_to_worker(self, worker: _Worker, command: WorkCommand) -> None:
        worker.work.interrupted |= isinstance(command, Interrupt)
        worker.inbox.append(command)
        if worker.waiting:
            worker.waiting = False
            self._schedule(self._now, self._wake, worker)

    def _wake(self, worker: _Worker, handle: Handle) -> bool:
        """Continue a worker with the message that it waited for."""
        return not worker.dead and self._advance(worker, handle, worker.inbox.popleft())

    def _command_arrives(self, worker: _Worker, handle: Handle) -> bool:
        if worker.commands:
            self._deliver_to_worker(worker, worker.commands.popleft())
        return False

    def _message_arrives(self, worker: _Worker, handle: Handle) -> bool:
        """Deliver a worker's message to the driver. After the last message the slot is free."""
        if not worker.sent:
            return False  # lost with its process
        message = worker.sent.popleft()
        if isinstance(message, LAST_MESSAGES):
            del self._workers[worker.slot]
        handle(worker.slot, worker.id, message)
        # With latencies, more messages may arrive at this moment: the worker continues after the last of them.
        if worker.paused and not worker.sent and not isinstance(message, LAST_MESSAGES):
            worker.paused = False
            self._advance(worker, handle)
        return True

    # Nodes ----------------------------------------------------------------------------------------------------------

    def happen(self, event: NodeEvent) -> None:
        """Add `event` to those of the cluster. If its time is over, it happens now, before the next message."""
        self._nodes.push(event)

    def _node_event(self, event: NodeEvent | DeathNoticed | NodeReturns, handle: Handle) -> bool:
        """Let an event happen, and return whether the driver has received a message."""
        match event:
            case NodeDies():
                self._node_dies(event)
            case NodeDrains():
                return self._node_drains(event, handle)
            case DeathNoticed():
                return self._death_noticed(self._nodes[event.node], handle)
            case NodeJoins():
                self._slots_open(self._nodes.add(event.slots), handle)
                return True
            case NodeReturns():
                self._nodes[event.node].alive = True
                self._slots_open(self._nodes[event.node], handle)
                return True
            case NodeSlows():
                self._nodes[event.node].slow_down(event, self._now)
        return False

    def _node_dies(self, event: NodeDies) -> None:
        node = self._nodes[event.node]
        if not node.alive:
            return
        node.alive = False
        for worker in self._workers_of(node):
            if not worker.dead and (event.unheard or not worker.has_ended):
                self._die(worker, lose_messages=event.unheard)
        self._nodes.push(DeathNoticed(self._now - self._nodes.began + event.noticed_after, node.number))
        if event.back_after is not None:
            after = max(event.noticed_after, event.back_after)
            self._nodes.push(NodeReturns(self._now - self._nodes.began + after, node.number))

    def _death_noticed(self, node: Node, handle: Handle) -> bool:
        reason = f"node {node.number} died"
        told = self._slots_close(node, reason, handle)
        for worker in self._workers_of(node):
            if worker.dead and not worker.has_ended:
                self._lose(worker, Lost(reason, fault=False))
        return told

    def _node_drains(self, event: NodeDrains, handle: Handle) -> bool:
        node = self._nodes[event.node]
        if not node.alive or not self._slots_close(node, f"node {node.number} drains", handle):
            return False
        for worker in self._workers_of(node):
            self.send(worker.slot, worker.id, Interrupt())
        died = self._now - self._nodes.began + event.notice
        self._nodes.push(NodeDies(died, node.number, back_after=event.back_after))
        return True

    def _slots_close(self, node: Node, reason: str, handle: Handle) -> bool:
        """Close the slots of a node, and return whether any was open."""
        found = [slot for slot in node.slots if slot not in self.closed]
        for slot in found:
            self.closed.add(slot)
            handle(slot, 0, SlotClosed(reason))
        return bool(found)

    def _slots_open(self, node: Node, handle: Handle) -> None:
        # The last first: a search must take slots in any order, as the GPUs of a real node are ready in any.
        for slot in reversed(node.slots):
            self.closed.discard(slot)
            handle(slot, 0, SlotOpened(f"node {node.number} slot {slot}"))

    def _workers_of(self, node: Node) -> list[_Worker]:
        return [self._workers[slot] for slot in node.slots if slot in self._workers]
