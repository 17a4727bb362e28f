"""The translation of records to MLflow, seen without MLflow."""

from __future__ import annotations

from dataclasses import replace

from by_hand import (
    SEARCH_ENDED,
    completed_trial,
    epochs,
    evaluated,
    failed_trial,
    reached,
    requested,
    started,
    study_start,
)

from search.study.journal import Entry
from search.study.records import (
    ConfigurationAdded,
    EpochDone,
    LimitsChanged,
    Record,
    SearchContinued,
    SearchPaused,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
)
from search.tracking.mlflow.layout import PARENT, Point, Projection, RunKey

COSTS = ("seconds_per_epoch", "peak_device_memory")


def points_of(records: list[Record]) -> list[Point]:
    """Return the points of trial 0, from records that are one second apart."""
    projection = Projection()
    changes = [projection.take(Entry(record, float(second), 0)) for second, record in enumerate(records)]
    return [point for several in changes for run, change in several if run == 0 for point in change.points]


def test_a_trials_run_has_its_seconds_an_epoch_and_the_peak_of_its_memory() -> None:
    begun = [*study_start(), *requested(0, 0, 2), *epochs(0, [0.1])]
    ended = [SegmentEnded(0, 0, "interrupted", 1, peak_device_memory=700), started(0, 1, 2)]
    faster = EpochDone(0, 0, 2, {"val_accuracy": 0.2}, 0.005)
    points = points_of([*begun, *ended, faster, SegmentEnded(0, 0, "reached", 2)])
    first, second = 1000 * len(begun), 1000 * (len(begun) + 3)
    assert [point for point in points if point.key in COSTS] == [
        Point("seconds_per_epoch", 0.01, first, 1),
        Point("peak_device_memory", 700.0, first, 1),
        Point("seconds_per_epoch", 0.005, second, 2),
        Point("peak_device_memory", 700.0, second, 2),
    ]


def test_a_metric_of_the_users_keeps_its_name() -> None:
    own = EpochDone(0, 0, 1, {"seconds_per_epoch": 5.0}, 0.01)
    points = points_of([*study_start(), *requested(0), own, SegmentEnded(0, 0, "reached", 1)])
    assert [point.value for point in points if point.key in COSTS] == [5.0]


def test_a_study_says_while_it_is_paused() -> None:
    projection = Projection()
    steered = [SearchPaused("1"), *study_start()[-1:], SearchContinued("2")]
    records = [*study_start(), *steered, ConfigurationAdded("3", {"lr": 0.1}), LimitsChanged("4", {"max_trials": 3})]
    found = [
        change.tags["search.state"]
        for second, record in enumerate(records)
        for run, change in projection.take(Entry(record, float(second), 0))
        if run is None and "search.state" in change.tags
    ]
    assert found == ["running", "paused", "paused", "running"]


def tags_of(records: list[Record], run: RunKey) -> dict[str, str]:
    """Return the tags of a run after `records`, those of its creation included."""
    projection = Projection()
    tags: dict[str, str] = {}
    for second, record in enumerate(records):
        for changed, change in projection.take(Entry(record, float(second), 0)):
            if changed == run:
                tags |= change.tags
    return projection.new_run(run).tags | tags


def with_options(**options: object) -> list[Record]:
    """Return the first records of a study whose process has these options."""
    header, phase, start = study_start()
    assert isinstance(start, SearchStarted)
    return [header, phase, replace(start, options=options)]


# The best trial -------------------------------------------------------------------------------------------------------


def test_the_mark_of_the_best_trial_moves() -> None:
    records = [*study_start(), *completed_trial(0, [0.5])]
    assert tags_of(records, 0)["search.best"] == "★ best"
    records += completed_trial(1, [0.6])
    assert (tags_of(records, 0)["search.best"], tags_of(records, 1)["search.best"]) == ("", "★ best")
    assert tags_of(records, 0)["mlflow.runColor"] == ""  # the UI's own
    records += completed_trial(2, [0.4])
    assert "search.best" not in tags_of(records, 2)


def test_a_trials_colour_follows_the_epochs_granted_to_it() -> None:
    start = with_options(max_epochs=9)
    records = [*start, *requested(0, 0, 1, rung=0), *requested(1, 0, 9, rung=0)]
    short, long = tags_of(records, 0)["mlflow.runColor"], tags_of(records, 1)["mlflow.runColor"]
    assert short != long
    records += [*epochs(1, [0.9]), *epochs(0, [0.5]), *reached(0, 1, 1, 0.5)]
    records += [SegmentRequested(0, 1, 9, 2, 1, False, 100)]
    assert tags_of(records, 0)["mlflow.runColor"] == long
    assert tags_of(records, 1)["mlflow.runColor"] not in (short, long)  # the best trial has a colour of its own


def test_without_rungs_trials_have_the_uis_own_colours() -> None:
    request = SegmentRequested(0, 0, 9, None, None, True, 100)
    assert "mlflow.runColor" not in tags_of([*with_options(max_epochs=9), request], 0)


# The description ------------------------------------------------------------------------------------------------------


def test_the_description_names_the_study_its_best_trial_and_a_way_to_load_it() -> None:
    records = [*study_start("dig`its"), *failed_trial(0), *completed_trial(1, [0.5, 0.7, 0.6])]
    records += [evaluated(1, 2, {"accuracy": 0.65}), SEARCH_ENDED]
    note = tags_of(records, PARENT)["mlflow.note.content"]
    assert "Study `dig'its` searches `digits.py` with back end `hyperband`" in note
    assert "**Best: trial 1**, `val_accuracy` 0.7 after epoch 2 of 3, test `accuracy` 0.65." in note
    assert "- `units` = `9`" in note
    assert "The search ended: the plan is done." in note
    assert 'search.get_best_models("0123456789abcdef"' in note
    before = tags_of(records[:3], PARENT)["mlflow.note.content"]
    assert "No trial has an objective yet." in before
    assert "get_best_models" not in before


# Tags of the user's ---------------------------------------------------------------------------------------------------


def test_tags_of_the_user_and_the_commit_are_on_all_runs_and_the_parent_runs_parent_on_one() -> None:
    options = {"tag": ["team=vision", "note=a=b"], "parent_run": "f00", "source_commit": "abc", "source_dirty": True}
    records = [*with_options(**options), *completed_trial(0, [0.5])]
    for run in (PARENT, 0):
        tags = tags_of(records, run)
        assert (tags["team"], tags["note"], tags["mlflow.source.git.commit"]) == ("vision", "a=b", "abc")
        assert tags["mlflow.source.git.dirty"] == "true"
    assert tags_of(records, PARENT)["mlflow.parentRunId"] == "f00"
    assert "mlflow.parentRunId" not in tags_of(records, 0)  # the shipper gives it the study's run
