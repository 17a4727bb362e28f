"""The models that a worker keeps, for trials that may be trained further.

Such a trial continues with its cached model, into which its checkpoint is restored. The result equals that of a new
model. This is known of Keras's own layers, losses, metrics, optimizers and callbacks. The state of a user's class or
function may not be in the checkpoint: such models are not cached, and every segment builds a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from search.messages import Segment
from search.space.domain import Value
from search.worker.runners.graph_cache import count_scalars
from search.worker.runners.model_key import ModelKey

__all__ = ["Training", "cache_model", "cached_trials", "clear_model_cache", "find_cached", "keep_only"]

MAX_CACHED_SCALARS = 64 << 20
"""Scalars in the variables of all cached models, at most; 256 MiB as a rule. On a GPU they take memory from trials."""


@dataclass(frozen=True, slots=True)
class Training:
    """A model and the user's arguments of its training.

    Attributes:
        options: the user's fit options.
        callbacks: the user's callbacks.
        model_key: the key for sharing graphs; None if a checkpoint may not hold all of the model's state.
    """

    model: Any
    options: Mapping[str, Any]
    callbacks: list[Any]
    model_key: ModelKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _CachedModel:
    """A cached training, and the execution that it belongs to."""

    training: Training
    values: Mapping[str, Value]
    execution: Hashable
    trial: int


_cache: list[_CachedModel] = []
"""The cached models, the oldest first."""


def _execution(segment: Segment) -> Hashable:
    options = segment.fuse, segment.graph_sharing, segment.run_eagerly
    return segment.space, segment.folder, segment.execution, segment.seed, options


def cache_model(segment: Segment, training: Training, values: Mapping[str, Value]) -> None:
    """Cache the model that `segment` has trained, if it has a key and its trial is one of `segment.cached_trials`.

    Args:
        values: the trial's hyperparameters.
    """
    if training.model_key is None:
        return
    execution = _execution(segment)
    _cache[:] = [cached for cached in _cache if cached.execution != execution]
    _cache.append(_CachedModel(training, dict(values), execution, segment.trial))
    keep_only(segment.cached_trials)


def find_cached(segment: Segment) -> Training | None:
    """Return the cached training that `segment` continues, or None."""
    execution, values = _execution(segment), dict(segment.values)
    return next(
        (cached.training for cached in _cache if cached.execution == execution and cached.values == values), None
    )


def keep_only(trials: Collection[int]) -> None:
    """Drop the models of all other trials, and the oldest ones beyond `MAX_CACHED_SCALARS`."""
    size = 0
    for cached in reversed(list(_cache)):
        if cached.trial in trials:
            size += count_scalars(cached.training.model)
        if cached.trial not in trials or size > MAX_CACHED_SCALARS:
            _cache.remove(cached)


def cached_trials() -> list[int]:
    """Return the trials whose models are cached, the oldest model first."""
    return [cached.trial for cached in _cache]


def clear_model_cache() -> None:
    """Drop all cached models."""
    _cache.clear()
