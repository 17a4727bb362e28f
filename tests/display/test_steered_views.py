"""The display of a steered search: its limits, its pause, its trials."""

from __future__ import annotations

import pytest
from study_builder import START, StudyBuilder

from search.display import tables, trial_page
from search.display.area import TerminalSize, render_live_area
from search.display.progress import Pace, budget_progress
from search.options import Options, last_options
from search.study.records import (
    ConfigurationAdded,
    LimitsChanged,
    SearchContinued,
    SearchPaused,
    SearchStarted,
    SegmentRequested,
    TrialStopRequested,
)
from search.study.study import Study

OPTIONS = Options(backend="optuna", max_trials=4)


def begun() -> StudyBuilder:
    """Return a study with a trial of two epochs that runs, and a limit of four trials."""
    builder = StudyBuilder("optuna", options={"backend": "optuna", "max_trials": 4})
    builder.request(0, 9)
    builder.values(0, lr=0.01)
    builder.epochs(0, 0.5, 0.6)
    return builder


def draw(builder: StudyBuilder, pace: Pace, options: Options = OPTIONS) -> list[str]:
    size = TerminalSize(100, 20)
    return [str(line) for line in render_live_area(builder.study, options, ["CPU 0"], pace, builder.now, size)]


def test_the_view_follows_limits_that_change_and_its_pace_begins_anew() -> None:
    builder = begun()
    pace = Pace(START, budget_progress(builder.study, OPTIONS, START))
    assert "0/4 trials" in draw(builder, pace)[-1]
    builder.apply(LimitsChanged("1", {"max_trials": 20, "timeout": 3600.0, "target": 0.9}))
    lines = draw(builder, pace)
    assert lines[0].endswith("target 0.9")
    assert "0/20 trials" in lines[-1]
    assert [str(budget) for budget in budget_progress(builder.study, OPTIONS, builder.now)] == [
        "0/20 trials",
        "7s of 1h",
    ]
    found = last_options(builder.study)
    assert (found.max_trials, found.timeout) == (20, 3600.0)
    # The options that a later process begins with are whole.
    builder.apply(SearchStarted("box", 1, {"max_trials": 5}))
    assert builder.study.options == {"max_trials": 5}


def test_a_pause_is_shown_and_costs_no_time() -> None:
    builder = begun()
    seconds = builder.study.seconds(builder.now)
    options = Options(backend="optuna", max_total_epochs=10)
    pace = Pace(START, budget_progress(Study(), options, START))
    builder.apply(SearchPaused("1"))
    builder.now += 1000
    assert "paused, search continue digits goes on" in draw(builder, pace)[0]
    assert builder.study.seconds(builder.now) == seconds + 1
    status = tables.status_lines(builder.study, True, builder.now)
    assert status[0] == "digits: paused, process 4321 on box; `search continue digits` goes on"
    assert tables.status_fields(builder.study, alive=True, now=builder.now)["paused"] is True
    gone = tables.status_lines(builder.study, False, builder.now)[0]
    assert "paused: `search resume digits` begins a process, `search continue digits` lets it go on" in gone
    builder.apply(SearchStarted("box", 1, {}))
    assert builder.study.paused
    builder.now += 1000
    builder.apply(SearchContinued("2"))
    assert builder.study.seconds(builder.now + 5) == seconds + 1 + 5
    assert tables.status_lines(builder.study, True, builder.now)[0] == "digits: running, process 1 on box"
    # Two epochs in the ten seconds that it ran, eight to go.
    _, left = pace.soonest(budget_progress(builder.study, options, builder.now), builder.now)
    assert left == pytest.approx(8 * (builder.now - START - 2002) / 2)


def test_trials_that_the_user_added_or_stopped_say_so() -> None:
    builder = begun()
    builder.apply(ConfigurationAdded("1", {"lr": 0.5}))
    assert tables.status_lines(builder.study, True, builder.now)[-1] == "1 added configuration not tried yet"
    builder.apply(SegmentRequested(1, 0, 9, None, None, False, 1, initial_values={"lr": 0.5}, extra=True))
    assert "not tried yet" not in "\n".join(tables.status_lines(builder.study, True, builder.now))
    builder.apply(TrialStopRequested("2", 0))
    lines = trial_page._trial_lines(builder.study, builder.study.trials[0], True)
    assert "stopped by the user, who said that it had given its best" in lines
    lines = trial_page._trial_lines(builder.study, builder.study.trials[1], True)
    assert "added by the user when back end optuna began no more trials" in lines
