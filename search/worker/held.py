"""What a worker holds of trainings that may go on: the model, built and traced, for when it gets the trial again.

To go on with it gives what building anew gives: the checkpoint's state is put into it in either case.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from search.domain import Value
from search.messages import Segment
from search.worker import distribution
from search.worker.data import Data
from search.worker.runner import Runner

__all__ = ["Training", "drop_all", "hold", "keep", "take"]

MOST = 64 << 20
"""Scalars in the variables of all that is held, 256 MiB as a rule: on a GPU they take of the next trial's memory."""


@dataclass(frozen=True, slots=True)
class Training:
    """A model, and all that it is trained with.

    Attributes:
        data: what the runner trains on.
        options, callbacks: the user's.
    """

    model: Any
    data: Data
    options: Mapping[str, Any]
    callbacks: list[Any]
    runner: Runner

    def is_on(self, data: Data) -> bool:
        """Whether these are the arrays that it is on. Streams hold state, and are made anew for each segment."""
        return data.is_arrays and data.train is self.data.train and data.validation is self.data.validation

    @property
    def size(self) -> int:
        """Scalars in the variables of model and optimizer."""
        variables = (*self.model.variables, *getattr(self.model.optimizer, "variables", ()))
        return sum(math.prod(variable.shape) for variable in variables)


_held: OrderedDict[tuple[Any, ...], tuple[Training, int, Mapping[str, Value]]] = OrderedDict()


def _key(segment: Segment) -> tuple[Any, ...]:
    return segment.space, segment.folder, segment.execution, segment.seed, segment.fuse, segment.run_eagerly


def hold(segment: Segment, training: Training, values: Mapping[str, Value]) -> None:
    """Hold what `segment` has trained, and let go of what was held longest where it is too much.

    Args:
        values: the trial's hyperparameters.
    """
    if distribution.count() > 1:
        return  # its strategy ends with its session
    _held[_key(segment)] = training, segment.trial, dict(values)
    size = sum(training.size for training, _, _ in _held.values())
    while size > MOST:
        _, (dropped, _, _) = _held.popitem(last=False)
        size -= dropped.size


def take(segment: Segment) -> Training | None:
    """What `segment` goes on with, no longer held; None where it is not here."""
    found = _held.pop(_key(segment), None)
    return found[0] if found is not None and found[2] == segment.values else None


def keep(trials: Collection[int]) -> None:
    """Let go of all trials but these."""
    for key in [key for key, (_, trial, _) in _held.items() if trial not in trials]:
        del _held[key]


def drop_all() -> None:
    """Let go of everything."""
    _held.clear()
