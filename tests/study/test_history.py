"""A study's history: its segments by slot and time, and each change of the best value."""

from __future__ import annotations

import pytest
from plot_studies import LR, Made

from search.study.history import Best
from search.study.records import (
    EpochDone,
    SegmentRequested,
    SegmentStarted,
)


def test_segments_have_their_slot_their_rung_and_the_time_of_the_search() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5, 0.6], rung=0, slot=3)
    (segment,) = made.study.history.segments
    assert (segment.begun.trial, segment.begun.slot, segment.begun.rung, segment.begun.bracket) == (0, 3, 0, 1)
    assert (segment.epochs, segment.outcome) == (2, "reached")
    assert segment.begun.seconds == pytest.approx(0.2)  # the search began with its third record
    assert segment.seconds == pytest.approx(0.7)
    assert made.study.history.running == {}


def test_a_segment_ends_with_its_process() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5], end=None, to=3)
    assert list(made.study.history.running) == [0]
    last = made.study.seconds()
    made.resume()
    (segment,) = made.study.history.segments
    assert (segment.outcome, segment.seconds) == (None, last)
    assert made.study.history.starts == [0.0, last]


def test_each_change_of_the_best_value_is_kept() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5, 0.4, 0.6])
    made.trial([(LR, 0.2)], [0.55, 0.7])
    made.trial([(LR, 0.3)], [0.1])
    found = made.study.history.best
    assert [(best.trial, best.value, best.epochs) for best in found] == [(0, 0.5, 1), (0, 0.6, 3), (1, 0.7, 5)]
    assert [best.seconds for best in found] == sorted(best.seconds for best in found)


def test_a_best_trial_that_fails_gives_its_place_to_the_next() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5])
    made.trial([(LR, 0.2)], [0.9], end="failed")
    assert [(best.trial, best.value) for best in made.study.history.best] == [(0, 0.5), (1, 0.9), (0, 0.5)]
    alone = Made()
    alone.trial([(LR, 0.2)], [0.9], end="failed")
    assert alone.study.history.best[-1] == Best(None, None, alone.study.seconds(), 1)


def test_a_mean_over_more_executions_may_be_worse() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5])
    made.trial([(LR, 0.2)], [0.505])
    number = 1
    made.study.trials[number].status = "paused"  # its back end wants a second execution
    made.apply(
        SegmentRequested(number, 1, 1, None, None, False, number, 2),
        SegmentStarted(number, 1, 0, 0, 0, 1),
        EpochDone(number, 1, 1, {"val_accuracy": 0.3}, 0.1),
    )
    assert [(best.trial, best.value) for best in made.study.history.best] == [(0, 0.5), (1, 0.505), (0, 0.5)]
