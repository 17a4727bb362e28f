"""The contract kits of executors: the messages of workers, and the files of those that really train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.driver.hand_on import Files
from search.executors.base import Executor
from search.messages import (
    Answer,
    Inherited,
    Interrupt,
    Lost,
    Notice,
    Probe,
    Probed,
    ProbeFailed,
    Question,
    Segment,
    Verdict,
)
from search.plugins.loading import EXECUTORS
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.records import Built, Checkpointed, EpochDone, SegmentEnded
from search.testing.conversation import SPACE, VALUES, Conversation, Segments


class MessageContract(Segments):
    """The contract of any executor, simulated ones included: its messages. `ExecutorContract` adds the files.

    Subclass it as `Test…`, with a fixture `executor` of any scope that returns the executor.

    Example:
        ::

            import pytest

            from search.testing import MessageContract

            class TestMine(MessageContract):
                @pytest.fixture
                def executor(self):
                    executor = Mine()
                    yield executor
                    executor.close()
    """

    def test_it_states_the_protocol(self, executor: Executor) -> None:
        assert type(executor).protocol == EXECUTORS.protocol

    def test_a_probe_reports_the_space(self, executor: Executor, space: SpaceRef) -> None:
        probed = executor.probe(Probe(space))
        assert isinstance(probed, Probed), probed
        assert [parameter.name for parameter in probed.parameters] == ["kind", "units", "rate"]
        assert "val_loss" in probed.metrics
        assert probed.weight_count == 2 * 4 + 2 + 2 + 1

    def test_a_segment_asks_trains_and_checkpoints(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor, VALUES).run(segment(values={}))
        assert conversation.kinds == [*["Question"] * 3, "Built", *["EpochDone"] * 3, "Checkpointed", "SegmentEnded"]
        assert [message.parameter.name for message in conversation.messages if isinstance(message, Question)] == list(
            VALUES
        )
        assert [message.epoch for message in conversation.messages if isinstance(message, EpochDone)] == [1, 2, 3]
        built = conversation.messages[3]
        assert isinstance(built, Built)
        assert built.weight_count == 5 * 4 + 5 + 5 + 1
        checkpointed = conversation.messages[-2]
        assert isinstance(checkpointed, Checkpointed)
        losses = [logs["val_loss"] for logs in conversation.curve]
        assert (checkpointed.epoch, checkpointed.best_epoch) == (3, 1 + losses.index(min(losses)))
        assert (conversation.end.outcome, conversation.end.epoch, conversation.end.error) == ("reached", 3, None)

    def test_known_values_are_not_asked_for(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor, VALUES).run(segment(values={"kind": "sound", "rate": 0.01}, to_epoch=1))
        assert [message.parameter.name for message in conversation.messages if isinstance(message, Question)] == [
            "units"
        ]

    def test_an_answer_may_be_an_error(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        class Refusing(Conversation):
            def answer(self, question: Question) -> Answer:
                return Answer(None, "its domain has changed")

        conversation = Refusing(executor).run(segment(values={}))
        assert conversation.kinds == ["Question", "SegmentEnded"]
        assert conversation.end.outcome == "failed"
        assert conversation.end.error is not None
        assert "its domain has changed" in conversation.end.error

    def test_an_interrupted_trial_continues_with_the_same_results(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        whole = Conversation(executor).run(segment(trial=0, to_epoch=5))

        def interrupt(message: EpochDone) -> Verdict | Interrupt:
            return Interrupt() if message.epoch == 2 else Verdict(False)

        first = Conversation(executor, react=interrupt).run(segment(trial=1, to_epoch=5, judged=True))
        assert (first.end.outcome, first.end.epoch) == ("interrupted", 2)
        assert first.kinds[-2] == "Checkpointed"
        second = Conversation(executor).run(segment(trial=1, to_epoch=5, from_epoch=2))
        assert second.end.outcome == "reached"
        assert first.curve + second.curve == whole.curve
        assert len(whole.curve) == 5

    def test_an_idle_worker_may_be_ended_and_its_trial_continues(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        """An executor without `retire` keeps its workers."""
        retire = getattr(executor, "retire", lambda slot: None)

        def interrupt(message: EpochDone) -> Verdict | Interrupt:
            return Interrupt() if message.epoch == 2 else Verdict(False)

        retire(0)
        first = Conversation(executor, react=interrupt).run(segment(trial=1, to_epoch=4, judged=True))
        assert first.end.epoch == 2
        for _ in range(2):
            retire(0)
        second = Conversation(executor).run(segment(trial=1, to_epoch=4, from_epoch=2))
        assert second.end.outcome == "reached"
        assert len(second.curve) == 2

    def test_an_interrupt_ends_a_long_segment(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor, react=lambda message: Interrupt() if message.epoch == 1 else None)
        conversation.run(segment(to_epoch=100_000))
        assert conversation.end.outcome == "interrupted"
        assert conversation.end.epoch == len(conversation.curve) < 50_000
        # The next segment starts uninterrupted.
        assert Conversation(executor).run(segment(trial=1, to_epoch=2)).end.outcome == "reached"

    def test_commands_for_other_work_are_dropped(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        class Late(Conversation):
            def answer(self, question: Question) -> Answer:
                executor.send(0, self.work - 1, Answer(2))
                executor.send(0, self.work - 1, Interrupt())
                return Answer(VALUES[question.parameter.name])

        def react(message: EpochDone) -> Verdict:
            executor.send(0, conversation.work - 1, Verdict(True))
            return Verdict(False)

        conversation = Late(executor, react=react)
        conversation.run(segment(values={}, judged=True))
        assert (conversation.end.outcome, conversation.end.epoch) == ("reached", 3)
        built = next(message for message in conversation.messages if isinstance(message, Built))
        assert built.weight_count == 5 * 4 + 5 + 5 + 1

    def test_an_interrupt_ends_a_wait_for_an_answer(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        class Silent(Conversation):
            def answer(self, question: Question) -> Interrupt:
                return Interrupt()

        conversation = Silent(executor).run(segment(values={}))
        assert conversation.kinds == ["Question", "SegmentEnded"]
        assert conversation.end.outcome == "interrupted"

    def test_a_lost_segment_is_continued_from_its_checkpoint(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        """The journal may lack epochs of the checkpoint: these are reported again, and no epoch is trained twice."""
        first = Conversation(executor).run(segment(to_epoch=3))
        again = Conversation(executor).run(segment(to_epoch=4))
        assert again.curve[:3] == first.curve
        assert [message.epoch for message in again.messages if isinstance(message, EpochDone)] == [1, 2, 3, 4]
        known = Conversation(executor).run(segment(to_epoch=4, from_epoch=1))
        assert known.curve == again.curve[1:]
        assert known.kinds == ["Built", *["EpochDone"] * 3, "Checkpointed", "SegmentEnded"]

    def test_epochs_reported_again_are_judged_again(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        Conversation(executor).run(segment(to_epoch=3))
        conversation = Conversation(executor, react=lambda message: Verdict(message.epoch == 2))
        conversation.run(segment(to_epoch=5, judged=True))
        assert conversation.kinds == ["Built", *["EpochDone"] * 3, "Checkpointed", "SegmentEnded"]
        assert (conversation.end.outcome, conversation.end.epoch) == ("stopped", 3)

    def test_a_killed_process_is_lost_with_the_reason_and_its_trial_continues(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        whole = Conversation(executor).run(segment(trial=0, to_epoch=4))
        executor.kill(0, 0, "nothing runs")

        def kill(message: EpochDone) -> Verdict | None:
            if message.epoch == 2:
                executor.kill(0, killed.work - 1, "an earlier piece of work")
                executor.kill(0, killed.work, "it took too long")
            return Verdict(False) if message.epoch < 2 else None

        killed = Conversation(executor, react=kill)
        killed.run(segment(trial=1, to_epoch=4, judged=True, checkpoint_every=0.0))
        assert killed.messages[-1] == Lost("it took too long")
        assert len(killed.curve) == 2
        again = Conversation(executor).run(segment(trial=1, to_epoch=4))
        assert again.curve == whole.curve

    def test_a_trial_without_its_checkpoint_starts_anew(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        conversation = Conversation(executor).run(segment(from_epoch=2, to_epoch=3))
        assert [message.epoch for message in conversation.messages if isinstance(message, EpochDone)] == [1, 2, 3]

    @pytest.mark.parametrize("other", [{"seed": 8}, {"values": {**VALUES, "rate": 0.02}}], ids=["seed", "values"])
    def test_a_checkpoint_of_another_training_is_not_restored(
        self, executor: Executor, segment: Callable[..., Segment], other: dict[str, Any]
    ) -> None:
        Conversation(executor).run(segment(to_epoch=2))
        conversation = Conversation(executor).run(segment(to_epoch=1, **other))
        assert conversation.kinds == ["Built", "EpochDone", "Checkpointed", "SegmentEnded"]

    def test_each_execution_is_a_separate_training(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        Conversation(executor).run(segment(to_epoch=3))
        conversation = Conversation(executor).run(segment(to_epoch=2, execution=1, seed=8))
        assert conversation.kinds == ["Built", *["EpochDone"] * 2, "Checkpointed", "SegmentEnded"]
        of_execution = (EpochDone, Checkpointed, SegmentEnded)
        assert [message.execution for message in conversation.messages if isinstance(message, of_execution)] == [1] * 4
        for execution, seed, known in ((0, 7, 3), (1, 8, 2)):
            later = Conversation(executor).run(segment(from_epoch=known, to_epoch=4, execution=execution, seed=seed))
            assert [message.epoch for message in later.messages if isinstance(message, EpochDone)] == [
                *range(known + 1, 5)
            ]

    @pytest.fixture
    def child(self, executor: Executor, segment: Callable[..., Segment], tmp_path: Path) -> Callable[..., Segment]:
        """Return a function that makes segments of trial 1, which continues trial 0 after the second epoch."""

        def make(*, hand_on: bool = True, from_epoch: int = 2, to_epoch: int = 4, **options: Any) -> Segment:
            if hand_on:
                parent, own = TrialPaths(tmp_path / "trial-0"), TrialPaths(tmp_path / "trial-1")
                getattr(executor, "hand_on", Files().hand_on)(parent, own, 0, again=False)
            values, inherited = options.pop("values", {**VALUES, "rate": 0.001}), Inherited(0, 2, 0, seed=7)
            return segment(1, to_epoch, from_epoch, values=values, seed=8, inherited=inherited, **options)

        return make

    def test_a_child_continues_its_parent_which_goes_on_unaffected(
        self, executor: Executor, segment: Callable[..., Segment], child: Callable[..., Segment]
    ) -> None:
        whole = Conversation(executor).run(segment(trial=2, to_epoch=3))
        Conversation(executor).run(segment(to_epoch=2))
        first = child()
        parent = Conversation(executor).run(segment(from_epoch=2, to_epoch=3))
        assert parent.curve == whole.curve[2:]
        conversation = Conversation(executor).run(first)
        assert conversation.kinds == ["Built", *["EpochDone"] * 2, "Checkpointed", "SegmentEnded"]
        assert [message.epoch for message in conversation.messages if isinstance(message, EpochDone)] == [3, 4]
        checkpointed = conversation.messages[-2]
        assert isinstance(checkpointed, Checkpointed)
        assert checkpointed.epoch == 4
        assert checkpointed.best_epoch in (3, 4)
        assert (conversation.end.outcome, conversation.end.epoch) == ("reached", 4)
        # It is a trial like any other now: it goes on from its own checkpoint, and reports what the journal lacks.
        again = Conversation(executor).run(child(hand_on=False, from_epoch=3, to_epoch=5))
        assert [message.epoch for message in again.messages if isinstance(message, EpochDone)] == [4, 5]
        assert again.curve[:1] == conversation.curve[1:]

    def test_a_child_asks_for_the_values_that_it_lacks(
        self, executor: Executor, segment: Callable[..., Segment], child: Callable[..., Segment]
    ) -> None:
        Conversation(executor).run(segment(to_epoch=2))
        conversation = Conversation(executor, VALUES).run(child(values={"kind": "sound", "units": 5}, to_epoch=3))
        assert conversation.kinds == ["Question", "Built", "EpochDone", "Checkpointed", "SegmentEnded"]

    def test_a_child_without_its_parents_state_fails(self, executor: Executor, child: Callable[..., Segment]) -> None:
        conversation = Conversation(executor).run(child())
        assert conversation.kinds == ["Built", "SegmentEnded"]
        assert conversation.end.outcome == "failed"
        assert conversation.end.error is not None
        assert "trial 1 cannot continue trial 0 after epoch 2: " in conversation.end.error
        assert "\n" not in conversation.end.error

    def test_a_parents_state_after_another_epoch_is_refused(
        self, executor: Executor, segment: Callable[..., Segment], child: Callable[..., Segment]
    ) -> None:
        Conversation(executor).run(segment(to_epoch=3))
        conversation = Conversation(executor).run(child())
        assert (conversation.kinds, conversation.end.outcome) == (["Built", "SegmentEnded"], "failed")

    def test_checkpoints_are_as_frequent_as_asked_for(
        self, executor: Executor, segment: Callable[..., Segment]
    ) -> None:
        conversation = Conversation(executor).run(segment(to_epoch=3, checkpoint_every=0.0))
        assert conversation.kinds == ["Built", *["EpochDone", "Checkpointed"] * 3, "SegmentEnded"]

    def test_judged_segments_wait_for_verdicts(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor, react=lambda message: Verdict(message.epoch == 2))
        conversation.run(segment(to_epoch=4, judged=True))
        assert (conversation.end.outcome, conversation.end.epoch) == ("stopped", 2)
        assert len(conversation.curve) == 2
        assert conversation.kinds[-2] == "Checkpointed"
        # The worker waits for no verdict on the last epoch.
        conversation = Conversation(executor, react=lambda message: None if message.epoch == 2 else Verdict(False))
        conversation.run(segment(trial=1, to_epoch=2, judged=True))
        assert conversation.end.outcome == "reached"

    def test_an_exception_fails_the_trial(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor).run(segment(values={"kind": "raises"}))
        assert conversation.kinds == ["SegmentEnded"]
        assert conversation.end.outcome == "raised"
        assert conversation.end.error is not None
        assert "no such layer" in conversation.end.error
        assert "\n" not in conversation.end.error

    @pytest.mark.parametrize("judged", [False, True])
    def test_a_loss_that_is_nan_fails_the_trial(
        self, executor: Executor, segment: Callable[..., Segment], judged: bool
    ) -> None:
        conversation = Conversation(executor, react=lambda _: Verdict(False) if judged else None)
        conversation.run(segment(values={**VALUES, "kind": "diverges"}, judged=judged))
        assert conversation.end.outcome == "failed"
        assert conversation.end.error is not None
        assert "diverged" in conversation.end.error
        assert len(conversation.curve) == 1

    def test_a_callback_may_end_the_training(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        conversation = Conversation(executor).run(segment(values={**VALUES, "kind": "ends"}, to_epoch=5))
        assert (conversation.end.outcome, conversation.end.epoch) == ("stopped_by_callback", 2)
        assert conversation.kinds[-2] == "Checkpointed"
        # The driver may have died before it received the message. The trial does not train again.
        again = Conversation(executor).run(segment(values={**VALUES, "kind": "ends"}, from_epoch=2, to_epoch=5))
        assert again.kinds == ["Built", "Checkpointed", "SegmentEnded"]
        assert (again.end.outcome, again.end.epoch) == ("stopped_by_callback", 2)

    @pytest.mark.parametrize("kind", ["ends", "diverges"])
    def test_a_late_verdict_is_no_answer_in_the_next_segment(
        self, executor: Executor, segment: Callable[..., Segment], kind: str
    ) -> None:
        first = Conversation(executor, react=lambda _: Verdict(False))
        first.run(segment(values={**VALUES, "kind": kind}, to_epoch=4, judged=True))
        assert first.end.outcome in ("stopped_by_callback", "failed")
        second = Conversation(executor, VALUES).run(segment(trial=1, values={}, to_epoch=1))
        assert second.end.outcome == "reached"
        built = next(message for message in second.messages if isinstance(message, Built))
        assert built.weight_count == 5 * 4 + 5 + 5 + 1

    def test_a_slot_is_ready_after_the_last_message(self, executor: Executor, segment: Callable[..., Segment]) -> None:
        for trial, kind in enumerate(["sound", "raises", "sound"]):
            conversation = Conversation(executor).run(segment(trial=trial, values={**VALUES, "kind": kind}, to_epoch=1))
            assert conversation.end.trial == trial
        assert executor.slots >= 1


class ExecutorContract(MessageContract):
    """The contract of any executor that trains.

    Subclass it as `Test…`, with a fixture `executor` of any scope that returns the executor.

    Example:
        ::

            import pytest

            from search.testing import ExecutorContract

            class TestMine(ExecutorContract):
                @pytest.fixture(scope="class")
                def executor(self):
                    executor = Mine()
                    yield executor
                    executor.close()
    """

    def test_a_probe_reads_the_space_file(self, executor: Executor, space: SpaceRef) -> None:
        probed = executor.probe(Probe(space))
        assert isinstance(probed, Probed), probed
        assert probed.options == {"max_epochs": 5}

    def test_probe_and_workers_report_the_same_data(
        self, executor: Executor, space: SpaceRef, segment: Callable[..., Segment]
    ) -> None:
        probed = executor.probe(Probe(space))
        assert isinstance(probed, Probed), probed
        assert probed.data is not None
        assert list(probed.data.fingerprint["validation"]) == ["x", "y"]
        assert Conversation(executor, VALUES).run(segment(to_epoch=1)).data == [probed.data]
        assert set(probed.metrics) == {"loss", "val_loss"}
        assert probed.samples == (32, 8)

    def test_a_probe_names_the_error_and_its_line(self, executor: Executor, tmp_path: Path) -> None:
        broken = SPACE.replace("model = ", "model = undefined or ")
        (tmp_path / "broken.py").write_text(broken)
        probed = executor.probe(Probe(SpaceRef(str(tmp_path / "broken.py"))))
        assert isinstance(probed, ProbeFailed), probed
        line = 1 + next(i for i, text in enumerate(broken.splitlines()) if "undefined" in text)
        assert f"broken.py:{line}" in probed.message
        assert "name 'undefined'" in probed.message
        assert "\n" not in probed.message

    @pytest.mark.parametrize("execution", [0, 1])
    def test_a_segment_leaves_its_files(
        self, executor: Executor, segment: Callable[..., Segment], tmp_path: Path, execution: int
    ) -> None:
        Conversation(executor).run(segment(execution=execution))
        paths = TrialPaths(tmp_path / "trial-0")
        assert paths.checkpoint(execution).exists()
        assert paths.best(execution).exists()
        assert not paths.checkpoint(1 - execution).exists()

    def test_a_trial_with_a_damaged_checkpoint_starts_anew_with_a_notice(
        self, executor: Executor, segment: Callable[..., Segment], tmp_path: Path
    ) -> None:
        whole = Conversation(executor).run(segment(to_epoch=3))
        path = TrialPaths(tmp_path / "trial-0").checkpoint(0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        conversation = Conversation(executor).run(segment(from_epoch=2, to_epoch=3))
        assert conversation.curve == whole.curve
        (text,) = {message.text for message in conversation.messages if isinstance(message, Notice)}
        assert "trial 0 starts anew" in text
        assert str(path) in text
        assert conversation.end.outcome == "reached"

    def test_an_exception_is_reported_with_its_line_and_its_traceback_is_kept(
        self, executor: Executor, segment: Callable[..., Segment], tmp_path: Path
    ) -> None:
        conversation = Conversation(executor).run(segment(values={"kind": "raises"}))
        assert conversation.end.error is not None
        line = 1 + SPACE.splitlines().index('        raise ValueError("no such layer")')
        assert f"space.py:{line}" in conversation.end.error
        assert "Traceback" in TrialPaths(tmp_path / "trial-0").traceback.read_text()
