"""The contract kit run on a back end with computations, and searches that wait for them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from averaging import Averaging

from search.backends.base import BackEnd
from search.scheduler.events import ComputationEnded
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.records import Computed, ResultTold, SegmentRequested
from search.study.trial import Computation, Done, Objective, Suggestion, Wait
from search.testing import BackEndContract, Simulation
from search.testing.backends import REPEATABLE, ROUGH, SMOOTH


class TestAveraging(BackEndContract):
    def make(self, objective: Objective, seed: int, max_epochs: int, parameters: Sequence[Parameter]) -> BackEnd:
        return Averaging(objective, seed, max_epochs=max_epochs)


def simulate(made: type[Averaging] = Averaging, scenario: Any = REPEATABLE, **options: Any) -> Simulation:
    options = {"limits": Limits(max_trials=8), "max_epochs": 3, **options}
    return Simulation(
        scenario, lambda study: made(study.objective, study.seed, max_epochs=options["max_epochs"]), **options
    )


def of_kind(search: Simulation, *kinds: type) -> list[Any]:
    return [record for record in search.records if isinstance(record, kinds)]


# With one worker ------------------------------------------------------------------------------------------------------


def test_a_worker_waits_for_a_result_and_the_next_trial_has_it() -> None:
    search = simulate(scenario=SMOOTH).run()
    assert search.end is not None
    assert search.end.complete
    scores = [record.score for record in of_kind(search, ResultTold)]
    means = [statistics.fmean(scores[:3]), statistics.fmean(scores[:6])]
    assert of_kind(search, Computed) == [Computed(0, {"mean": means[0]}), Computed(1, {"mean": means[1]})]
    given = [record.attributes["mean"] for record in of_kind(search, SegmentRequested)]
    assert given == [None] * 3 + [means[0]] * 3 + [means[1]] * 2
    # Nothing else happens in the meantime.
    for i, entry in enumerate(search.entries):
        if isinstance(entry.record, Computed):
            assert entry.time == pytest.approx(search.entries[i - 1].time + 0.3)


def test_nothing_is_recorded_after_a_stop_that_ends_the_search() -> None:
    """The user stops a search that waits for its computation, and the two come in the same poll."""
    search = simulate(scenario=SMOOTH)

    def stop_when_it_waits() -> None:
        if search.records and not search.executor.busy:
            search.stop()

    search.run(before_message=stop_when_it_waits)
    assert search.end is not None
    assert search.end.reason == "stopped by the user"
    assert search.records.index(search.end) == len(search.records) - 1


def test_the_mean_determines_the_draws() -> None:
    class Shifted(Averaging):
        def computation(self) -> Computation | None:
            found = super().computation()
            return found and Computation(found.number, lambda: {"mean": found.run()["mean"] + 1e-16})

    one, other = simulate().run(), simulate(Shifted).run()
    assert [trial.params for trial in one.trials][:3] == [trial.params for trial in other.trials][:3]
    assert [trial.params for trial in one.trials][3:] != [trial.params for trial in other.trials][3:]


def test_a_search_cut_around_a_computation_is_the_same() -> None:
    """Cut before it is due, after its start, and after its record."""
    search = simulate().run()
    ends = [i for i, record in enumerate(search.records) if isinstance(record, Computed)]
    assert len(ends) == 2
    for end in ends:
        for kept in range(end - 3, end + 3):
            resumed = search.resume(kept).run()
            assert resumed.history() == search.history(), f"after record {kept}"
            assert of_kind(resumed, Computed) == of_kind(search, Computed)


def test_a_new_phase_begins_its_own_computations() -> None:
    first = simulate().run(until=lambda record: isinstance(record, ResultTold) and record.trial == 2)
    second = first.resume(backend="another").run()
    assert [record.number for record in of_kind(second, Computed)] == [0]


# With several workers -------------------------------------------------------------------------------------------------


def test_other_workers_go_on_during_a_computation() -> None:
    search = simulate(scenario=ROUGH, slots=3, limits=Limits(max_trials=20), computing=4.0).run()
    # The search ends without the last one, number 5.
    assert [record.number for record in of_kind(search, Computed)] == list(range(5))
    ends = [entry.time for entry in search.entries if isinstance(entry.record, Computed)]
    others = [entry.time for entry in search.entries if not isinstance(entry.record, Computed)]
    assert any(end - 4.0 < time < end for end in ends for time in others)


def test_a_budget_does_not_wait_for_a_computation() -> None:
    search = simulate(scenario=SMOOTH, limits=Limits(max_total_epochs=9), computing=1000.0).run()
    assert search.end is not None
    assert search.end.reason == "the budget of 9 epochs is trained"
    assert not of_kind(search, Computed)
    assert search.study.seconds() < 100.0


def test_the_user_need_not_wait_for_a_computation() -> None:
    search = simulate(scenario=SMOOTH, computing=1000.0)
    search.run(before_message=lambda: search.stop() if len(of_kind(search, ResultTold)) == 3 else None)
    assert search.end is not None
    assert search.end.exit_code == 130
    resumed = search.resume(computing=0.3).run()
    assert resumed.history() == simulate(scenario=SMOOTH).run().history()


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_computation_that_fails_is_told_and_the_search_goes_on() -> None:
    class Failing(Averaging):
        def computation(self) -> Computation | None:
            found = super().computation()
            return found and (Computation(0, lambda: {"mean": {1}}) if found.number == 0 else found)

    search = simulate(Failing).run()
    first, second = of_kind(search, Computed)
    assert (first.result, second.error) == ({}, None)
    assert first.error == "it returned what JSON cannot hold: Object of type set is not JSON serializable"
    assert search.end is not None
    assert search.end.complete
    assert len(search.trials) == 8


def test_a_back_end_that_only_waits_for_nothing_ends_the_search() -> None:
    class Waiting(Averaging):
        def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
            return Wait()

    search = simulate(Waiting)
    with pytest.raises(AssertionError, match="it waits, and nothing runs"):
        search.run()
    search = simulate()
    search.controller._make_backend = lambda _: Waiting(search.study.objective, 0, max_epochs=3)
    assert search.run().end is not None
    assert search.end is not None
    assert search.end.reason == "the back end waits for nothing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda number, asked, results: number + asked, "a query changed something"),
        (lambda number, asked, results: 2 * number, "do not rise by one"),
        (lambda number, asked, results: results, "a computation was replaced before its record"),
    ],
)
def test_the_kit_finds_numbers_that_break_the_rules(change: Any, words: str) -> None:
    class Wrong(Averaging):
        asked = 0

        def computation(self) -> Computation | None:
            self.asked += 1
            found = super().computation()
            return found and Computation(change(found.number, self.asked, len(self._scores)), found.run)

    with pytest.raises(AssertionError, match=words):
        simulate(Wrong, slots=3, computing=4.0).run()


def test_a_result_that_comes_twice_is_recorded_once() -> None:
    search = simulate().run(until=lambda record: isinstance(record, Computed))
    reaction = search.controller.handle(ComputationEnded(0, {"mean": 1.0}), 1e9)
    assert not [record for record in reaction.records if isinstance(record, Computed)]
