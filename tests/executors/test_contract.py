"""The contract kit run on our executors, and simulated workers compared with real ones."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.devices.slots import Slot
from search.executors.base import Executor, Handle
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.executors.simulated import Hp, Run, Scenario, SimulatedExecutor
from search.executors.simulated_nodes import Cluster, NodeDies, NodeDrains
from search.messages import (
    DRIVER,
    Evaluate,
    FileRequest,
    Interrupt,
    Lost,
    Message,
    Notice,
    Segment,
    Verdict,
)
from search.space.file import SpaceRef
from search.storage.transfers import Transfers
from search.study.paths import TrialPaths
from search.study.records import EpochDone, SegmentEnded
from search.study.trial import Objective
from search.testing import Conversation, ExecutorContract, MessageContract, NodeContract
from search.testing.conversation import SPACE, VALUES


@pytest.fixture(scope="module")
def inline() -> Iterator[InlineExecutor]:
    """Yield an inline executor, which keeps its graphs from one test to the next."""
    made = InlineExecutor()
    yield made
    made.close()


class TestInline(ExecutorContract):
    @pytest.fixture
    def executor(self, inline: InlineExecutor) -> InlineExecutor:
        return inline

    def test_a_killed_process_is_lost_with_the_reason_and_its_trial_continues(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        """The inline executor cannot kill the driver's own process."""

        def kill(message: EpochDone) -> None:
            executor.kill(0, 0, "it took too long")

        assert Conversation(executor, react=kill).run(segment(to_epoch=2)).end.outcome == "reached"

    def test_a_poll_without_work_takes_its_time(self, inline: InlineExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        """The driver polls again and again while the back end computes, and must leave it the processor."""
        slept: list[float] = []
        monkeypatch.setattr("search.executors.inline.time.sleep", slept.append)
        inline.poll(lambda slot, work, message: None, 0.25)
        assert slept == [0.25]


@pytest.fixture(scope="module")
def local(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    slot = Slot(0, (), (0,), 1, "CPU 0")
    made = LocalExecutor([slot], tmp_path_factory.mktemp("local") / "log.txt", zygote=zygote)
    yield made
    made.close()
    made.close()  # may be called twice


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self, local: LocalExecutor) -> LocalExecutor:
        return local


class ThroughDriver(LocalExecutor):
    """A local executor whose workers get their trials' files from the driver, and its end of the transfer."""

    def __init__(self, slot: Slot, log: Path, zygote: Any) -> None:
        super().__init__([slot], log, zygote=zygote)
        self._transfers = Transfers()

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        self._transfers.begin(work)
        super().start(slot, dataclasses.replace(work, storage=DRIVER))

    def poll(self, handle: Handle, timeout: float) -> None:
        def receive(slot: int, work: int, message: Message) -> None:
            if isinstance(message, FileRequest):
                self.send(slot, work, self._transfers.answer(work, message))
                return
            if isinstance(message, (SegmentEnded, Lost)):
                self._transfers.end(work)
            handle(slot, work, message)

        super().poll(receive, timeout)


@pytest.fixture(scope="module")
def through_driver(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    made = ThroughDriver(Slot(0, (), (0,), 1, "CPU 0"), tmp_path_factory.mktemp("driver") / "log.txt", zygote)
    yield made
    made.close()


@pytest.mark.slow
class TestThroughDriver(ExecutorContract):
    """The files of trials come from and go to the study's folder in parts, between any two processes."""

    @pytest.fixture
    def executor(self, through_driver: LocalExecutor) -> LocalExecutor:
        return through_driver

    def test_a_trial_with_a_damaged_checkpoint_starts_anew_with_a_notice(
        self, executor: Executor, segment: Callable[..., Segment], tmp_path: Path
    ) -> None:
        """The notice names the file on the worker's machine."""
        whole = Conversation(executor).run(segment(to_epoch=3))
        path = TrialPaths(tmp_path / "trial-0").checkpoint(0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        conversation = Conversation(executor).run(segment(from_epoch=2, to_epoch=3))
        assert conversation.curve == whole.curve
        (text,) = {message.text for message in conversation.messages if isinstance(message, Notice)}
        assert "trial 0 starts anew" in text


# Simulated ------------------------------------------------------------------------------------------------------------


def ask(hp: Hp) -> None:
    if hp.Choice("kind", ["sound", "raises", "diverges", "ends"]) == "raises":
        raise ValueError("no such layer")
    hp.Int("units", 2, 8)
    hp.Float("rate", 1e-3, 1e-1, sampling="log")


def size(run: Run) -> int:
    units = run["units"]
    assert isinstance(units, int)
    return 4 * units + units + units + 1


TINY = Scenario(
    ask,
    lambda run, epoch: math.nan if run["kind"] == "diverges" else 1 / epoch,
    finishes=lambda run: 2 if run["kind"] == "ends" else None,
    size=size,
)
"""The scenario that corresponds to the kit's space."""


class TestSimulated(MessageContract):
    @pytest.fixture
    def executor(self) -> Iterator[SimulatedExecutor]:
        made = SimulatedExecutor(TINY)
        yield made
        made.close()
        made.close()  # may be called twice


class TestSimulatedWithLatency(MessageContract):
    """Messages have different travel times, and workers do not wait for their arrival."""

    @pytest.fixture
    def executor(self) -> SimulatedExecutor:
        scenario = TINY.disturbed(latency=lambda rng: rng.expovariate(2.0), build=lambda rng: rng.random())
        return SimulatedExecutor(scenario, leap=False)


class TestSimulatedNodes(NodeContract):
    """Nodes that die and drain. Saving a checkpoint takes time, as do messages."""

    @pytest.fixture(params=[0.0, 0.5])
    def executor(self, request: pytest.FixtureRequest) -> SimulatedExecutor:
        scenario = dataclasses.replace(TINY, latency=lambda run, number: request.param, saving=lambda run: 0.25)
        return SimulatedExecutor(scenario, cluster=Cluster(2, 2))

    def lose_node(self, executor: Executor) -> None:
        assert isinstance(executor, SimulatedExecutor)
        executor.happen(NodeDies(0.0, 0))

    def drain_node(self, executor: Executor) -> None:
        assert isinstance(executor, SimulatedExecutor)
        executor.happen(NodeDrains(0.0, 0, notice=10.0))


@dataclasses.dataclass
class Script:
    """Two segments of a trial, and the driver's reactions.

    Attributes:
        kind: the kind of model.
        to_epoch: the end of the first segment.
        judged: whether both segments are judged.
        stop, interrupt: the epochs after which the worker is told to stop or is interrupted; 0 for never.
        checkpoint_every: seconds between checkpoints.
        known: epochs that the second segment starts from.
        more: epochs of the second segment beyond these, less one.
    """

    kind: str
    to_epoch: int
    judged: bool
    stop: int
    interrupt: int
    checkpoint_every: float
    known: int
    more: int

    @classmethod
    def draw(cls, seed: int) -> Script:
        rng = random.Random(seed)
        return cls(
            kind=rng.choice(["sound", "sound", "diverges", "ends", "raises"]),
            to_epoch=rng.randint(1, 4),
            judged=rng.random() < 0.6,
            stop=rng.choice([0, 0, 1, 2, 3]),
            interrupt=rng.choice([0, 0, 1, 2]),
            checkpoint_every=rng.choice([0.0, 1e9]),
            known=rng.randint(0, 3),
            more=rng.randint(0, 3),
        )

    def run(self, executor: Executor, space: SpaceRef, folder: Path) -> list[tuple[Any, ...]]:
        """Run both segments and return the summaries of the worker's messages."""

        def react(message: EpochDone) -> Verdict | Interrupt | None:
            # Unjudged, a real worker may hear an interrupt an epoch later.
            if self.judged and message.epoch == self.interrupt:
                return Interrupt()
            return Verdict(message.epoch == self.stop) if self.judged else None

        summaries = []
        for from_epoch, to_epoch in ((0, self.to_epoch), (self.known, self.known + self.more + 1)):
            segment = Segment(
                trial=3,
                execution=0,
                space=space,
                values={"kind": self.kind},
                seed=7,
                from_epoch=from_epoch,
                to_epoch=to_epoch,
                objective=Objective("val_loss", "min"),
                folder=str(folder),
                judged=self.judged,
                checkpoint_every=self.checkpoint_every,
            )
            summaries += map(summarize, Conversation(executor, VALUES, react).run(segment).messages)
        return summaries


def summarize(message: Message) -> tuple[Any, ...]:
    """Return the parts of a message that do not depend on how well the model learns."""
    names = ("trial", "execution", "weight_count", "epoch", "stopped_by_callback", "outcome")
    parameter = getattr(message, "parameter", None)
    return (type(message).__name__, parameter and parameter.name, *(getattr(message, name, None) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_a_simulated_worker_sends_the_messages_of_a_real_one(seed: int, tmp_path: Path, inline: InlineExecutor) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    script, space = Script.draw(seed), SpaceRef(str(tmp_path / "space.py"))
    real, simulated = (
        script.run(executor, space, tmp_path / "trial") for executor in (inline, SimulatedExecutor(TINY))
    )
    assert real == simulated, script
