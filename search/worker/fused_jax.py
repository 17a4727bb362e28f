"""Fused epochs on JAX: a compiled step that takes its own batch of data that lie on the device, called without waiting.

It runs ahead of the device, as nothing is read before the epoch's end. (A `lax.scan` over the steps is up to twice as
fast where a step takes a fraction of a millisecond, and on a processor several times slower with convolutions.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from search.worker.data import Split
from search.worker.fit import Plan
from search.worker.fused import has_own_steps, logs_of, on_device

__all__ = ["JaxLoops"]


class JaxLoops:
    """See `search.worker.fused.Loops`."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = model
        # As `fit` does: metrics have no variables before.
        model._symbolic_build(data_batch=plan.arrays.take(slice(plan.batch_size)))
        own = has_own_steps(model)
        self._train = _compiled(model.train_step, own)
        self._data, self._batch_size = on_device(plan.arrays.packed, jnp.asarray), plan.batch_size
        if plan.validation is not None:
            assert isinstance(plan.validation, Split), "streams are not fused"
            self._validate = _compiled(model.test_step, own)
            self._validation, self._validation_batch_size = (
                on_device(plan.validation.packed, jnp.asarray),
                plan.validation_batch_size,
            )
            self._order = np.arange(plan.validation.samples)

    def train(self, order: Any) -> dict[str, Any]:
        model = self._model
        variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        return self._run(self._train, variables, self._data, order, self._batch_size)

    def validate(self) -> dict[str, Any]:
        model = self._model
        variables = (model.trainable_variables, model.non_trainable_variables)
        return self._run(self._validate, variables, self._validation, self._order, self._validation_batch_size)

    def _run(
        self, step: Any, variables: Sequence[Sequence[Any]], data: Any, order: Any, batch_size: int
    ) -> dict[str, Any]:
        held = (*variables, self._model.metrics_variables)
        state, last = _own_buffers(held), None
        indices = order.astype("int32")
        for begin in range(0, len(indices), batch_size):
            last, state = step(state, data, indices[begin : begin + batch_size])
        for group, values in zip(held, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        logs: dict[str, Any] = logs_of(self._model, last)
        return logs


def _compiled(step: Any, own_logs: bool) -> Any:
    """A function (state, data, indices of the batch) → (logs of the step, where they count, state)."""

    def run(state: Any, data: Any, indices: Any) -> tuple[Any, Any]:
        logs, state = step(state, keras.tree.map_structure(lambda array: array[indices], data))
        return logs if own_logs else None, state

    return jax.jit(run, donate_argnums=0)


def _own_buffers(groups: Sequence[Sequence[Any]]) -> tuple[list[Any], ...]:
    """The variables' values, each in memory of its own, as they are given away: one that was assigned to another
    variable (an average to its weight) shares it."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        taken = id(value) in seen
        seen.add(id(value))
        return jnp.copy(value) if taken else value

    return tuple([own(variable.value) for variable in group] for group in groups)
