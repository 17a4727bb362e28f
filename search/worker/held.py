"""What a worker holds of its trainings: models built and traced.

A trial that comes back goes on with the model that it had; a new one whose model trains by the same graph is trained on
that one. So a held model may serve several trials, one after the other: each puts its own state into it, from its
checkpoint or its new model, and gets what building anew gives.

That is known of Keras's own layers, losses, metrics, optimizers and callbacks. What a class or a function of the user's
remembers, a checkpoint may not hold: then nothing is held, and every segment builds its model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.domain import Value
from search.messages import Segment
from search.worker import distribution, signature
from search.worker.fused import FusedRunner

__all__ = ["Training", "adopt", "drop_all", "hand_over", "hold", "keep", "sign", "take"]

MOST = 64 << 20
"""Scalars in the variables of all that is held, 256 MiB as a rule: on a GPU they take of the next trial's memory."""

MOST_SIGNS = 8
"""Graphs that are held though no trial comes back to them, as long as there are no more than so many in all."""


@dataclass(frozen=True, slots=True)
class Training:
    """A model, and all that it is trained with.

    Attributes:
        options, callbacks: the user's.
        sign: what its graph depends on, as `sign` gives it.
        runner: what has trained it so far, where its loops are of use to another.
    """

    model: Any
    options: Mapping[str, Any]
    callbacks: list[Any]
    sign: Hashable | None = None
    runner: FusedRunner | None = None

    @property
    def size(self) -> int:
        """Scalars in the variables of model and optimizer."""
        return sum(math.prod(variable.shape) for variable in _variables(self.model))


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What is held, and whose it is."""

    training: Training
    values: Mapping[str, Value]
    key: Hashable
    trial: int


_held: list[_Held] = []
"""What was held first comes first."""


def _key(segment: Segment) -> Hashable:
    return segment.space, segment.folder, segment.execution, segment.seed, segment.fuse, segment.run_eagerly


def sign(model: Any, callbacks: Sequence[Any]) -> Hashable | None:
    """What the graph of a model depends on that is built, compiled and not yet trained; None where it cannot be told.

    Args:
        callbacks: the user's; what they know of the model's making cannot be told either.
    """
    if distribution.count() > 1 or signature.of_callbacks(callbacks) is None:
        return None  # a strategy ends with its session
    return signature.of_model(model)


def hold(segment: Segment, training: Training, values: Mapping[str, Value]) -> None:
    """Hold what `segment` has trained, if it is signed and as long as it may be wanted.

    Args:
        values: the trial's hyperparameters.
    """
    if training.sign is None:
        return
    key = _key(segment)
    _held[:] = [held for held in _held if held.key != key]
    _held.append(_Held(training, dict(values), key, segment.trial))
    keep(segment.hold)


def take(segment: Segment) -> Training | None:
    """What `segment` goes on with; None where it is not here."""
    key, values = _key(segment), dict(segment.values)
    return next((held.training for held in _held if held.key == key and held.values == values), None)


def adopt(sign: Hashable) -> Training | None:
    """A training by a graph of this signature."""
    return next((held.training for held in _held if held.training.sign == sign), None)


def hand_over(model: Any, to: Any) -> bool:
    """Put the values of all variables of a model that was not trained yet into one with the same signature.

    Returns:
        False where it has other variables after all; then nothing was done to it.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    sources, targets = _variables(model), _variables(to)
    if [_kind(variable) for variable in sources] != [_kind(variable) for variable in targets]:
        return False
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)
    return True


def keep(trials: Collection[int]) -> None:
    """Let go of what neither these trials come back for nor others can use, and of the oldest where it is too much."""
    wanted = [held for held in _held if held.trial in trials]
    signs = {held.training.sign for held in wanted}
    for held in reversed(_held):
        if held.training.sign not in signs and len(signs) < MOST_SIGNS:
            wanted.append(held)
            signs.add(held.training.sign)
    size = 0
    models: set[int] = set()
    for held in reversed(list(_held)):
        if held in wanted and id(held.training.model) not in models:
            size += held.training.size
            models.add(id(held.training.model))
        if held not in wanted or size > MOST:
            _held.remove(held)


def drop_all() -> None:
    """Let go of everything."""
    _held.clear()


def _variables(model: Any) -> list[Any]:
    return [*model.variables, *getattr(model.optimizer, "variables", ())]


def _kind(variable: Any) -> tuple[Any, ...]:
    return tuple(variable.shape), variable.dtype
