"""Journals written by hand, and what MLflow shows of them."""

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
    TrialEnded,
)
from search.study.trial import Objective

OLDER = "728d730b5ebd"
"""A schema of MLflow 1: without aliases, without logged models, with short values."""

UNITS = Parameter("units", Domain("int", 8, 64))
RELU = Parameter("relu", Domain("boolean", values=(True, False)))


def header(study: str = "digits", uid: str = "0123456789abcdef") -> Header:
    return Header(
        FORMAT, uid, study, 7, (Objective("val_accuracy", "max"),), "/home/me/digits.py", "digest-1", (UNITS, RELU),
        {"keras": "3.15.0", "keras_backend": "tensorflow"}, ("loss", "val_accuracy"), "me",
    )  # fmt: skip


def opening(study: str = "digits", uid: str = "0123456789abcdef") -> list[Record]:
    return [
        header(study, uid),
        BackendChanged("hyperband", {"max_epochs": 9, "factor": 3}),
        SearchStarted("host", 42, {"workers": 1}),
    ]


def started(trial: int, start: int, end: int) -> SegmentStarted:
    return SegmentStarted(trial=trial, execution=0, attempt=0, slot=0, from_epoch=start, to_epoch=end)


def asked(trial: int, start: int = 0, end: int = 1, rung: int = 0) -> list[Record]:
    """A segment of `trial` is asked for and begins."""
    records: list[Record] = [SegmentRequested(trial, start, end, 2, rung, False, 100 + trial)]
    if start == 0:
        records += [ParameterSet(trial, UNITS, 8 + trial), ParameterSet(trial, RELU, trial % 2 == 0)]
    return [*records, started(trial, start, end), *([Built(trial, 1234, "fused")] if start == 0 else [])]


def epochs(trial: int, scores: Iterable[float], start: int = 0) -> list[Record]:
    return [
        EpochDone(trial, 0, start + i, {"loss": 1 / (start + i), "val_accuracy": score}, 0.01)
        for i, score in enumerate(scores, 1)
    ]


def closed(trial: int, epoch: int, best: int, score: float) -> list[Record]:
    return [
        Checkpointed(trial, 0, epoch, best),
        SegmentEnded(trial, 0, "reached", epoch),
        ResultTold(trial, epoch, score, "reached"),
    ]


def whole(trial: int, scores: list[float]) -> list[Record]:
    """A trial from its first question to its end."""
    best = max(scores)
    return [
        *asked(trial, 0, len(scores)),
        *epochs(trial, scores),
        *closed(trial, len(scores), 1 + scores.index(best), best),
        TrialEnded(trial, "completed"),
    ]


def failed(trial: int) -> list[Record]:
    return [
        *asked(trial),
        SegmentEnded(trial, 0, "failed", 0, "ValueError: units are odd\nTraceback …"),
        ResultTold(trial, 0, None, "failed"),
        TrialEnded(trial, "failed"),
    ]


FINISHED = SearchEnded("the plan is done", True, 0)


class Clock:
    """Seconds that go on by themselves, a hundredth at each look."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def shown(client: Any, uid: str = "0123456789abcdef") -> dict[str, Any]:
    """All that MLflow shows of a study, run ids left out: {run's name: …}."""
    ids = [item.experiment_id for item in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`search.study_uid` = '{uid}'", max_results=1000)
    result: dict[str, Any] = {}
    for run in found:
        assert run.info.run_name not in result, "a run is there twice"
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
