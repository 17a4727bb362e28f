"""What a worker holds of its trainings: the models of trials that may come back.

A trial that comes back goes on with the model that it had, into which its checkpoint is put: it gets what building anew
gives. That is known of Keras's own layers, losses, metrics, optimizers and callbacks. What a class or a function of the
user's remembers, a checkpoint may not hold: then nothing is held, and every segment builds its model.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from search.messages import Segment
from search.space.domain import Value
from search.worker.runners import graph_cache as graphs
from search.worker.runners.model_key import ModelKey

__all__ = ["Training", "drop_all", "hold", "keep", "take"]

MOST = 64 << 20
"""Scalars in the variables of all that is held, 256 MiB as a rule: on a GPU they take of the next trial's memory."""


@dataclass(frozen=True, slots=True)
class Training:
    """A model, and all that it is trained with.

    Attributes:
        options, callbacks: the user's.
        signature: None where a checkpoint may not hold all of its state.
    """

    model: Any
    options: Mapping[str, Any]
    callbacks: list[Any]
    signature: ModelKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _CachedModel:
    """What is held, and whose it is."""

    training: Training
    values: Mapping[str, Value]
    key: Hashable
    trial: int


_held: list[_CachedModel] = []
"""What was held first comes first."""


def _key(segment: Segment) -> Hashable:
    return segment.space, segment.folder, segment.execution, segment.seed, segment.fuse, segment.run_eagerly


def hold(segment: Segment, training: Training, values: Mapping[str, Value]) -> None:
    """Hold what `segment` has trained, if it is signed and as long as it may be wanted.

    Args:
        values: the trial's hyperparameters.
    """
    if training.signature is None:
        return
    key = _key(segment)
    _held[:] = [held for held in _held if held.key != key]
    _held.append(_CachedModel(training, dict(values), key, segment.trial))
    keep(segment.cached_trials)


def take(segment: Segment) -> Training | None:
    """What `segment` goes on with; None where it is not here."""
    key, values = _key(segment), dict(segment.values)
    return next((held.training for held in _held if held.key == key and held.values == values), None)


def keep(trials: Collection[int]) -> None:
    """Let go of all but what these trials come back for, and of the oldest where that is too much."""
    size = 0
    for held in reversed(list(_held)):
        if held.trial in trials:
            size += graphs.size(held.training.model)
        if held.trial not in trials or size > MOST:
            _held.remove(held)


def drop_all() -> None:
    """Let go of everything."""
    _held.clear()
