"""The translation of records to MLflow, seen without MLflow."""

from __future__ import annotations

from by_hand import epochs, requested, started, study_start

from search.study.journal import Entry
from search.study.records import (
    ConfigurationAdded,
    EpochDone,
    LimitsChanged,
    Record,
    SearchContinued,
    SearchPaused,
    SegmentEnded,
)
from search.tracking.mlflow.layout import Point, Projection

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
