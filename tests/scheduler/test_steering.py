"""Steering: what the user's requests change in a search, also after its process was killed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from search.backends.asha import Asha
from search.backends.base import BackEnd
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.scheduler.limits import Limits
from search.space.domain import Value
from search.study.records import (
    ConfigurationAdded,
    EpochDone,
    LimitsChanged,
    Record,
    ResultTold,
    SearchContinued,
    SearchPaused,
    SegmentRequested,
    SegmentStarted,
    TrialStopRequested,
)
from search.study.requests import (
    Action,
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    Reply,
    Request,
    StopTrial,
)
from search.study.study import Study
from search.study.trials import Trial
from search.testing import Hp, Scenario, Simulation
from search.testing.backends import epoch_seconds, noise_loss

When = Callable[[Simulation], bool]


def ask(hp: Hp) -> None:
    hp.Float("rate", 0.0, 1.0)
    if hp.Choice("kind", ["plain", "deep"]) == "deep":
        hp.Int("layers", 1, 3)


SPACE = Scenario(ask, noise_loss, seconds=epoch_seconds)
FINITE = Scenario(lambda hp: (hp.Int("a", 1, 3), hp.Boolean("b")), noise_loss, seconds=epoch_seconds)
RISING = Scenario(ask, lambda run, epoch: run.trial / 100 + 1 / epoch, seconds=lambda run: 1.0)
"""Trial 0 is the best everywhere, and each epoch is better than the one before."""


def hyperband(study: Study) -> BackEnd:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def asha(study: Study) -> BackEnd:
    return Asha(study.objective, study.seed, max_epochs=9)


def tpe(study: Study) -> BackEnd:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="tpe:n_startup_trials=2", pruner="median")


def simulate(make: Callable[[Study], BackEnd] = hyperband, scenario: Scenario = SPACE, **options: Any) -> Simulation:
    return Simulation(scenario, make, **options)


def steer(search: Simulation, *steps: tuple[When, Action], **options: Any) -> list[Reply]:
    """Run `search`, and send each request at the first message when its condition holds. Return the replies."""
    waiting = list(steps)

    def before_message() -> None:
        if waiting and waiting[0][0](search):
            search.steer(waiting.pop(0)[1])

    search.run(before_message=before_message, **options)
    assert not waiting, "a request was never sent"
    return list(search.replies.values())


def trials(count: int) -> When:
    return lambda search: len(search.study.trials) >= count


def epochs(count: int) -> When:
    return lambda search: search.study.epochs >= count


def at_once(search: Simulation) -> bool:
    return True


def is_idle(search: Simulation) -> bool:
    return search.executor.busy == 0


def later(search: Simulation) -> bool:
    """Return whether a minute has passed, in which nothing runs."""
    return search.executor.busy == 0 and search.executor.now() > search.entries[-1].time + 60


def kinds(search: Simulation, kind: type[Any]) -> list[Any]:
    return [record for record in search.records if isinstance(record, kind)]


def place(search: Simulation, kind: type[Record]) -> int:
    """Return the place of the first record of a kind."""
    return next(i for i, record in enumerate(search.records) if isinstance(record, kind))


def refused(reply: Reply) -> str:
    assert not reply.accepted
    return reply.text


# Adding configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hyperband, asha, tpe])
def test_an_added_configuration_is_tried_next_after_those_that_wait(make: Callable[[Study], BackEnd]) -> None:
    first = [{"rate": 0.1, "kind": "deep", "layers": 3}, {"rate": 0.2}, {"rate": 0.3}, {"rate": 0.4}]
    search = simulate(make, try_first=first, limits=Limits(max_trials=8))
    added: dict[str, Value] = {"rate": 0.5, "kind": "deep", "layers": 2}
    (reply,) = steer(search, (trials(2), AddConfigurations((added, {"rate": 0.6}))))
    assert reply == Reply(True, "added 2 configurations: the next new trials have them, after 2 that wait")
    assert [trial.values.initial for trial in search.trials[:7]] == [*first, added, {"rate": 0.6}, {}]
    assert search.trials[4].params == added
    assert len(search.trials) == 8


def test_an_added_configuration_is_tried_once_though_the_process_dies_anywhere() -> None:
    search = simulate(limits=Limits(max_trials=6))
    steer(search, (trials(2), AddConfigurations(({"rate": 0.5},))))
    begin = place(search, ConfigurationAdded) + 1
    for kept in range(begin, len(search.entries), 4):
        again = search.resume(kept).run()
        assert [trial.values.initial for trial in again.trials].count({"rate": 0.5}) == 1, f"after record {kept}"
        assert again.history() == search.history()


def test_an_added_configuration_goes_beyond_the_trials() -> None:
    search = simulate(tpe, limits=Limits(max_trials=3), try_first=[{"rate": n / 9} for n in range(5)])
    (reply,) = steer(search, (trials(3), AddConfigurations(({"rate": 0.95},))))
    assert "beyond the 3 trials of --max-trials" in reply.text
    assert [trial.values.initial.get("rate") for trial in search.trials] == [0, 1 / 9, 2 / 9, 0.95]
    assert search.end is not None
    assert search.end.reason == "the budget of 3 trials is tried"


def drawn(search: Simulation) -> bool:
    """Return whether Hyperband's plan is drawn: all 17 trials have begun."""
    return len(search.study.trials) == 17


@pytest.mark.parametrize(("sampler", "step"), [("random", 10), ("tpe:n_startup_trials=2", 150)])
def test_a_back_end_that_begins_no_more_has_an_extra_trial_and_learns_from_it(sampler: str, step: int) -> None:
    def make(study: Study) -> BackEnd:
        return Hyperband(study.objective, study.seed, max_epochs=9, sampler=sampler)

    plain = simulate(make).run()
    assert len(plain.trials) == 17
    search = simulate(make)
    (reply,) = steer(search, (drawn, AddConfigurations(({"rate": 0.5},))))
    assert "an extra trial does, and is trained to the last epoch" in reply.text
    extra = search.trials[-1]
    assert (len(search.trials), extra.extra, extra.params["rate"]) == (18, True, 0.5)
    assert (extra.epochs, extra.state, extra.progress.bracket) == (9, "completed", None)
    assert search.history()[:17] == plain.history()
    for kept in range(place(search, ConfigurationAdded) + 1, len(search.entries), step):
        assert search.resume(kept).run().history() == search.history(), f"after record {kept}"
    onward = search.resume(backend="other").run()  # a back end of a later phase learns of it, too
    assert onward.trials[17].state == "completed"


def test_an_extra_trial_may_fail() -> None:
    search = simulate(scenario=replace(SPACE, fails=lambda run: 1 if run.trial == 17 else None))
    steer(search, (drawn, AddConfigurations(({"rate": 0.5},))))
    assert search.trials[17].state == "failed"
    assert search.end is not None
    assert search.end.complete


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rat": 0.5}, "no build and no trial has asked for 'rat' so far: leave it out. Did you mean 'rate'?"),
        ({"rate": 2}, "rate cannot be 2: it takes Float(0..1)"),
        ({"kind": "wide"}, "kind cannot be 'wide': it takes"),
        ({"rate": 0.25}, '{"rate": 0.25} was given before: a trial has tried it, or will'),
    ],
)
def test_values_that_cannot_be_tried_are_refused(values: dict[str, Any], words: str) -> None:
    search = simulate(limits=Limits(max_trials=4), try_first=[{"rate": 0.25}])
    (reply,) = steer(search, (trials(3), AddConfigurations((values,))))
    assert words in refused(reply)
    assert not kinds(search, ConfigurationAdded)


def test_a_configuration_is_not_tried_twice() -> None:
    search = simulate(limits=Limits(max_trials=4), scenario=FINITE)

    steps: list[Reply] = []

    def before_message() -> None:
        if len(search.study.trials) == 2 and not steps:
            steps.append(Reply(True, ""))
            search.steer(AddConfigurations((dict(search.trials[0].params),)))
            search.steer(AddConfigurations(({"b": True}, {"b": True})))

    search.run(before_message=before_message)
    known, twice = (refused(reply) for reply in search.replies.values())
    assert known.startswith("trial 0 has these values, and is ")
    assert twice == '{"b": true} is given twice: give it once'


def test_what_no_search_would_try_is_refused() -> None:
    whole = simulate(tpe, scenario=FINITE, slots=2)
    (reply,) = steer(
        whole,
        (lambda search: search.controller.questions.configurations.exhausted, AddConfigurations(({"a": 1},))),
    )
    assert "every configuration of the space was tried: there is no new one to add" in refused(reply)
    spent = simulate(tpe, limits=Limits(max_total_epochs=6), slots=1)
    (reply,) = steer(spent, (epochs(2), AddConfigurations(({"rate": 0.5},))))
    assert "the budget of 6 epochs is given out: raise it with search set simulated --max-total-epochs" in refused(
        reply
    )


# Stopping a trial -----------------------------------------------------------------------------------------------------


def stopped(search: Simulation, number: int = 0) -> Trial:
    trial = search.trials[number]
    assert trial.progress.stop_requested
    assert trial.state == "completed"
    return trial


def test_a_running_trial_ends_with_its_epoch_and_keeps_its_place() -> None:
    search = simulate(asha, RISING, limits=Limits(max_trials=9), slots=1)
    (reply,) = steer(search, (lambda search: bool(search.trials) and search.trials[0].epochs == 4, StopTrial(0)))
    assert reply == Reply(True, "trial 0 ends with its running epoch, and keeps its best value so far")
    trial = stopped(search)
    assert trial.epochs == 6  # of the nine that the last rung asked for
    assert trial.progress.to_epoch == 9
    assert search.study.best is trial
    (last,) = [record for record in kinds(search, ResultTold) if record.trial == 0 and record.epoch == 6]
    assert (last.outcome, last.score) == ("stopped_by_callback", trial.objective)


def test_a_promotion_of_a_stopped_trial_trains_nothing() -> None:
    scenario = replace(RISING, value=lambda run, epoch: run.trial + 1 / epoch)  # no other trial comes near
    search = simulate(hyperband, scenario, limits=Limits(max_trials=9), slots=1)
    (reply,) = steer(search, (trials(5), StopTrial(0)))
    assert "trial 0 is trained no further, and keeps its best value, 1" in reply.text
    trial = stopped(search)
    assert trial.epochs == 1
    requests = [record for record in kinds(search, SegmentRequested) if record.trial == 0]
    assert [record.to_epoch for record in requests] == [1, 3, 9]  # promoted as before
    assert len([record for record in kinds(search, SegmentStarted) if record.trial == 0]) == 1
    for kept in range(place(search, TrialStopRequested) + 1, len(search.entries), 5):
        assert search.resume(kept).run().history() == search.history(), f"after record {kept}"


def test_a_trial_without_a_value_ends_after_its_first_epoch() -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=2), slots=1)
    (reply,) = steer(search, (trials(1), StopTrial(0)))
    assert "trial 0 has no value yet: it ends with the first epoch that gives one" in reply.text
    assert stopped(search).epochs in (1, 2)  # the interrupt may come in its second epoch
    assert search.trials[1].epochs == 9


def test_a_stopped_trial_of_several_executions_has_the_mean_of_those_trained() -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=1, executions=3), slots=1)
    steer(search, (lambda s: bool(s.trials) and len(s.trials[0].executions) == 2, StopTrial(0)))
    trial = stopped(search)
    assert len(trial.executions) == 2
    assert trial.objective == sum(trial.scores) / len(trial.scores)


def test_a_stopped_trial_whose_process_dies_trains_only_the_epochs_that_were_lost() -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=1), slots=1, checkpoint_every=100.0)
    seen: list[int] = []

    def before_message() -> None:
        trial = search.trials[0] if search.trials else None
        if trial is not None and trial.epochs == 5 and not seen:
            seen.append(5)
            search.steer(StopTrial(0))
        elif seen == [5] and search.replies:
            seen.extend((search.trials[0].executions[0].checkpoint, search.trials[0].epochs))
            search.executor.end_process(0, lose_messages=True)

    search.run(before_message=before_message)
    assert seen[1] == 0
    trial = stopped(search)
    assert trial.epochs == seen[2]
    assert trial.executions[0].checkpoint == trial.epochs
    assert trial.progress.trained > trial.epochs


@pytest.mark.parametrize("number", [0, 99, -1])
def test_a_trial_that_has_ended_or_does_not_exist_is_refused(number: int) -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=3), slots=1)
    (reply,) = steer(search, (trials(3), StopTrial(number)))
    assert ("trial 0 has ended: it is completed" if number == 0 else f"has no trial {number}: it has 3") in refused(
        reply
    )


def test_a_trial_is_stopped_twice_without_harm_and_not_after_its_callback() -> None:
    search = simulate(hyperband, RISING, limits=Limits(max_trials=9), slots=1)
    _, again = steer(search, (trials(3), StopTrial(0)), (trials(4), StopTrial(0)))
    assert again == Reply(True, "trial 0 was told to stop already")
    assert len(kinds(search, TrialStopRequested)) == 1
    early = simulate(hyperband, replace(RISING, finishes=lambda run: 1), limits=Limits(max_trials=9), slots=1)
    (reply,) = steer(early, (trials(3), StopTrial(0)))
    assert "trial 0 has ended its training: a callback of its own stopped it" in refused(reply)


# Pausing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hyperband, asha, tpe])
def test_nothing_runs_while_a_search_is_paused(make: Callable[[Study], BackEnd]) -> None:
    search = simulate(make, RISING, limits=Limits(max_trials=5, trial_timeout=100.0, timeout=150.0), slots=3)
    pause, go_on = steer(search, (epochs(4), PauseSearch()), (later, ContinueSearch()))
    assert "the running epochs end first, then no work begins, and the workers end" in pause.text
    assert go_on == Reply(True, "the search goes on")
    paused, continued = place(search, SearchPaused), place(search, SearchContinued)
    during = search.records[paused:continued]
    assert not any(isinstance(record, (SegmentStarted, SegmentRequested)) for record in during)
    assert sum(isinstance(record, EpochDone) for record in during) <= 3
    assert set(search.executor.retired) == {0, 1, 2}
    gap = search.entries[continued].time - search.entries[continued - 1].time
    assert gap > 60
    # Neither the search's time nor that of a trial goes on.
    whole = search.entries[-1].time - search.entries[0].time
    assert search.study.seconds() < whole - 60
    assert not any(trial.error for trial in search.trials)
    assert search.end is not None
    assert search.end.complete
    assert all(trial.ended for trial in search.trials)


def test_a_paused_search_stays_paused_over_a_resume_until_it_is_continued() -> None:
    search = simulate(limits=Limits(max_trials=5))
    steer(search, (epochs(2), PauseSearch()), until=lambda record: isinstance(record, SearchPaused))
    again = search.resume()
    assert again.study.paused
    replies = steer(again, (later, PauseSearch()), (is_idle, ContinueSearch()), (at_once, ContinueSearch()))
    assert [reply.text for reply in replies] == [
        "the search is paused already: go on with: search continue simulated",
        "the search goes on",
        "the search is not paused: it goes on",
    ]
    assert len(kinds(again, SearchPaused)) == 1
    assert again.end is not None
    assert again.end.complete
    assert again.history() == simulate(limits=Limits(max_trials=5)).run().history()


def test_a_paused_search_can_be_stopped_and_ends_at_no_target() -> None:
    search = simulate(limits=Limits(max_trials=5, evaluate_best=1))
    stopping: list[int] = []

    def before_message() -> None:
        if search.study.epochs == 2 and not search.study.paused:
            search.steer(PauseSearch())
            search.steer(ChangeLimits({"target": 1e9}))
        elif search.study.paused and is_idle(search):
            stopping.append(1)
            if len(stopping) == 100:
                assert search.study.changed_limits == {"target": 1e9}
                search.stop()

    search.run(before_message=before_message)
    assert search.end is not None
    assert (search.end.exit_code, search.end.reason) == (130, "stopped by the user")
    goes_on = search.resume(limits=Limits(max_trials=5, target=1e9))
    steer(goes_on, (is_idle, ContinueSearch()))
    assert goes_on.end is not None
    assert goes_on.end.reason == "the target of 1e+09 is reached"


# Changing limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason", "words"),
    [
        ({"max_trials": 2}, "the budget of 2 trials is tried", "trials have begun, so no new one does"),
        ({"max_total_epochs": 3}, "the budget of 3 epochs is trained", "so the search ends with the running epochs"),
        ({"target": 1e9}, "the target of 1e+09 is reached", "set --target 1000000000.0"),
        ({"timeout": 0.001}, "the time is up", "set --timeout 0.001s"),
    ],
)
def test_a_smaller_limit_ends_the_search_in_order(options: dict[str, Any], reason: str, words: str) -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=8), slots=2)
    (reply,) = steer(search, (epochs(13), ChangeLimits(options)))
    assert words in reply.text
    assert search.end is not None
    assert search.end.reason == reason
    assert search.end.exit_code == 0
    assert len(search.trials) <= 4
    if "max_trials" not in options:
        assert search.study.epochs <= 16  # the running epochs
    assert kinds(search, LimitsChanged)[0].options == options
    assert search.study.options.items() >= options.items()


def test_a_larger_limit_holds_from_now_on() -> None:
    search = simulate(tpe, RISING, limits=Limits(max_trials=2, max_total_epochs=20), slots=1)
    (reply,) = steer(search, (trials(2), ChangeLimits({"max_trials": 4, "max_total_epochs": 30})))
    assert reply == Reply(True, "set --max-trials 4, --max-total-epochs 30: it holds from now on, after a resume, too")
    assert (len(search.trials), search.study.epochs) == (4, 30)


def test_a_smaller_budget_is_given_out_anew() -> None:
    search = simulate(tpe, RISING, limits=Limits(max_total_epochs=60), slots=3)
    steer(search, (epochs(5), ChangeLimits({"max_total_epochs": 12})))
    assert search.study.epochs == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_trals": 3}, "Did you mean 'max_trials'?"),
        ({"backend": "asha"}, "'backend' of a running search cannot be set: --max-trials, --timeout"),
        ({"max_trials": 0}, "--max-trials is 0: it must be at least 1"),
        ({"target": "high"}, "--target is 'high': give a number"),
    ],
)
def test_limits_that_cannot_be_set_are_refused(options: dict[str, Any], words: str) -> None:
    search = simulate(limits=Limits(max_trials=3))
    (reply,) = steer(search, (trials(2), ChangeLimits(options)))
    assert words in refused(reply)
    assert not kinds(search, LimitsChanged)


def test_a_search_that_is_ending_is_not_steered() -> None:
    actions: Sequence[Action] = (StopTrial(0), PauseSearch(), ChangeLimits({"max_trials": 9}))
    for action in actions:
        search = simulate(scenario=RISING, limits=Limits(target=1.01), slots=4)
        (reply,) = steer(search, (lambda search: search.study.best is not None, action))
        assert "the search is ending (the target of 1.01 is reached): go on with search resume" in refused(reply)


def test_a_request_for_another_study_of_this_name_is_refused() -> None:
    search = simulate(limits=Limits(max_trials=2))
    search._requests.waiting.append(Request("1", "other", PauseSearch()))
    search.run()
    assert "another study of this name" in refused(search.replies["1"])
