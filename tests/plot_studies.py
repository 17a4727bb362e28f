"""Studies for tests of figures, made record by record: of any size, with hostile names, without a search."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from search.space.domain import Condition, Domain, Parameter, Value
from search.study.records import (
    BackendChanged,
    Built,
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
from search.study.study import Study
from search.study.trial import Direction, EndState, Objective

START = 1_700_000_000.0

HOSTILE = [
    '<script>alert("x")</script>',
    "<b>bold</b> & <a href='javascript:alert(1)'>link</a>",
    "%{x} %{text} {curly}",
    "$\\frac{1}{2}$",
    "naïve 🎉 emoji",
    "line\nbreak\tand\x1b[31m colour",
    "x" * 200,
    "half \ud800 of a pair",
]
"""Names and values that a figure must show as they are, or shortened."""

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 16, 256, sampling="log"))
ACTIVATION = Parameter("activation", Domain("choice", values=("relu", "tanh")))
OPTIMIZER = Parameter("optimizer", Domain("choice", values=("sgd", "adam")))
MOMENTUM = Parameter("momentum", Domain("float", 0.0, 0.9), conditions=(Condition("optimizer", ("sgd",)),))
SPACE = (LR, UNITS, ACTIVATION)


class Made:
    """A study that records make, one record every tenth of a second."""

    def __init__(self, name: str = "study", direction: Direction = "max", metric: str = "val_accuracy") -> None:
        self.study, self.now, self.records = Study(), START, list[Record]()
        objectives = (Objective(metric, direction),)
        self.apply(
            Header(7, f"uid-{name}", name, 3, objectives, "space.py", "digest", SPACE, {}),
            BackendChanged("hyperband", {}),
            SearchStarted("box", 1, {"backend": "hyperband"}),
        )

    def apply(self, *records: Record) -> None:
        """Apply records, a tenth of a second after the last one each."""
        for record in records:
            self.now += 0.1
            self.records.append(record)
            self.study.apply(record, self.now)

    def trial(
        self,
        params: Sequence[tuple[Parameter, Value]],
        curve: Sequence[float],
        *,
        end: EndState | None = "completed",
        rung: int | None = None,
        slot: int = 0,
        initial: Mapping[str, Value] | None = None,
        logs: Mapping[str, float] | None = None,
        executions: int = 1,
        black_box: bool = False,
        error: str = "it failed",
        to: int | None = None,
    ) -> int:
        """Add a trial with the objectives `curve`. With `end` None it still runs."""
        number, metric = len(self.study.trials), self.study.objective.name
        to = len(curve) if to is None else to
        self.apply(
            SegmentRequested(number, 0, to, None if rung is None else 1, rung, False, number, executions, initial or {})
        )
        for execution in range(executions):
            self.apply(SegmentStarted(number, execution, 0, slot, 0, to))
            if execution == 0:
                self.apply(*(ParameterSet(number, parameter, value) for parameter, value in params))
                self.apply(Built(number, 1000, "fit", black_box, black_box))
            values = [value - 0.01 * execution for value in curve]
            self.apply(
                *(
                    EpochDone(number, execution, epoch, {metric: value, **(logs or {})}, 0.05)
                    for epoch, value in enumerate(values, 1)
                )
            )
            if end is None:
                return number
            outcome = {"failed": "failed", "infeasible": "infeasible", "stopped": "reached"}.get(end, "reached")
            self.apply(SegmentEnded(number, execution, outcome, len(curve), error if outcome != "reached" else None))
        failed = end in ("failed", "infeasible")
        score = None if failed else self.study.trials[number].score
        self.apply(ResultTold(number, len(curve), score, end if failed else "reached"), TrialEnded(number, end))
        return number

    def test(self, trial: int, value: float) -> None:
        """Evaluate a trial on the test data."""
        self.apply(Tested(trial, 0, 1, {"accuracy": value, "loss": 0.5}))

    def finish(self) -> None:
        self.apply(SearchEnded("done", True, 0))

    def resume(self) -> None:
        """Begin another process, an hour later."""
        self.now += 3600
        self.apply(SearchStarted("box", 2, {"backend": "hyperband"}))


def quality(lr: float) -> float:
    """Return an accuracy that is best at a learning rate of 0.01."""
    return 0.95 - 0.2 * abs(math.log10(lr) + 2)


def digits(trials: int = 30, direction: Direction = "max", *, seed: int = 0, epochs: int = 9) -> Made:
    """Return a study whose objective depends on `lr` only, with stopped, failed, infeasible and diverging trials."""
    draw, made = (
        random.Random(seed),
        Made(direction=direction, metric="val_accuracy" if direction == "max" else "val_loss"),
    )
    sign: Callable[[float], float] = (lambda v: v) if direction == "max" else (lambda v: 1 - v)
    for number in range(trials):
        lr = 10 ** draw.uniform(-4, -1)
        params = [(LR, lr), (UNITS, draw.randint(16, 256)), (ACTIVATION, draw.choice(("relu", "tanh")))]
        length = epochs if number % 3 == 0 else max(1, epochs // 3)
        curve = [sign(quality(lr) * (1 - 0.5 / (epoch + 1)) + draw.gauss(0, 0.002)) for epoch in range(length)]
        end: EndState = "completed" if length == epochs else "stopped"
        if number % 10 == 7:
            end, curve = "failed", curve[:1]
        elif number % 10 == 8:
            end, curve = "infeasible", []
        made.trial(params, curve, end=end, rung=number % 3, slot=number % 2)
    return made


def branching(trials: int = 30) -> Made:
    """Return a study of a conditional space: `momentum` exists with the optimizer sgd only."""
    draw, made = random.Random(1), Made("branching")
    for number in range(trials):
        optimizer = "sgd" if number % 3 else "adam"
        params: list[tuple[Parameter, Value]] = [(LR, 10 ** draw.uniform(-4, -1)), (OPTIMIZER, optimizer)]
        params += [(MOMENTUM, draw.uniform(0.0, 0.9))] if optimizer == "sgd" else []
        made.trial(params, [draw.random()])
    return made


def wide(trials: int, parameters: int) -> Made:
    """Return a study with many hyperparameters, of which the first decides."""
    draw, made = random.Random(2), Made("wide")
    space = [Parameter(f"p{place:03}", Domain("float", 0.0, 1.0)) for place in range(parameters)]
    for _ in range(trials):
        values = [(parameter, draw.random()) for parameter in space]
        made.trial(values, [float(values[0][1])])
    return made


def hostile(trials: int = 8) -> Made:
    """Return a study whose names, values and errors are hostile."""
    draw, made = random.Random(3), Made("hostile", metric=HOSTILE[0])
    numbers = [Parameter(name, Domain("float", 0.0, 1.0)) for name in HOSTILE]
    choice = Parameter("choice", Domain("choice", values=tuple(HOSTILE)))
    for number in range(trials):
        params = [*((parameter, draw.random()) for parameter in numbers), (choice, HOSTILE[number % len(HOSTILE)])]
        made.trial(params, [draw.random() for _ in range(3)], logs={HOSTILE[1]: draw.random()})
    made.trial([(choice, HOSTILE[0])], [], end="failed", error=HOSTILE[0])
    return made
