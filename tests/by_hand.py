"""Records of journals written by hand, and the content of an MLflow store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from search.space.domain import Domain, Parameter
from search.study.records import (
    FORMAT,
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    ParameterSet,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    Tested,
    TrialEnded,
)
from search.study.trial import Objective

OLD_REVISION = "728d730b5ebd"
"""A database schema of MLflow 1: without aliases, without logged models, with short values."""

UNITS = Parameter("units", Domain("int", 8, 64))
RELU = Parameter("relu", Domain("boolean", values=(True, False)))


def header(study: str = "digits", uid: str = "0123456789abcdef") -> Header:
    """Return the header of a study with two parameters, whose objective is val_accuracy."""
    return Header(
        FORMAT, uid, study, 7, (Objective("val_accuracy", "max"),), "/home/me/digits.py", "digest-1", (UNITS, RELU),
        {"keras": "3.15.0", "keras_backend": "tensorflow"}, ("loss", "val_accuracy"), "me",
    )  # fmt: skip


def study_start(study: str = "digits", uid: str = "0123456789abcdef") -> list[Record]:
    """Return the first records of a journal."""
    return [
        header(study, uid),
        BackendChanged("hyperband", {"max_epochs": 9, "factor": 3}),
        SearchStarted("host", 42, {"workers": 1}),
    ]


def started(trial: int, start: int, end: int) -> SegmentStarted:
    """Return the record that a segment of `trial` starts, from epoch `start` to epoch `end`."""
    return SegmentStarted(trial=trial, execution=0, attempt=0, slot=0, from_epoch=start, to_epoch=end)


def requested(trial: int, start: int = 0, end: int = 1, rung: int = 0) -> list[Record]:
    """Return the records of a segment of `trial` that is requested and starts; a new trial gets its values."""
    records: list[Record] = [SegmentRequested(trial, start, end, 2, rung, False, 100 + trial)]
    if start == 0:
        records += [ParameterSet(trial, UNITS, 8 + trial), ParameterSet(trial, RELU, trial % 2 == 0)]
    return [*records, started(trial, start, end), *([Built(trial, 1234, "fused")] if start == 0 else [])]


def epochs(trial: int, scores: Iterable[float], start: int = 0) -> list[Record]:
    """Return one record for each epoch after epoch `start`, with the val_accuracy that `scores` gives."""
    return [
        EpochDone(trial, 0, start + i, {"loss": 1 / (start + i), "val_accuracy": score}, 0.01)
        for i, score in enumerate(scores, 1)
    ]


def reached(trial: int, epoch: int, best: int, score: float) -> list[Record]:
    """Return the records of a segment that has reached its last epoch, `epoch`."""
    return [
        Checkpointed(trial, 0, epoch, best),
        SegmentEnded(trial, 0, "reached", epoch),
        ResultTold(trial, epoch, score, "reached"),
    ]


def completed_trial(trial: int, scores: list[float]) -> list[Record]:
    """Return all records of a trial that is completed, with one epoch for each of `scores`."""
    best = max(scores)
    return [
        *requested(trial, 0, len(scores)),
        *epochs(trial, scores),
        *reached(trial, len(scores), 1 + scores.index(best), best),
        TrialEnded(trial, "completed"),
    ]


def failed_trial(trial: int) -> list[Record]:
    """Return all records of a trial whose model could not be built."""
    return [
        *requested(trial),
        SegmentEnded(trial, 0, "failed", 0, "ValueError: units are odd\nTraceback …"),
        ResultTold(trial, 0, None, "failed"),
        TrialEnded(trial, "failed"),
    ]


SEARCH_ENDED = SearchEnded("the plan is done", True, 0)


def evaluated(trial: int, epoch: int, logs: dict[str, float]) -> Tested:
    """Return the record of the test data's results."""
    return Tested(trial, 0, epoch, logs)


def eventful_search() -> list[Record]:
    """Return the records of a search with a promotion, a failure, a stop, a resume and an epoch trained twice."""
    return [
        *study_start(),
        *requested(0, 0, 2), *epochs(0, [0.5, 0.6]), *reached(0, 2, 2, 0.6),
        *failed_trial(1),
        *completed_trial(2, [0.7, 0.4]),
        *requested(0, 2, 4, 1), *epochs(0, [0.65], 2),
        SearchStarted("host", 43, {"workers": 1}),
        started(0, 2, 4), *epochs(0, [0.65, 0.8], 2), *reached(0, 4, 4, 0.8), TrialEnded(0, "completed"),
        *requested(3, 0, 2), *epochs(3, [0.3]), SegmentEnded(3, 0, "stopped", 1), TrialEnded(3, "stopped"),
        *requested(4, 0, 3), *epochs(4, [0.55]), Checkpointed(4, 0, 1, 1), SegmentEnded(4, 0, "interrupted", 1),
        evaluated(0, 4, {"accuracy": 0.75}),
        SearchEnded("interrupted", False, 130),
    ]  # fmt: skip


class Clock:
    """A clock that advances by a hundredth of a second at each call."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def shown_runs(client: Any, uid: str = "0123456789abcdef") -> dict[str, Any]:
    """Return the content of a study's runs by their names, without run ids."""
    ids = [item.experiment_id for item in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`search.study_uid` = '{uid}'", max_results=1000)
    result: dict[str, Any] = {}
    for run in found:
        assert run.info.run_name not in result, "a run exists twice"
        result[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"},
            "times": (run.info.start_time, run.info.end_time),
            "points": {
                name: [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        }
    return result
