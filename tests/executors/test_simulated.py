"""The simulated executor: its clock, its scenarios, and whole searches by the real driver."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.backends.brackets import plan_brackets
from search.backends.hyperband import Hyperband
from search.driver.loop import Driver
from search.executors.simulated import Disk, Hp, Run, Scenario, SimulatedExecutor, recorded
from search.messages import Interrupt, Lost, Message, Probe, ProbeFailed, Segment
from search.options import Options
from search.scheduler.controller import Controller
from search.scheduler.limits import Limits
from search.space.file import SpaceRef
from search.study.journal import Entry, Journal, read
from search.study.paths import StudyPaths
from search.study.records import (
    FORMAT,
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    SearchStarted,
    SegmentEnded,
)
from search.study.study import Study, read_study
from search.study.trial import Objective
from search.testing import Conversation
from search.tracking.followers import Follower

OBJECTIVE = Objective("val_loss", "min")


def ask(hp: Hp) -> None:
    hp.Float("x", 0.0, 1.0)


def plain(run: Run, epoch: int) -> float:
    x = run["x"]
    assert isinstance(x, float)
    return (x - 0.3) ** 2 + 1 / epoch


PLAIN = Scenario(ask, plain)
ROUGH = PLAIN.disturbed(
    noise=lambda rng: rng.gauss(0, 0.01),
    pace=lambda rng: rng.lognormvariate(0, 0.5),
    build=lambda rng: rng.expovariate(1),
    latency=lambda rng: rng.expovariate(10),
    failing=0.02,
    dying=0.01,
)


def segment(trial: int = 0, **options: Any) -> Segment:
    defaults: dict[str, Any] = {
        "execution": 0,
        "space": SpaceRef(),
        "values": {"x": 0.5},
        "seed": 100 + trial,
        "from_epoch": 0,
        "to_epoch": 3,
        "objective": OBJECTIVE,
        "folder": f"trial-{trial}",
    }
    return Segment(trial=trial, **{**defaults, **options})


def epochs(conversation: Conversation) -> list[EpochDone]:
    return [message for message in conversation.messages if isinstance(message, EpochDone)]


# A whole study --------------------------------------------------------------------------------------------------------


class Cut(Exception):
    """The end of the driver's process."""


class NoView:
    def update(self, now: float) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def name_slot(self, slot: int, label: str | None) -> None:
        pass

    def close(self) -> None:
        pass


def search(folder: Path, executor: SimulatedExecutor, followers: Sequence[Follower] = (), max_epochs: int = 9) -> Study:
    """Run or resume the study in `folder` by the real driver, with a real journal."""
    paths, study = StudyPaths.of(folder, "study"), Study()
    paths.folder.mkdir(exist_ok=True)
    controller = Controller(
        study,
        lambda _: Hyperband(study.objective, study.seed, max_epochs=max_epochs),
        Limits(),
        executor.slots,
        max_epochs,
    )
    first = not paths.journal.exists()
    if not first:
        controller.replay(read(paths.journal))
    header = Header(FORMAT, "0", "study", 7, (Objective("val_loss", "min"),), "", "", PLAIN.parameters(), {})
    driver = Driver(
        controller,
        Journal(paths.journal),
        executor,
        SpaceRef(),
        paths,
        Options(checkpoint_every=2.0),
        followers=followers,
        view=NoView(),
        now=executor.now,
    )
    driver.run([*([header, BackendChanged("hyperband", {})] if first else []), SearchStarted("here", 0, {})])
    return study


def history(study: Study) -> list[Any]:
    return [(t.number, t.seed, t.params, t.state, [(e.epoch, e.logs) for e in t.curve]) for t in study.trials.values()]


class CutAfter:
    """A follower that ends the driver's process when the journal was appended to more than `appends` times."""

    def __init__(self, appends: int) -> None:
        self._left = appends

    def take(self, entries: Sequence[Entry]) -> None:
        if not self._left:
            raise Cut
        self._left -= 1

    def flushed(self) -> None:
        pass


def test_a_study_is_searched_by_the_real_driver(tmp_path: Path) -> None:
    executor = SimulatedExecutor(ROUGH, 10, began=1000.0)
    study = search(tmp_path, executor, max_epochs=27)
    assert study.end is not None
    assert study.end.complete
    assert len(study.trials) == plan_brackets(27).trial_count
    assert all(trial.ended and not trial.open for trial in study.trials.values())
    assert {trial.state for trial in study.trials.values()} == {"completed", "stopped", "failed"}
    assert history(read_study(StudyPaths.of(tmp_path, "study").journal)) == history(study)
    # The study's time is the clock's, and ten workers share the work.
    assert study.seconds() == pytest.approx(executor.now() - 1000.0)
    busy = sum(trial.seconds for trial in study.trials.values())
    assert 0.4 * 10 < busy / study.seconds() < 10


@pytest.mark.parametrize("journalings", [1, 2, 7, 30, 61, 90])
def test_a_study_that_was_cut_resumes_with_the_same_results(tmp_path: Path, journalings: int) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    # A latency or a lost process changes only times, which do not matter with one worker.
    scenario = ROUGH.disturbed(dying=1e-9)
    whole = search(tmp_path / "whole", SimulatedExecutor(scenario))
    disk: Disk = {}
    with pytest.raises(Cut):
        search(tmp_path / "cut", SimulatedExecutor(scenario, disk=disk), [CutAfter(journalings)])
    resumed = search(tmp_path / "cut", SimulatedExecutor(scenario, disk=disk, began=2e9))
    assert history(resumed) == history(whole)
    assert resumed.end is not None
    assert resumed.end.complete


def test_without_the_disk_the_epochs_are_trained_again(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        search(tmp_path, SimulatedExecutor(PLAIN), [CutAfter(40)])
    resumed = search(tmp_path, SimulatedExecutor(PLAIN))
    assert resumed.trained > resumed.epochs
    assert all([e.epoch for e in t.curve] == [*range(1, t.epochs + 1)] for t in resumed.trials.values())
    (tmp_path / "whole").mkdir()
    assert history(resumed) == history(search(tmp_path / "whole", SimulatedExecutor(PLAIN)))


def test_a_search_with_many_workers_is_reproducible(tmp_path: Path) -> None:
    found = []
    for name, order in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        search(tmp_path / name, SimulatedExecutor(PLAIN, 20, order=order))
        found.append((tmp_path / name / "study" / "journal.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]


# The clock ------------------------------------------------------------------------------------------------------------


def test_time_consists_of_builds_epochs_and_latencies() -> None:
    scenario = Scenario(
        ask,
        plain,
        seconds=lambda run: 10.0,
        pace=lambda run, epoch: epoch,
        build=lambda run: 5.0,
        latency=lambda run, number: 0.25,
    )
    executor = SimulatedExecutor(scenario, began=0.0)
    received: list[tuple[str, float]] = []
    executor.start(0, segment(to_epoch=2))
    while executor.busy:
        executor.poll(lambda _, work, message: received.append((type(message).__name__, executor.now())), 0.1)
    # The segment and each message travel for a quarter of a second. Training does not wait for them.
    assert received == [
        ("Built", 5.5),
        ("EpochDone", 15.5),
        ("EpochDone", 35.5),
        ("Checkpointed", 35.5),
        ("SegmentEnded", 35.5),
    ]
    assert [checkpoint.history[-1].seconds for checkpoint in executor.disk.values()] == [20.0]


@pytest.mark.parametrize(("leap", "polls"), [(True, 2), (False, 251)])
def test_a_poll_leaps_to_the_next_message_or_waits_no_longer_than_its_timeout(leap: bool, polls: int) -> None:
    executor = SimulatedExecutor(Scenario(ask, plain, seconds=lambda run: 100.0), began=0.0, leap=leap)
    received: list[Message] = []
    executor.start(0, segment())
    count = 0
    while not received or not isinstance(received[-1], EpochDone):
        executor.poll(lambda _, work, message: received.append(message), 0.4)
        count += 1
    assert abs(count - polls) <= 1  # 250 times 0.4 need not be exactly 100
    assert executor.now() == pytest.approx(100.0)


def test_a_poll_without_messages_takes_its_timeout() -> None:
    executor = SimulatedExecutor(PLAIN, began=0.0)
    executor.poll(lambda *_: pytest.fail("no worker runs"), 0.5)
    assert executor.now() == 0.5
    executor.start(0, segment(values={}))
    received: list[Message] = []
    executor.poll(lambda _, work, message: received.append(message), 0.5)
    assert len(received) == 1
    assert executor.silent  # the worker waits for an answer
    executor.poll(lambda *_: pytest.fail("the worker waits"), 0.5)
    assert executor.now() == 1.0


def test_no_message_overtakes_another() -> None:
    """With latencies of 0 to 30 seconds and epochs of one second, messages arrive in order in both directions."""
    executor = SimulatedExecutor(PLAIN.disturbed(latency=lambda rng: 30 * rng.random() * (rng.random() < 0.5)))
    conversation = Conversation(executor).run(segment(to_epoch=40, checkpoint_every=0.0))
    assert conversation.kinds == ["Built", *["EpochDone", "Checkpointed"] * 40, "SegmentEnded"]
    assert [message.epoch for message in epochs(conversation)] == [*range(1, 41)]


def test_an_interrupt_has_the_latency_of_any_message() -> None:
    executor = SimulatedExecutor(Scenario(ask, plain, latency=lambda run, number: 1.75))
    conversation = Conversation(executor, react=lambda message: Interrupt() if message.epoch == 1 else None)
    conversation.run(segment(to_epoch=20))
    # The training begins at 1.75. The first epoch is sent at 2.75 and arrives at 4.5. The interrupt arrives at 6.25,
    # half a second before the fifth epoch's end.
    assert (conversation.end.outcome, conversation.end.epoch) == ("interrupted", 5)


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_lost_process_leaves_its_checkpoint() -> None:
    dies = {1: 4, 2: 0}
    executor = SimulatedExecutor(Scenario(ask, plain, dies=lambda trial, attempt: dies.get(attempt)))
    first = Conversation(executor).run(segment(to_epoch=6, checkpoint_every=2.0))
    assert first.kinds == ["Built", "EpochDone", "EpochDone", "Checkpointed", "EpochDone", "Lost"]
    assert executor.busy == 0
    second = Conversation(executor).run(segment(to_epoch=6, from_epoch=3))
    assert [type(message) for message in second.messages] == [Lost]
    third = Conversation(executor).run(segment(to_epoch=6, from_epoch=3))
    assert [message.epoch for message in epochs(third)] == [3, 4, 5, 6]
    assert isinstance(third.messages[1], Checkpointed)
    assert third.end.outcome == "reached"


def test_after_an_exception_a_segment_has_no_epochs() -> None:
    executor = SimulatedExecutor(Scenario(ask, plain, fails=lambda run: 2))
    conversation = Conversation(executor).run(segment())
    assert conversation.kinds == ["Built", "EpochDone", "SegmentEnded"]
    assert (conversation.end.outcome, conversation.end.epoch) == ("raised", 0)


def test_a_probe_reports_the_exception_of_a_factory() -> None:
    def broken(hp: Hp) -> None:
        raise KeyError("units")

    probed = SimulatedExecutor(Scenario(broken, plain)).probe(Probe(SpaceRef()))
    assert isinstance(probed, ProbeFailed)
    assert "KeyError: 'units'" in probed.message
    assert "Traceback" in probed.traceback


# Distributions --------------------------------------------------------------------------------------------------------


def test_draws_follow_from_seed_execution_and_epoch() -> None:
    def curve(scenario: Scenario, **options: Any) -> list[float]:
        executor = SimulatedExecutor(scenario)
        return [message.logs["val_loss"] for message in epochs(Conversation(executor).run(segment(**options)))]

    noisy = PLAIN.disturbed(noise=lambda rng: rng.gauss(0, 0.1))
    assert curve(noisy) == curve(noisy) != curve(PLAIN)
    assert curve(noisy, to_epoch=2) == curve(noisy)[:2]
    others = [
        curve(noisy),
        curve(noisy, seed=5, execution=1),
        curve(PLAIN.disturbed(noise=lambda rng: rng.gauss(0, 0.1), seed=1)),
    ]
    residuals = [[a - b for a, b in zip(other, curve(PLAIN), strict=True)] for other in others]
    assert len({value for residual in residuals for value in residual}) == 9
    assert max(abs(value) for residual in residuals for value in residual) < 0.5  # 5 sigma; the draws are fixed


def test_a_scenario_may_distinguish_executions() -> None:
    scenario = Scenario(ask, lambda run, epoch: run.execution + run.random("mine", epoch).random())
    executor = SimulatedExecutor(scenario)
    first = epochs(Conversation(executor).run(segment(execution=0, seed=1)))
    second = epochs(Conversation(executor).run(segment(execution=1, seed=2)))
    assert all(0 <= message.logs["val_loss"] < 1 for message in first)
    assert all(1 <= message.logs["val_loss"] < 2 for message in second)
    assert first[0].logs["val_loss"] != second[0].logs["val_loss"] - 1


@pytest.mark.parametrize("probability", [0.05, 0.3])
def test_failures_have_the_given_probability(probability: float) -> None:
    """The build and each epoch fail with the same probability. The draws are the same in every run of this test."""
    scenario = PLAIN.disturbed(failing=probability, dying=probability)
    fails = [scenario.fails(Run({}, seed=seed)) for seed in range(4000)]
    dies = [scenario.dies(trial, 1) for trial in range(4000)]
    for found in (fails, dies):
        numbers = [epoch for epoch in found if epoch is not None]
        assert statistics.mean(number == 0 for number in numbers) == pytest.approx(probability, abs=0.02)
        assert statistics.mean(numbers) == pytest.approx((1 - probability) / probability, rel=0.08)
    assert [scenario.dies(trial, 2) for trial in range(4000)] != dies


def test_paces_follow_the_distribution() -> None:
    scenario = Scenario(ask, plain, seconds=lambda run: 2.0).disturbed(pace=lambda rng: rng.uniform(0.5, 1.5))
    conversation = Conversation(SimulatedExecutor(scenario)).run(segment(to_epoch=400))
    seconds = [message.seconds for message in epochs(conversation)]
    assert 1.0 <= min(seconds) < 1.05
    assert 2.95 < max(seconds) <= 3.0
    assert statistics.mean(seconds) == pytest.approx(2.0, abs=0.1)


# Recorded curves ------------------------------------------------------------------------------------------------------

CURVES = {frozenset({"units": units}.items()): [units / epoch for epoch in range(1, units + 1)] for units in (2, 4, 8)}


def units(hp: Hp) -> None:
    hp.Choice("units", [2, 4, 8, 16])


def test_recorded_curves_are_reported_unchanged() -> None:
    executor = SimulatedExecutor(recorded(units, CURVES, metric="val_accuracy", seconds=lambda run: 3.0))
    conversation = Conversation(executor).run(segment(values={"units": 8}, objective=Objective("val_accuracy", "max")))
    assert conversation.curve == [{"val_accuracy": 8.0}, {"val_accuracy": 4.0}, {"val_accuracy": 8 / 3}]
    assert {message.seconds for message in epochs(conversation)} == {3.0}
    assert isinstance(conversation.messages[-2], Checkpointed)
    assert conversation.messages[-2].best_epoch == 1


def test_the_end_of_a_recorded_curve_ends_the_training() -> None:
    conversation = Conversation(SimulatedExecutor(recorded(units, CURVES))).run(
        segment(values={"units": 2}, to_epoch=9)
    )
    assert (conversation.end.outcome, conversation.end.epoch) == ("stopped_by_callback", 2)


def test_a_configuration_without_a_curve_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no curve was recorded for \{'units': 16\}"):
        Conversation(SimulatedExecutor(recorded(units, CURVES))).run(segment(values={"units": 16}))


def test_a_surrogate_is_called_once_for_each_configuration() -> None:
    import numpy as np

    called = []

    def surrogate(configuration: Any) -> Any:
        called.append(configuration)
        return np.linspace(configuration["x"], 0.0, 52)

    executor = SimulatedExecutor(recorded(ask, surrogate), 2)
    for trial in (0, 1, 0):
        conversation = Conversation(executor).run(segment(trial, values={"x": 0.5 + trial}, to_epoch=52))
    assert called == [{"x": 0.5}, {"x": 1.5}]
    assert isinstance(conversation.messages[0], Built)
    assert isinstance(conversation.messages[-1], SegmentEnded)
    assert all(type(message.logs["val_loss"]) is float for message in epochs(conversation))
