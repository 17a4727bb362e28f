"""Studies built by hand, for tests of the display."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich.console import Console, RenderableType

from search.display.grid import print_whole
from search.space.domain import Domain, Parameter, Value
from search.study.records import (
    BackendChanged,
    Built,
    EpochDone,
    Header,
    ParameterSet,
    ResultTold,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.study import Study
from search.study.trial import Direction, Objective, State
from search.study.trials import Trial

START = 1_000_000.0

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 16, 512))
LAYERS = Parameter("layers", Domain("fixed", values=(3,)))


class StudyBuilder:
    """A study built record by record, one record a second unless `at` gives the time."""

    def __init__(
        self,
        backend: str = "hyperband",
        direction: Direction = "max",
        options: Mapping[str, object] | None = None,
        objective: str = "val_accuracy",
    ) -> None:
        self.study = Study()
        self.now = START
        objectives = (Objective(objective, direction),)
        self.apply(Header(1, "uid", "digits", 7, objectives, "digits.py", "digest", (LR, UNITS, LAYERS), {}))
        self.apply(BackendChanged(backend, {}))
        self.apply(SearchStarted("box", 4321, options or {"backend": backend}))

    def apply(self, record: object, at: float | None = None) -> None:
        self.now = self.now + 1 if at is None else at
        self.study.apply(record, self.now)  # type: ignore[arg-type]

    def request(
        self, trial: int, to: int, slot: int | None = 0, bracket: int | None = None, rung: int | None = None
    ) -> None:
        """Request a segment of a trial, and start it in `slot`."""
        known = self.study.trials.get(trial)
        self.apply(SegmentRequested(trial, known.epochs if known else 0, to, bracket, rung, False, 100 + trial))
        if slot is not None:
            self.apply(SegmentStarted(trial, 0, 0, slot, 0, to))

    def values(self, trial: int, /, **values: Value) -> None:
        for name, value in values.items():
            known = {parameter.name: parameter for parameter in (LR, UNITS, LAYERS)}
            parameter = known.get(name, Parameter(name, Domain("choice", values=(value, "other"))))
            self.apply(ParameterSet(trial, parameter, value))
        self.apply(Built(trial, 12345, "fit"))

    def epochs(self, trial: int, *objectives: float, seconds: float = 0.42, **logs: float) -> None:
        begun = self.study.trials[trial].epochs
        for i, value in enumerate(objectives):
            self.apply(EpochDone(trial, 0, begun + i + 1, {"loss": 0.5, "val_accuracy": value, **logs}, seconds))

    def reach(self, trial: int, end: State | None = None) -> None:
        """End the segment at its last epoch; with `end`, end the trial too."""
        found = self.study.trials[trial]
        self.apply(SegmentEnded(trial, 0, "reached", found.epochs))
        self.apply(ResultTold(trial, found.epochs, found.objective, "reached"))
        if end is not None:
            self.apply(TrialEnded(trial, end))

    def fail(self, trial: int, error: str) -> None:
        self.apply(SegmentEnded(trial, 0, "failed", self.study.trials[trial].epochs, error))
        self.apply(ResultTold(trial, self.study.trials[trial].epochs, None, "failed"))
        self.apply(TrialEnded(trial, "failed"))


def typical(backend: str = "hyperband") -> StudyBuilder:
    """Return a study with two running trials and one each paused, stopped, completed and failed."""
    builder = StudyBuilder(backend)
    for trial, (lr, units, score) in enumerate([(0.003, 64, 0.9722), (0.01, 128, 0.95), (0.05, 32, 0.4)]):
        builder.request(trial, 3, bracket=3, rung=0)
        builder.values(trial, lr=lr, units=units, layers=3)
        builder.epochs(trial, score - 0.1, score, score - 0.05)
        builder.reach(trial, [None, "completed", "stopped"][trial])  # type: ignore[arg-type]
    builder.request(3, 3, bracket=3, rung=0)
    builder.values(3, lr=0.1, units=512, layers=3)
    builder.fail(3, "ValueError: no such layer")
    builder.request(4, 9, slot=0, bracket=2, rung=0)
    builder.values(4, lr=0.0001, units=16, layers=3)
    builder.epochs(4, 0.5, 0.61234, 0.6)
    builder.request(5, 9, slot=1, bracket=2, rung=0)
    return builder


def rendered(renderable: RenderableType, width: int = 80, *, terminal: bool = True) -> list[str]:
    """Return the lines of `renderable`, in a terminal or in a pipe."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=terminal)
    print_whole(console, renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]


def trials_by_number(study: Study) -> list[Trial]:
    """Return the trials of `study`."""
    return [study.trials[number] for number in sorted(study.trials)]
