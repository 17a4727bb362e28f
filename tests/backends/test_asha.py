"""ASHA against its contract, and against algorithm 2 of the paper as it stands there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.backends.asha import Asha
from search.backends.ladder import ladder_epochs
from search.scheduler.limits import Limits
from search.study.records import ResultTold, SegmentRequested, SegmentStarted, TrialEnded
from search.study.trial import Done, Objective, Suggestion, Wait
from search.testing import BackEndContract, Scenario, Simulation
from search.testing.backends import epoch_seconds, noise

# The same examples on every machine.
fixed_examples = settings(derandomize=True, deadline=None, max_examples=20)


class TestContract(BackEndContract):
    sampler = "random"

    def make(self, objective, seed, max_epochs, parameters):
        return Asha(objective, seed, max_epochs=max_epochs, sampler=self.sampler, parameters=parameters)


@pytest.mark.slow
class TestTPE(TestContract):
    sampler = "tpe:n_startup_trials=3"


def ask_x(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)


def unrelated_losses(params: Any, epoch: int) -> float:
    """Return a loss that has nothing to do with those of other epochs."""
    return noise(params, epoch)


UNRELATED = Scenario(ask_x, unrelated_losses, seconds=epoch_seconds)

UNSTEADY = Scenario(
    ask_x,
    unrelated_losses,
    infeasible=lambda run: run.trial % 11 == 3,
    fails=lambda params: int(9 * noise(params, "when")) if noise(params, "fails") < 0.15 else None,
    finishes=lambda params: 1 + int(9 * noise(params, "at")) if noise(params, "ends") < 0.2 else None,
    seconds=epoch_seconds,
)


class Reference:
    """Algorithm 2 line by line: rungs are plain dictionaries, and each query sorts all of them."""

    def __init__(self, max_epochs: int, factor: int) -> None:
        self.epochs = ladder_epochs(max_epochs, factor)
        self.factor = factor
        self.rungs: list[dict[int, float]] = [{} for _ in self.epochs]
        self.promoted: list[set[int]] = [set() for _ in self.epochs]
        self.lost: set[int] = set()

    def get_job(self) -> tuple[int | None, int]:
        """Return (trial, rung), with None for a new trial."""
        for k in range(len(self.epochs) - 2, -1, -1):
            rung = self.rungs[k]
            candidates = sorted(rung, key=lambda trial: (rung[trial], trial))[: len(rung) // self.factor]
            promotable = [trial for trial in candidates if trial not in self.promoted[k] | self.lost]
            if promotable:
                return promotable[0], k + 1
        return None, 0


class Compared(Asha):
    """A back end whose every answer is that of the reference, as long as there may be new trials."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reference = Reference(options["max_epochs"], options["factor"])
        self.rung_of: dict[int, int] = {}
        self.promotions = 0

    def ask(self, *, new, child):
        answer = super().ask(new=new, child=child)
        job = self.reference.get_job()
        if isinstance(answer, Suggestion) and (new or job[0] is not None):
            assert (answer.trial, answer.rung) == job
        else:
            assert not new
            assert job[0] is None
        return answer

    def apply(self, record):
        if isinstance(record, SegmentRequested):
            self.rung_of[record.trial] = record.rung
            if record.rung:
                self.reference.promoted[record.rung - 1].add(record.trial)
                self.promotions += 1
        if isinstance(record, ResultTold):
            rung = self.reference.rungs[self.rung_of[record.trial]]
            if record.score is None:
                self.reference.lost.add(record.trial)
            if record.outcome != "infeasible":
                rung[record.trial] = self._objective.cost(record.score)
        return super().apply(record)


def simulate(scenario: Scenario = UNRELATED, **options: Any) -> Simulation:
    max_epochs = options.setdefault("max_epochs", 9)
    options.setdefault("limits", Limits(max_trials=20, max_consecutive_failures=100))
    return Simulation(scenario, lambda study: Asha(study.objective, study.seed, max_epochs=max_epochs), **options)


def epochs_of(search: Simulation) -> Counter[int]:
    return Counter(trial.epochs for trial in search.trials)


@fixed_examples
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 5, 16]),
    st.integers(0, 100),
    st.sampled_from([(9, 3), (27, 3), (20, 2), (1, 3)]),
    st.sampled_from([UNRELATED, UNSTEADY]),
)
def test_its_jobs_are_those_of_algorithm_2(seed, slots, order, size, scenario) -> None:
    made: list[Compared] = []

    def make(study: Any) -> Compared:
        made.append(Compared(study.objective, study.seed, max_epochs=size[0], factor=size[1]))
        return made[-1]

    limits = Limits(max_trials=70, max_consecutive_failures=100)
    search = Simulation(scenario, make, seed=seed, slots=slots, order=order, max_epochs=size[0], limits=limits).run()
    assert made[-1].promotions > 15 or size[0] == 1
    assert len(search.trials) == 70
    assert all(trial.ended for trial in search.trials)
    assert any(trial.state == "completed" for trial in search.trials)


def test_sixteen_workers_never_wait_while_there_may_be_new_trials() -> None:
    class CheckedForIdleSlots(Simulation):
        def check(self, records):
            super().check(records)
            assert self.executor.busy == 16 or len(self.trials) == 60 or self.end is not None

    search = CheckedForIdleSlots(
        UNRELATED,
        lambda study: Asha(study.objective, study.seed, max_epochs=9),
        slots=16,
        max_epochs=9,
        limits=Limits(max_trials=60),
    ).run()
    assert len(search.trials) == 60


def test_a_later_result_lets_a_paused_trial_go_on() -> None:
    """The second of three goes on when three more trials are worse."""
    back_end = Asha(Objective("val_accuracy", "max"), 0, max_epochs=9)

    def answer(trial: int, value: float) -> int | None:
        suggestion = back_end.ask(new=True, child=True)
        first, last, rung = suggestion.from_epoch, suggestion.to_epoch, suggestion.rung
        back_end.apply(SegmentRequested(trial, first, last, 0, rung, False, 0))
        back_end.apply(ResultTold(trial, last, value, "reached"))
        return suggestion.trial

    assert [answer(0, 0.8), answer(1, 0.9), answer(2, 0.7)] == [None] * 3
    assert answer(1, 0.95) == 1
    assert [answer(3, 0.6), answer(4, 0.6), answer(5, 0.6)] == [None] * 3
    assert answer(0, 0.8) == 0
    assert answer(6, 0.6) is None


def test_a_promoted_trial_goes_on_from_its_last_epoch() -> None:
    search = simulate(slots=4).run()
    assert search.study.trained == search.study.epochs
    assert {1, 3, 9} == set(epochs_of(search))
    for trial in search.trials:
        assert [epoch.epoch for epoch in trial.curve] == list(range(1, trial.epochs + 1))


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("trials", [1, 4])
def test_few_trials_give_one_full_training(trials: int, slots: int) -> None:
    search = simulate(slots=slots, max_epochs=27, limits=Limits(max_trials=trials)).run()
    assert epochs_of(search)[27] == 1
    assert sorted(trial.state for trial in search.trials) == ["completed"] + ["stopped"] * (trials - 1)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_space_of_eight_points_gives_one_full_training(slots: int) -> None:
    def ask(hp: Any) -> None:
        hp.Int("a", 1, 4)
        hp.Boolean("b")

    search = simulate(Scenario(ask, unrelated_losses, seconds=epoch_seconds), max_epochs=27, slots=slots).run()
    assert len({tuple(trial.params.items()) for trial in search.trials}) == len(search.trials) == 8
    assert search.end is not None
    assert search.end.complete
    assert epochs_of(search)[27] == 1


def test_the_best_of_the_highest_rung_goes_on_at_the_end() -> None:
    """With five trials one is promoted, and with it alone at its rung nothing more may be."""
    search = simulate(max_epochs=9, limits=Limits(max_trials=5)).run()
    last = [record for record in search.records if isinstance(record, SegmentRequested)][-1]
    assert (last.from_epoch, last.to_epoch) == (3, 9)


def test_if_the_last_training_fails_the_next_best_trial_goes_on() -> None:
    scenario = Scenario(ask_x, unrelated_losses, fails=lambda params: 5 if noise(params, "fails") < 0.6 else None)
    search = simulate(scenario, limits=Limits(max_trials=4, max_consecutive_failures=100)).run()
    states = Counter(trial.state for trial in search.trials)
    assert states["failed"] >= 1
    assert states["completed"] == 1


def test_failed_trials_are_the_worst() -> None:
    """Failed trials count at the rung: with half of them failed, two of three others are promoted."""
    scenario = Scenario(ask_x, unrelated_losses, fails=lambda params: 1 if noise(params, "fails") < 0.5 else None)
    search = simulate(scenario, limits=Limits(max_trials=30, max_consecutive_failures=100)).run()
    failed = sum(trial.state == "failed" for trial in search.trials)
    promoted = {r.trial for r in search.records if isinstance(r, SegmentRequested) and r.rung == 1}
    assert failed > 8
    assert len(promoted) >= 10 > (30 - failed) // 3


def test_a_trial_stopped_by_its_callback_is_promoted_without_training() -> None:
    scenario = Scenario(
        ask_x,
        lambda params, epoch: params["x"] + 1 / epoch if not is_stopped(params) else params["x"] - 1,
        finishes=lambda params: 1 if is_stopped(params) else None,
    )
    search = simulate(scenario).run()
    stopped = [trial for trial in search.trials if trial.exhausted]
    best = min(stopped, key=lambda trial: trial.objective)
    assert (best.state, best.epochs, best.progress.trained) == ("completed", 1, 1)
    assert sum(isinstance(record, SegmentStarted) and record.trial == best.number for record in search.records) == 1
    told = [r.outcome for r in search.records if isinstance(r, ResultTold) and r.trial == best.number]
    assert told == ["stopped_by_callback"] * 3


def is_stopped(params: Any) -> bool:
    """Return whether a callback ends the training."""
    return noise(params, "ends") < 0.3


def test_trials_stay_paused_until_the_search_has_nothing_left() -> None:
    cut = simulate(limits=Limits(max_total_epochs=30)).run()
    assert {trial.state for trial in cut.trials} == {"paused", "completed"}
    whole = simulate(limits=Limits(max_trials=20)).run()
    ended = [n for n, record in enumerate(whole.records) if isinstance(record, TrialEnded)]
    last_result = max(n for n, record in enumerate(whole.records) if isinstance(record, ResultTold))
    assert sum(n > last_result for n in ended) > 12
    for kept in range(ended[-8], len(whole.entries)):
        assert whole.resume(kept).run().history() == whole.history()


@pytest.mark.parametrize(("slots", "seed"), [(1, 1), (1, 2), (16, 3)])
def test_more_trials_may_follow_when_the_search_has_ended(slots: int, seed: int) -> None:
    """Trials that have ended are among the best of the larger search, and are not asked for again."""
    first = simulate(slots=slots, seed=seed, limits=Limits(max_trials=12)).run()
    more = first.resume(limits=Limits(max_trials=40)).run()
    assert len(more.trials) == 40
    assert all(trial.ended for trial in more.trials)
    later = [r.trial for r in more.records[len(first.records) :] if isinstance(r, SegmentRequested)]
    assert min(later) == 12
    assert any(trial.epochs == 9 for trial in more.trials[12:])


def test_it_waits_only_for_trials_that_run() -> None:
    back_end = Asha(Objective("val_loss", "min"), 0, max_epochs=9)
    assert isinstance(back_end.ask(new=False, child=False), Done)
    back_end.apply(SegmentRequested(0, 0, 1, 0, 0, False, 0))
    assert isinstance(back_end.ask(new=False, child=False), Wait)
    assert back_end.ask(new=True, child=True) == Suggestion(None, 0, 1, bracket=0, rung=0)
    assert back_end.apply(ResultTold(0, 1, 0.5, "reached")) == ()
    assert back_end.ask(new=True, child=True) == Suggestion(None, 0, 1, bracket=0, rung=0)
    assert back_end.ask(new=False, child=False) == Suggestion(0, 1, 3, bracket=0, rung=1)


def test_the_worst_at_the_lowest_rung_are_the_least_likely_to_go_on() -> None:
    back_end = Asha(Objective("val_loss", "min"), 0, max_epochs=9)
    for trial, score in enumerate((0.5, 0.2, 0.9, 0.4)):
        back_end.apply(SegmentRequested(trial, 0, 1, 0, 0, False, 0))
        back_end.apply(ResultTold(trial, 1, score, "reached"))
    assert back_end.expendable([3, 2, 1, 0]) == [2, 0, 3, 1]
    for trial, score in ((1, 0.15), (2, 0.8)):
        back_end.apply(SegmentRequested(trial, 1, 3, 0, 1, False, 0))
        back_end.apply(ResultTold(trial, 3, score, "reached"))
    assert back_end.expendable({0, 1, 2, 3}) == [0, 3, 2, 1]
    assert back_end.expendable({1, 3}) == [3, 1]
