"""The contract kit of executors whose nodes may die or be taken away."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest

from search.executors.base import Executor
from search.messages import Interrupt, Lost, Message, Segment, SlotClosed, Verdict
from search.study.records import EpochDone
from search.testing.conversation import TIMEOUT, Conversation, Segments


class NodeContract(Segments, ABC):
    """The contract of any executor that may lose slots with a node, beside `MessageContract` or `ExecutorContract`.

    Subclass it as `Test…`, with a fixture `executor` and the two methods. Slot 0 and the last one must be open when a
    test begins, and on two nodes.

    Example:
        ::

            import pytest

            from search.testing import NodeContract

            class TestMineOnNodes(NodeContract):
                @pytest.fixture
                def executor(self):
                    executor = Mine(nodes=2)
                    yield executor
                    executor.close()

                def lose_node(self, executor):
                    executor.machine_of(0).kill()

                def drain_node(self, executor):
                    executor.machine_of(0).announce_end(seconds=10)
    """

    @abstractmethod
    def lose_node(self, executor: Executor) -> None:
        """Have the node of slot 0 of `executor` die."""

    @abstractmethod
    def drain_node(self, executor: Executor) -> None:
        """Tell `executor`, as a cluster would, that the node of slot 0 goes away in ten seconds or more."""

    def test_work_on_a_node_that_dies_is_lost_without_fault_and_continues_elsewhere(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        last = executor.slots - 1
        whole = Conversation(executor, slot=last).run(segment(trial=0, to_epoch=4))

        def react(message: EpochDone) -> Verdict | None:
            if message.epoch < 2:
                return Verdict(False)
            self.lose_node(executor)
            return None

        lost = Conversation(executor, react=react)
        lost.run(segment(trial=1, to_epoch=4, judged=True, checkpoint_every=0.0))
        assert isinstance(lost.messages[-1], Lost)
        assert not lost.messages[-1].fault
        assert "\n" not in lost.messages[-1].reason
        assert 0 in _closed(lost)
        assert last not in _closed(lost)
        # The wait for the verdict came before the second checkpoint.
        again = Conversation(executor, slot=last).run(segment(trial=1, to_epoch=4, from_epoch=1))
        assert [message.epoch for message in again.messages if isinstance(message, EpochDone)] == [2, 3, 4]
        assert again.curve == whole.curve[1:]

    def test_a_node_that_drains_checkpoints_and_its_trial_continues_elsewhere(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        last = executor.slots - 1
        whole = Conversation(executor, slot=last).run(segment(trial=0, to_epoch=5))

        def react(message: EpochDone) -> Verdict | None:
            if message.epoch < 2:
                return Verdict(False)
            self.drain_node(executor)
            return None

        first = Conversation(executor, react=react)
        first.run(segment(trial=1, to_epoch=5, judged=True, checkpoint_every=1e9))
        assert (first.end.outcome, first.end.epoch) == ("interrupted", 2)
        assert first.kinds[-2] == "Checkpointed"
        assert 0 in _closed(first)
        assert last not in _closed(first)
        second = Conversation(executor, slot=last).run(segment(trial=1, to_epoch=5, from_epoch=2))
        assert first.curve + second.curve == whole.curve

    @pytest.mark.parametrize("drains", [False, True])
    def test_a_slot_without_work_closes_with_its_node(self, executor: Executor, drains: bool) -> None:
        (self.drain_node if drains else self.lose_node)(executor)
        received: list[tuple[int, int, Message]] = []
        deadline = time.monotonic() + TIMEOUT
        while not any(slot == 0 for slot, _, _ in received):
            assert time.monotonic() < deadline, f"slot 0 did not close; so far: {received}"
            executor.poll(lambda *message: received.append(message), 0.1)
        assert {type(message) for _, _, message in received} == {SlotClosed}
        assert {work for _, work, _ in received} == {0}

    def test_commands_for_lost_work_are_dropped(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        lost = Conversation(executor, react=lambda message: self.lose_node(executor))
        lost.run(segment(to_epoch=4, judged=True))
        assert isinstance(lost.messages[-1], Lost)
        executor.send(0, lost.work, Interrupt())
        executor.kill(0, lost.work, "it is lost already")
        assert Conversation(executor, slot=executor.slots - 1).run(segment(trial=1)).end.outcome == "reached"


def _closed(conversation: Conversation) -> set[int]:
    """Return the slots that closed during a conversation."""
    return {slot for slot, message in conversation.changes if isinstance(message, SlotClosed)}
