"""Studies written by hand, as journals in a folder, for tests of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from search.space.domain import Domain, Parameter, Value
from search.study.journal import Journal
from search.study.paths import StudyPaths
from search.study.records import (
    BackendChanged,
    Built,
    Checkpointed,
    DataLoaded,
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

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 16, 512))
ENDED = SearchEnded("nothing is left to try", True, 0)
DATA = DataLoaded(
    {},
    {
        "train": {"x": "float32[900,64] 00000000", "y": "int32[900] 00000000"},
        "validation": {"x": "float32[360,64] 00000000", "y": "int32[360] 00000000"},
        "test": {"x": "float32[360,64] 00000000", "y": "int32[360] 00000000"},
    },
)


def begin(
    name: str = "digits",
    parameters: Sequence[Parameter] = (LR, UNITS),
    objective: str = "val_accuracy",
    options: Mapping[str, object] | None = None,
) -> list[Record]:
    """Return the first records of a study."""
    metrics = (objective.removeprefix("val_"), objective)
    header = Header(
        7, f"uid-{name}", name, 7, (Objective(objective, "max"),), "/home/me/digits.py", "digest", tuple(parameters),
        {"keras": "3.15.1"}, metrics,
    )  # fmt: skip
    return [header, BackendChanged("hyperband", {}), SearchStarted("box", 1, options or {"backend": "hyperband"}), DATA]


def trained(
    number: int, scores: Sequence[float], *values: tuple[Parameter, Value], objective: str = "val_accuracy"
) -> list[Record]:
    """Return a trial with these objectives by epoch, which ended completed."""
    epochs = len(scores)
    logs = [{objective.removeprefix("val_"): score, objective: score} for score in scores]
    return [
        SegmentRequested(number, 0, epochs, 0, 0, False, number),
        SegmentStarted(number, 0, 0, number % 2, 0, epochs),
        *(ParameterSet(number, *value) for value in values),
        Built(number, 1000 + number, "fused"),
        *(EpochDone(number, 0, epoch, each, 0.5) for epoch, each in enumerate(logs, 1)),
        Checkpointed(number, 0, epochs, scores.index(max(scores)) + 1),
        SegmentEnded(number, 0, "reached", epochs),
        ResultTold(number, epochs, max(scores), "reached"),
        TrialEnded(number, "completed"),
    ]


def failed(number: int, error: str, *values: tuple[Parameter, Value]) -> list[Record]:
    """Return a trial that failed before its first epoch."""
    return [
        SegmentRequested(number, 0, 3, 0, 0, False, number),
        SegmentStarted(number, 0, 0, number % 2, 0, 3),
        *(ParameterSet(number, *value) for value in values),
        SegmentEnded(number, 0, "failed", 0, error),
        ResultTold(number, 0, None, "failed"),
        TrialEnded(number, "failed"),
    ]


def ten_trials(name: str = "digits", test: float | None = 0.909) -> list[Record]:
    """Return a study of ten trials and a failed one. Trial 7 is the best, with 0.98 after its third epoch."""
    records = begin(name)
    for number in range(10):
        best = 0.98 - 0.05 * abs(number - 7)
        values = (LR, 10 ** (-4 + number / 4)), (UNITS, 16 * (1 + 7 * number % 10))
        records += trained(number, [best - 0.3, best - 0.1, best], *values)
    records += failed(10, "ValueError: no such layer", (LR, 0.1))
    if test is not None:
        records.append(Tested(7, 0, 3, {"accuracy": test, "loss": 0.3}))
    return [*records, ENDED]


def many_trials(parameters: int, trials: int) -> list[Record]:
    """Return a study of many trials and hyperparameters."""
    space = [Parameter(f"p{number}", Domain("int", 1, 1000)) for number in range(parameters)]
    records = begin("many", space)
    for number in range(trials):
        score = round(0.5 + 0.4 * math.sin(number) ** 2, 4)
        values = [(each, 1 + (number * 7 + place) % 1000) for place, each in enumerate(space)]
        records += trained(number, [score], *values)
    return [*records, ENDED]


def write(runs: Path, records: Iterable[Record]) -> StudyPaths:
    """Write a study's journal into the folder `runs`, a record each second, and return the study's files."""
    records = list(records)
    header = records[0]
    assert isinstance(header, Header)
    paths = StudyPaths.of(runs, header.study)
    paths.folder.mkdir(parents=True)
    journal = Journal(paths.journal, now=lambda: 0.0)
    for second, record in enumerate(records):
        journal.append([record], 1_796_000_000.0 + second)
    journal.close()
    return paths
