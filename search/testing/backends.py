"""The contract of a back end, as tests to run on it, and the scenarios that they search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from search.backends.base import BackEnd
from search.plugins.loading import BACKENDS
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.journal import Entry, format_line, parse_line
from search.study.records import (
    CheckpointDropped,
    Computed,
    EpochDone,
    Judged,
    ParameterSet,
    Record,
    ResultTold,
    SearchEnded,
    SegmentRequested,
    TrialEnded,
)
from search.study.study import Study
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.testing.simulation import Hp, Params, Scenario, Simulation

DECISIONS = (SegmentRequested, ParameterSet, Judged, ResultTold, TrialEnded, SearchEnded)
"""The records of decisions; all others are records of events."""


# Scenarios ------------------------------------------------------------------------------------------------------------


def ask_conditional(hp: Hp) -> None:
    """Ask for every kind of parameter, some of them only under conditions."""
    hp.Fixed("version", 1)
    hp.Int("layers", 1, 3)
    for index in range(3):
        with hp.when("layers", *range(index + 1, 4)):
            hp.Int(f"units_{index}", 8, 64, step=8)
    if hp.Choice("optimizer", ["adam", "sgd", None]) == "sgd":
        hp.Float("momentum", 0.0, 0.99)
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Int("batch", 16, 128, step=2, sampling="log")
    hp.Choice("size", [1, 2, 4], ordered=True)
    hp.Boolean("norm")


def smooth_loss(params: Params, epoch: int) -> float:
    """Return the loss after `epoch`, which depends on every value and falls from epoch to epoch."""
    rate, layers = params["rate"], params["layers"]
    assert isinstance(rate, float)
    assert isinstance(layers, int)
    floor = 0.05 * abs(math.log10(rate) + 2.5) + 0.02 * layers + 0.05 * noise(params)
    return floor + 1 / (epoch + 1)


def noise(params: Params, *labels: int | str) -> float:
    """Return a number in [0, 1) that is a function of the arguments."""
    return derive_seed(*labels, *(f"{name}={value!r}" for name, value in sorted(params.items()))) / 2**31


def epoch_seconds(params: Params) -> float:
    """Return the duration of an epoch, between 0.5 and 1.5 virtual seconds."""
    return 0.5 + noise(params, "seconds")


SMOOTH = Scenario(ask_conditional, smooth_loss, seconds=epoch_seconds)
"""No trial fails, and no process is lost."""

ROUGH = Scenario(
    ask_conditional,
    lambda params, epoch: math.nan if noise(params, "nan", epoch) < 0.02 else smooth_loss(params, epoch),
    infeasible=lambda run: run.trial % 7 == 3,
    fails=lambda params: int(40 * noise(params, "fails")) if noise(params, "fails") < 0.2 else None,
    finishes=lambda params: 1 + int(20 * noise(params, "ends")) if noise(params, "ends") < 0.3 else None,
    dies=lambda trial, attempt: (trial + attempt) % 3 if (trial + attempt) % 5 == 0 else None,
    seconds=epoch_seconds,
)
"""One trial in seven is infeasible, a fifth raise an exception, some diverge, callbacks end some, and one process in
five is lost."""


def ask_finite(hp: Hp) -> None:
    """Ask for one of seven configurations, in branches of different depths."""
    hp.Fixed("version", 1)
    kind = hp.Choice("kind", ["plain", "deep", "wide"])
    with hp.when("kind", "deep"):
        hp.Int("layers", 1, 2)
        hp.Boolean("norm")
    if kind == "wide":
        hp.Float("ratio", 0.0, 1.0, step=1.0)


FINITE_CONFIGURATIONS: list[Params] = [
    {"version": 1, "kind": "plain"},
    {"version": 1, "kind": "deep", "layers": 1, "norm": False},
    {"version": 1, "kind": "deep", "layers": 1, "norm": True},
    {"version": 1, "kind": "deep", "layers": 2, "norm": False},
    {"version": 1, "kind": "deep", "layers": 2, "norm": True},
    {"version": 1, "kind": "wide", "ratio": 0.0},
    {"version": 1, "kind": "wide", "ratio": 1.0},
]


def configuration_text(params: Params) -> str:
    """Return a text that is the same for the same values in any order."""
    return repr(sorted(params.items()))


def count_configurations(search: Simulation) -> Counter[str]:
    """Return how often each configuration was tried by a trial without a parent."""
    return Counter(configuration_text(trial.params) for trial in search.trials if trial.parent is None)


def noise_loss(params: Params, epoch: int) -> float:
    """Return a loss without any relation to the values."""
    return noise(params) + 1 / epoch


class BackEndContract:
    """The tests that every back end must pass.

    Subclass it with a name that begins with `Test`, and return a new back end from `make`. The tests run whole searches
    in a simulation, which trains nothing. Every query is asked twice, and its answers are checked: no trial is
    suggested, nor named as a parent, that may not be. The tests show that every trial ends, that no configuration of a
    finite space is tried twice except by trials with parents, that budgets and seeds are kept, and that a search which
    is resumed after any record is the same search. If the back end has `expendable`, a search with little room for
    checkpoints is tested, too. A computation made again by the next process must have the same result. All of it is
    deterministic: the draws of a random back end follow from its seed.

    If a draw takes long, set fewer `trials` and `cuts`. A back end may draw its first trials without its model. Let it
    do so for two or three trials only: some searches have no more than five, and the model is to be tested too.

    Attributes:
        trials: the most trials of a search, unless a test says otherwise.
        cuts: the number of times that a test resumes a search in the middle and runs it to its end.

    Example:
        >>> from search.testing import BackEndContract
        >>> class TestMine(BackEndContract):
        ...     def make(self, objective, seed, max_epochs, parameters):
        ...         return Mine(objective, seed, max_epochs=max_epochs)
    """

    trials = 20
    cuts = 6

    _searches: dict[tuple[Scenario, int, str], Simulation]
    """The shared searches of a subclass, by the arguments of `shared_search`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._searches = {}

    def make(self, objective: Objective, seed: int, max_epochs: int, parameters: Sequence[Parameter]) -> BackEnd:
        """Return a new back end under test. Subclasses define this.

        Args:
            objective: the metric to compare, `val_loss`; a test may minimise or maximise it.
            seed: of the study.
            max_epochs: the most epochs that one trial may be trained for.
            parameters: those that a build with default values asks for. Others follow under conditions.
        """
        raise NotImplementedError

    def simulate(self, scenario: Scenario = SMOOTH, *, trials: int | None = None, **options: Any) -> Simulation:
        """Return a search of `scenario`, not yet run, of at most `trials` trials unless `options` have `limits`."""
        max_epochs = options.setdefault("max_epochs", 9)
        options.setdefault("limits", Limits(max_trials=trials or self.trials))

        def make_backend(study: Study) -> BackEnd:
            if study.phases[-1].backend == "random":
                return RandomSearch()
            return self.make(study.objective, study.seed, max_epochs, study.parameters)

        return Simulation(scenario, make_backend, **options)

    def shared_search(self, scenario: Scenario, slots: int, direction: Any) -> Simulation:
        """Return a search with `scenario`, `slots` and `direction` that has ended: once for all tests, to be read."""
        key = scenario, slots, direction
        if key not in self._searches:
            objective = Objective("val_loss", direction)
            self._searches[key] = self.simulate(scenario, slots=slots, objective=objective).run()
        return self._searches[key]

    def spread(self, count: int) -> list[int]:
        """Return at most `cuts` numbers from 0 to `count` - 1, spread evenly."""
        return sorted({(2 * index + 1) * count // (2 * self.cuts) for index in range(self.cuts)})

    def test_it_states_the_protocol(self) -> None:
        made = self.make(Objective("val_loss", "min"), 0, 9, SMOOTH.parameters())
        assert type(made).protocol == BACKENDS.protocol

    # A search and its end -------------------------------------------------------------------------------------------

    # Every value of one parameter goes with every value of another.
    @pytest.mark.parametrize(
        ("scenario", "slots", "direction"),
        [(SMOOTH, 1, "min"), (SMOOTH, 4, "max"), (ROUGH, 1, "max"), (ROUGH, 4, "min")],
        ids=["smooth-1-min", "smooth-4-max", "rough-1-max", "rough-4-min"],
    )
    def test_a_search_and_all_its_trials_end(self, scenario: Scenario, slots: int, direction: str) -> None:
        search = self.shared_search(scenario, slots, direction)
        assert search.end is not None
        assert search.end.complete
        assert len(search.trials) > 3
        for trial in search.trials:
            assert trial.ended, f"trial {trial.number} never ended"
            assert not trial.open
            assert trial.epochs <= trial.progress.to_epoch
        completed = [trial for trial in search.trials if trial.state == "completed"]
        assert completed, "no trial had its full budget"
        for trial in completed:
            assert trial.exhausted or trial.epochs == 9

    @pytest.mark.parametrize(("slots", "direction"), [(1, "max"), (4, "min")])
    def test_failed_trials_end_and_others_go_on(self, slots: int, direction: str) -> None:
        search = self.shared_search(ROUGH, slots, direction)
        failed = [trial for trial in search.trials if trial.state == "failed"]
        assert 0 < len(failed) < len(search.trials)
        for trial in failed:
            requested = [r for r in search.records if isinstance(r, SegmentRequested) and r.trial == trial.number]
            told = [r for r in search.records if isinstance(r, ResultTold) and r.trial == trial.number]
            assert len(requested) == len(told)
            assert told[-1].outcome == "failed"

    @pytest.mark.parametrize(("slots", "direction"), [(1, "max"), (4, "min")])
    def test_infeasible_trials_end_without_an_epoch(self, slots: int, direction: str) -> None:
        search = self.shared_search(ROUGH, slots, direction)
        infeasible = [trial for trial in search.trials if trial.state == "infeasible"]
        assert infeasible
        for trial in infeasible:
            assert (trial.progress.trained, trial.objective) == (0, None)
            told = [r for r in search.records if isinstance(r, ResultTold) and r.trial == trial.number]
            assert [(r.outcome, r.score) for r in told] == [("infeasible", None)]

    @pytest.mark.parametrize(("slots", "direction"), [(1, "min"), (4, "max")])
    def test_only_active_parameters_are_drawn(self, slots: int, direction: str) -> None:
        search = self.shared_search(SMOOTH, slots, direction)
        for trial in search.trials:
            assert trial.params == search.scenario.used(trial.params)
            assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
            assert isinstance(trial.params["norm"], bool)
        # A sampler that learns may leave out one of the three.
        assert len({trial.params["optimizer"] for trial in search.trials}) > 1

    def test_slots_are_busy(self) -> None:
        search = self.shared_search(SMOOTH, 4, "max")
        busy = sum(trial.seconds for trial in search.trials)
        assert busy > 0.4 * 4 * search.study.seconds()  # the last rungs leave some of them idle

    # Seeds ----------------------------------------------------------------------------------------------------------

    def test_the_seed_determines_the_search(self) -> None:
        first, again, other = (self.simulate(seed=seed, trials=6).run().history() for seed in (1, 1, 2))
        assert first == again
        assert [trial[2] for trial in first] != [trial[2] for trial in other]

    def test_values_are_spread(self) -> None:
        trials = self.shared_search(SMOOTH, 1, "min").trials
        params = [trial.params for trial in trials if trial.parent is None]
        # A sampler may draw the same point of a continuum again.
        assert len({configuration_text(values) for values in params}) >= len(params) - 1
        assert len({values["rate"] for values in params}) > len(params) / 4

    # Resuming -------------------------------------------------------------------------------------------------------

    def test_after_any_record_the_next_decision_is_the_same(self) -> None:
        search = self.simulate(REPEATABLE, trials=6, seed=3).run()
        for kept in range(len(search.entries)):
            resumed = search.resume(kept).run(until=lambda record: isinstance(record, DECISIONS))
            assert first_decision(resumed.records[kept:]) == first_decision(search.records[kept:]), (
                f"after record {kept}"
            )

    def test_a_search_with_several_slots_resumed_after_any_record_ends(self) -> None:
        """The order of messages is not fixed, so another search may follow. No trial is lost."""
        search = self.simulate(ROUGH, trials=6, slots=3, seed=3).run()
        for kept in self.spread(len(search.entries)):
            resumed = search.resume(kept).run()
            assert all(trial.ended and not trial.open for trial in resumed.trials), f"after record {kept}"

    def test_a_search_resumed_after_any_record_is_the_same(self) -> None:
        search = self.simulate(REPEATABLE, trials=5, seed=4).run()
        for kept in self.spread(len(search.entries)):
            assert search.resume(kept).run().history() == search.history(), f"after record {kept}"

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_computation_that_is_made_again_has_the_same_result(self, slots: int) -> None:
        """The process ends during the computation. Other workers may have gone on since its start."""
        if not hasattr(self.make(Objective("val_loss", "min"), 0, 9, SMOOTH.parameters()), "computation"):
            return
        search = self.simulate(REPEATABLE, seed=4, slots=slots, computing=3.0).run()
        ends = [i for i, record in enumerate(search.records) if isinstance(record, Computed)]
        assert ends, "nothing was computed"
        for number in self.spread(len(ends)):
            kept = ends[number]
            resumed = search.resume(kept).run(until=lambda record: isinstance(record, Computed))
            assert next(r for r in resumed.records[kept:] if isinstance(r, Computed)) == search.records[kept]
            if slots == 1:
                for cut in (kept - 1, kept, kept + 1):
                    assert search.resume(cut).run().history() == search.history(), f"after record {cut}"

    def test_attributes_survive_the_journal(self) -> None:
        search = self.simulate(REPEATABLE, trials=6, seed=5).run()
        lines = [format_line(entry.record, entry.time) for entry in search.entries]
        entries = [Entry(*parse_line(line), 0) for line in lines]
        assert [entry.record for entry in entries] == search.records
        for kept in self.spread(len(entries)):
            resumed = self.simulate(REPEATABLE, trials=6, seed=5, entries=entries[:kept]).run()
            assert resumed.history() == search.history()

    def test_a_checkpoint_may_be_ahead_of_the_journal(self) -> None:
        search = self.simulate(REPEATABLE, trials=min(12, self.trials), seed=4, checkpoint_every=100).run()
        last_epochs = [
            i for i, record in enumerate(search.records) if isinstance(record, EpochDone) and is_last_epoch(search, i)
        ]
        assert last_epochs
        for index, number in enumerate(self.spread(len(last_epochs))):
            kept = last_epochs[number]
            record = search.records[kept]
            assert isinstance(record, EpochDone)
            known = kept + index % 2  # the journal may hold the epoch's record, or lack it
            resumed = search.resume(known, disk={record.trial: record.epoch}).run()
            assert resumed.history() == search.history(), f"after record {known}"
            assert resumed.study.trained == resumed.study.epochs, "an epoch was trained twice"

    def test_a_search_stopped_by_the_user_and_resumed_is_the_same(self) -> None:
        search = self.simulate(REPEATABLE, trials=5, seed=4).run()
        for messages in (0, 5, 40):
            stopped = self.simulate(REPEATABLE, trials=5, seed=4).run(stop_after=messages)
            assert stopped.end is not None
            assert stopped.end.exit_code == 130
            assert not stopped.end.complete
            assert stopped.resume().run().history() == search.history()

    def test_a_new_phase_learns_from_another_back_end(self) -> None:
        first = Simulation(ROUGH, lambda _: RandomSearch(), backend="random", limits=Limits(max_trials=8), slots=2)
        before = first.run(stop_after=130)
        assert {trial.state for trial in before.trials} >= {"failed", "paused", "completed"}
        for cut in (0, 11):
            second = self.simulate(
                ROUGH,
                entries=before.entries[: len(before.entries) - cut],
                backend="tested",
                trials=len(before.trials) + 5,
            )
            second.run()
            assert second.end is not None
            assert second.end.complete
            new = [trial for trial in second.trials if trial.phase == 1]
            assert len(new) >= 4
            assert all(trial.ended for trial in second.trials)
            kept = len(second.entries) - 30
            assert second.resume(kept).run().history() == second.history()

    # The disk -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("slots", [1, 4])
    def test_a_trial_is_the_same_if_its_checkpoint_was_dropped(self, slots: int) -> None:
        """A back end may choose other trials then, as one of these costs more."""
        if not hasattr(self.make(Objective("val_loss", "min"), 0, 9, SMOOTH.parameters()), "expendable"):
            pytest.skip("it does not rank its paused trials")
        scenario = replace(REPEATABLE, bytes=lambda run: 1000)
        limits = Limits(max_trials=self.trials, checkpoint_bytes=2000)
        search = self.simulate(scenario, slots=slots, seed=4, limits=limits).run()
        assert any(isinstance(record, CheckpointDropped) for record in search.records)
        for trial in search.trials:
            assert trial.ended
            assert [epoch.logs["val_loss"] for epoch in trial.curve] == [
                smooth_loss(trial.params, epoch) for epoch in range(1, trial.epochs + 1)
            ]
        for kept in self.spread(len(search.entries)) if slots == 1 else ():
            assert search.resume(kept).run().history() == search.history(), f"after record {kept}"

    # Budgets --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("slots", [1, 4])
    def test_max_trials_are_tried_and_no_more(self, slots: int) -> None:
        search = self.simulate(slots=slots, trials=3).run()
        assert len(search.trials) == 3
        assert all(trial.ended for trial in search.trials)
        assert search.end is not None
        assert search.end.exit_code == 0

    @pytest.mark.parametrize(("scenario", "slots"), [(SMOOTH, 1), (ROUGH, 4)], ids=["smooth-1", "rough-4"])
    def test_max_total_epochs_are_trained_and_no_more(self, scenario: Scenario, slots: int) -> None:
        search = self.simulate(scenario, slots=slots, limits=Limits(max_total_epochs=25)).run()
        assert search.study.epochs == 25
        more = search.resume(limits=Limits(max_total_epochs=32)).run()
        assert more.study.epochs == 32
        assert [trial.params for trial in more.trials][: len(search.trials)] == [t.params for t in search.trials]

    def test_a_larger_budget_continues_the_same_search(self) -> None:
        whole = self.simulate(limits=Limits(max_total_epochs=30)).run()
        for first in (7, 20):
            cut = self.simulate(limits=Limits(max_total_epochs=first)).run()
            assert cut.resume(limits=Limits(max_total_epochs=30)).run().history() == whole.history()

    def test_a_timeout_ends_the_search(self) -> None:
        search = self.simulate(limits=Limits(timeout=20)).run()
        assert search.end is not None
        assert 20 <= search.study.seconds() < 22  # an epoch takes less than 1.5
        assert not search.end.complete
        later = search.resume(limits=Limits(timeout=30)).run()
        assert 30 <= later.study.seconds() < 32

    @pytest.mark.parametrize(("slots", "direction"), [(1, "min"), (4, "max")])
    def test_a_target_ends_the_search(self, slots: int, direction: Any) -> None:
        best = self.shared_search(SMOOTH, slots, direction).study.best
        assert best is not None
        assert best.objective is not None
        limits = Limits(target=best.objective, max_trials=self.trials)
        search = self.simulate(slots=slots, objective=Objective("val_loss", direction), limits=limits).run()
        assert search.end is not None
        assert "target" in search.end.reason
        assert search.study.best is not None
        assert search.study.best.objective == best.objective

    # A finite space -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("slots", "seed"), [(1, 0), (4, 1)])
    def test_each_configuration_is_tried_once(self, slots: int, seed: int) -> None:
        search = self.simulate(
            Scenario(ask_finite, noise_loss, seconds=epoch_seconds), slots=slots, seed=seed, trials=50
        ).run()
        assert count_configurations(search) == Counter(map(configuration_text, FINITE_CONFIGURATIONS))
        assert search.end is not None
        assert search.end.complete
        assert all(trial.ended for trial in search.trials)

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_finite_space_is_resumed_with_any_number_of_slots(self, slots: int) -> None:
        search = self.simulate(Scenario(ask_finite, noise_loss, seconds=epoch_seconds), slots=4, trials=50).run()
        for kept in self.spread(len(search.entries)):
            resumed = search.resume(kept, slots=slots).run()
            assert count_configurations(resumed) == Counter(map(configuration_text, FINITE_CONFIGURATIONS)), (
                f"after record {kept}"
            )

    @pytest.mark.parametrize("slots", [1, 4])
    def test_a_space_may_have_one_configuration(self, slots: int) -> None:
        search = self.simulate(Scenario(lambda hp: hp.Fixed("x", 1), noise_loss), slots=slots).run()
        assert [trial.params for trial in search.trials] == [{"x": 1}]


REPEATABLE = Scenario(
    ask_conditional,
    smooth_loss,
    fails=lambda params: 2 if noise(params, "fails") < 0.15 else None,
    finishes=lambda params: 3 if noise(params, "ends") < 0.2 else None,
    seconds=epoch_seconds,
)
"""All that happens depends on the values alone, so that a killed search can be the same as one that was not."""


def first_decision(records: Sequence[Record]) -> Record | None:
    """Return the first decision among `records`."""
    return next((record for record in records if isinstance(record, DECISIONS)), None)


def is_last_epoch(search: Simulation, index: int) -> bool:
    """Return whether the epoch of record `index` was the last of its suggestion."""
    record = search.records[index]
    assert isinstance(record, EpochDone)
    requested = [r for r in search.records[:index] if isinstance(r, SegmentRequested) and r.trial == record.trial]
    return record.epoch == requested[-1].to_epoch


class RandomSearch:
    """A minimal back end: it draws at random, and trains every trial for nine epochs."""

    protocol = 1

    def __init__(self) -> None:
        self._running: set[int] = set()

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        if new:
            return Suggestion(None, 0, 9)
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: object = ()) -> Draw:
        return Draw(parameter.domain.at(derive_seed(trial, parameter.key) / 2**31))

    def judge(self, trial: int, epoch: int) -> Decision:
        return Decision()

    def apply(self, record: Record) -> Sequence[int]:
        if isinstance(record, SegmentRequested):
            self._running.add(record.trial)
        if isinstance(record, ResultTold) and record.trial in self._running:
            self._running.discard(record.trial)
            return (record.trial,)
        return ()

    def learn(self, trials: object) -> None:
        pass
