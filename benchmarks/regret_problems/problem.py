"""The base class of problems: a space, the curves of its configurations, and the scale of regret."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.space.domain import Parameter, Value
from search.study.trial import Objective

Config = Mapping[str, Value]
"""The values of a configuration's active parameters, by name."""


class ProblemError(Exception):
    """Data that cannot be used, with one line that says which, and why."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The learning curve of one configuration, epoch 1 first.

    Attributes:
        observed: the values that a search sees.
        true: the values without noise, by which regret is measured.
    """

    observed: Sequence[float]
    true: Sequence[float]


class Problem(ABC):
    """A space, and the learning curves of its configurations.

    Attributes:
        name: of the problem, within its family.
        objective: the metric to compare, and its direction.
        max_epochs: the epochs of a full training.
        parameters: all of the space; one with conditions is asked for only if these hold.
        trainings: the budgets of a search with one worker, in full trainings.
        configs: the configurations that may be chosen; None if all of the space may.
        data: a digest of the data, "" if there are none.
    """

    name: str
    objective: Objective
    max_epochs: int
    parameters: Sequence[Parameter]
    trainings: Sequence[int]
    configs: Sequence[Config] | None = None
    data: str = ""

    @abstractmethod
    def curve(self, config: Config, seed: int) -> Curve:
        """Return the curve of `config` in the search with `seed`, upon which noise depends."""

    @abstractmethod
    def find_scale(self) -> tuple[float, float]:
        """Return the objective of the best known configuration, and that of a median one."""

    def test_value(self, config: Config, epoch: int) -> float | None:
        """Return the model's value on test data after `epoch`; None if the problem has none."""
        return None

    @functools.cached_property
    def scale(self) -> tuple[float, float]:
        """The result of `find_scale`, which is called once."""
        return self.find_scale()

    def regret(self, value: float) -> float:
        """Return the normalised regret of a true value: 0 for the best known configuration, 1 for a median one."""
        best, median = self.scale
        return (best - value) / (best - median)

    def budgets(self, workers: int) -> list[int]:
        """Return the times at which regret is taken, in virtual seconds: with one worker, also the epochs so far."""
        if workers == 1:
            return [count * self.max_epochs for count in self.trainings]
        return [round(share * self.max_epochs) for share in (0.25, 0.5, 1, 2)]


def digest(path: Path) -> str:
    """Return a short digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
