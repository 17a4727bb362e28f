"""The requirements of `--require`: a metric of the best trial must reach a value, such as `val_accuracy>=.9`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from search.errors import OptionError, nearest
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["Requirement", "check_metrics", "describe_shortfall", "parse_requirement"]

OBJECTIVE = "objective"
"""The name that stands for the objective, whatever its metric is."""

TEST_PREFIX = "test_"

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(rf"\s*(?P<metric>[^<>=]+?)\s*(?P<operator>{'|'.join(_OPERATORS)})\s*(?P<value>[^\s<>=]+)\s*")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A comparison of one metric with a value.

    Attributes:
        metric: a name in an epoch's logs; `objective`; or `test_…` for a metric of the test data.
        operator: `>=`, `<=`, `==`, `>` or `<`.
        text: as the user gave it.
    """

    metric: str
    operator: str
    value: float
    text: str

    def shortfall(self, study: Study) -> str:
        """Return why the best trial does not fulfil the requirement, as one line; "" if it does."""
        best = study.best
        if best is None:
            return f"no trial has an objective, and --require is {self.text}"
        found = _metric_of(study, best, self.metric)
        if found is None:
            known = ", ".join(_known_metrics(study, best))
            return f"--require {self.text}: the best trial, {best.number}, has no {self.metric!r}; it has {known}"
        if _OPERATORS[self.operator](found, self.value):
            return ""
        return f"the best trial, {best.number}, has {self.metric} {found:.6g}, and --require is {self.text}"


def parse_requirement(text: str) -> Requirement:
    """Return the requirement that `text` writes. OptionError if it is none."""
    found = _FORM.fullmatch(text)
    try:
        value = float(found["value"]) if found is not None else math.nan
    except ValueError:
        value = math.nan
    if found is None or not math.isfinite(value):
        raise OptionError(
            f"--require is {text!r}: give a metric, one of {' '.join(_OPERATORS)} and a number, such as "
            "'val_accuracy>=0.9', in quotes"
        )
    return Requirement(found["metric"], found["operator"], value, text)


def check_metrics(
    requirements: Sequence[Requirement], metrics: Collection[str], tested: Collection[str], objective: str
) -> None:
    """Raise OptionError if a requirement names a metric that no trial will have.

    Args:
        metrics: the names in an epoch's logs.
        tested: the names of metrics of the test data, without `test_`; none if there is no such data.
        objective: the objective's name.
    """
    known = [*metrics, OBJECTIVE, objective, *(f"{TEST_PREFIX}{name}" for name in tested)]
    for each in requirements:
        if each.metric not in known:
            listed, hint = ", ".join(dict.fromkeys(known)), nearest(each.metric, known)
            raise OptionError(f"--require {each.text}: {each.metric!r} is not among the metrics: {listed}.{hint}")


def describe_shortfall(requirements: Sequence[str], study: Study) -> str:
    """Return a line about the first requirement that the best trial of `study` does not fulfil; "" if there is none."""
    return next((line for text in requirements if (line := parse_requirement(text).shortfall(study))), "")


def _metric_of(study: Study, best: Trial, name: str) -> float | None:
    """Return a metric of the trial's best epoch, or of the test data; None if the trial has none of that name."""
    if name in (OBJECTIVE, study.objective.name):
        return best.objective
    logs = _logs_of(best)
    if name in logs:
        return logs[name]
    tested = best.best.tested.logs if best.best.tested is not None else {}
    return tested.get(name.removeprefix(TEST_PREFIX)) if name.startswith(TEST_PREFIX) else None


def _logs_of(best: Trial) -> dict[str, float]:
    execution = best.best_execution
    epoch = execution.find(execution.best_epoch) if execution.best_epoch is not None else None
    return dict(epoch.logs) if epoch is not None else {}


def _known_metrics(study: Study, best: Trial) -> list[str]:
    tested = best.best.tested.logs if best.best.tested is not None else {}
    names = [study.objective.name, *_logs_of(best), *(f"{TEST_PREFIX}{name}" for name in tested)]
    return list(dict.fromkeys(names))
