"""The winner's validation and test results side by side, and whether chance explains their difference.

Accuracy is the mean of n outcomes of 0 or 1, so its standard error is sqrt(p (1 − p) / n). A difference counts as
larger than chance if it exceeds two standard errors of the difference, sqrt(e_validation² + e_test²).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from search.display.text import format_objective
from search.study.study import Study
from search.study.trials import Trial
from search.wording import pluralize

__all__ = ["SplitPair", "compare_splits", "count_samples", "describe_difference", "standard_error"]

ERRORS = 2.0
"""Standard errors of the difference that chance may give."""


@dataclass(frozen=True, slots=True)
class SplitPair:
    """One metric of the winner on the validation and on the test data.

    Attributes:
        metric: its name on the test data.
        validation, test: its values.
        validation_samples, test_samples: the samples of each; None if unknown.
    """

    metric: str
    validation: float
    test: float
    validation_samples: int | None
    test_samples: int | None

    @property
    def errors(self) -> tuple[float | None, float | None]:
        """The standard errors of both values; None if unknown."""
        return (
            standard_error(self.metric, self.validation, self.validation_samples),
            standard_error(self.metric, self.test, self.test_samples),
        )

    @property
    def allowed(self) -> float | None:
        """The difference that chance may give: two standard errors of it; None if unknown."""
        first, second = self.errors
        return None if first is None or second is None else ERRORS * math.hypot(first, second)

    @property
    def beyond_chance(self) -> bool | None:
        """True if chance does not explain the difference; None if that is unknown."""
        allowed = self.allowed
        return None if allowed is None else abs(self.validation - self.test) > allowed


def is_share(metric: str) -> bool:
    """Return whether `metric` is a share of right answers among the samples."""
    name = metric.lower().removeprefix("val_").removeprefix("test_")
    return "accuracy" in name or name == "acc"


def standard_error(metric: str, value: float, samples: int | None) -> float | None:
    """Return the standard error of a share of right answers among `samples`; None for other metrics."""
    if not is_share(metric) or not samples or not 0 <= value <= 1:
        return None
    return math.sqrt(value * (1 - value) / samples)


def count_samples(study: Study, trial: Trial, split: str) -> int | None:
    """Return the number of samples in a split (`train`, `validation`, `test`) of the data that `trial` had.

    Of a stream it is the number of batches times the size of the first one, which is at most a batch too much. None
    if the study's journal does not tell.
    """
    for key, fingerprint in study.data.items():
        if all(trial.params.get(name) == value for name, value in json.loads(key).items()):
            return _count(fingerprint.get(split, {}))
    return None


def _count(parts: Mapping[str, str]) -> int | None:
    def first_size(prefix: str) -> int | None:
        for letter in "yx":
            for name, text in parts.items():
                found = re.search(r"\[(\d+)[,\]]", text)
                if name.partition(" ")[0 if not prefix else 2].startswith(letter) and found:
                    return int(found[1])
        return None

    batches = parts.get("batches")
    if batches is None:
        return first_size("")
    size = first_size("first")
    return int(batches) * size if batches.isdigit() and size is not None else None


def compare_splits(study: Study, trial: Trial) -> list[SplitPair]:
    """Return the metrics that `trial` has on the validation and on the test data, the objective's first."""
    tested = trial.best.tested
    record = None if tested is None else trial.executions[tested.execution].find(tested.epoch)
    if tested is None or record is None:
        return []
    samples = count_samples(study, trial, "validation"), count_samples(study, trial, "test")
    pairs = [
        SplitPair(name, record.logs[f"val_{name}"], value, *samples)
        for name, value in tested.logs.items()
        if f"val_{name}" in record.logs
    ]
    return sorted(pairs, key=lambda pair: f"val_{pair.metric}" != study.objective.name)


def describe_difference(pair: SplitPair, trials: int) -> str:
    """Return the meaning of the difference between validation and test, in one or two sentences.

    Args:
        pair: the objective on both.
        trials: the number of trials that the winner was chosen from.
    """
    validation, test = format_objective(pair.validation), format_objective(pair.test)
    start = f"Validation {validation}, test {test}:"
    chosen = f"the winner was chosen among {pluralize(trials, 'trial')}"
    if pair.validation_samples:
        chosen += f" on {pair.validation_samples:,} validation samples"
    if pair.allowed is None:
        why = "this metric" if pair.validation_samples and pair.test_samples else "an unknown number of samples"
        return f"{start} {chosen}. No standard error is known for {why}. Expect the test value for new data."
    numbers = (
        f"the difference is {abs(pair.validation - pair.test):.2g}, and chance gives up to {pair.allowed:.2g} "
        f"(two standard errors, from {pair.validation_samples:,} and {pair.test_samples:,} samples)"
    )
    if not pair.beyond_chance:
        return f"{start} {numbers}. So they agree."
    if pair.validation > pair.test:
        return f"{start} {chosen}. It is worse on the test data than chance explains: {numbers}. Expect the test value."
    return f"{start} the test data are easier than chance explains: {numbers}. The two may not be alike."
