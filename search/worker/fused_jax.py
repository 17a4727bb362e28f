"""Fused epochs on JAX: a `lax.scan` over the model's stateless step, and one more step for the last, smaller batch.

The model's variables go into the compiled function and come back once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from search.worker.data import Split
from search.worker.fit import Plan
from search.worker.fused import has_own_steps, logs_of

__all__ = ["JaxLoops"]


class JaxLoops:
    """See `search.worker.fused.Loops`."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = model
        # As `fit` does: metrics have no variables before.
        model._symbolic_build(data_batch=plan.arrays.take(slice(plan.batch_size)))
        own = has_own_steps(model)
        self._data = _on_device(plan.arrays.packed)
        self._train = jax.jit(_epoch(model.train_step, plan.batch_size, own), donate_argnums=0)
        if plan.validation is not None:
            assert isinstance(plan.validation, Split), "streams are not fused"
            self._validation = _on_device(plan.validation.packed)
            self._order = jnp.arange(plan.validation.samples)
            self._validate = jax.jit(_epoch(model.test_step, plan.validation_batch_size, own), donate_argnums=0)

    def train(self, order: Any) -> dict[str, Any]:
        model = self._model
        return self._run(
            self._train,
            (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables),
            self._data,
            jnp.asarray(order),
        )

    def validate(self) -> dict[str, Any]:
        model = self._model
        variables = (model.trainable_variables, model.non_trainable_variables)
        return self._run(self._validate, variables, self._validation, self._order)

    def _run(self, epoch: Any, variables: Sequence[Sequence[Any]], data: Any, order: Any) -> dict[str, Any]:
        held = (*variables, self._model.metrics_variables)
        state, last = epoch(_own_buffers(held), data, order)
        for group, values in zip(held, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        logs: dict[str, Any] = logs_of(self._model, last)
        return logs


def _epoch(step: Any, batch_size: int, own_logs: bool) -> Any:
    """A function (state, data, order of samples) → (state, logs of the last step, where they count)."""

    def epoch(state: Any, data: Any, order: Any) -> tuple[Any, Any]:
        def take(state: Any, indices: Any) -> Any:
            return step(state, keras.tree.map_structure(lambda array: array[indices], data))

        samples = order.shape[0]
        whole, rest = divmod(samples, batch_size)
        looped = whole - (own_logs and not rest)
        if looped:
            batches = order[: looped * batch_size].reshape(looped, batch_size)
            state, _ = jax.lax.scan(lambda state, indices: (take(state, indices)[1], None), state, batches)
        last = None
        if looped * batch_size < samples:
            last, state = take(state, order[looped * batch_size :])
        return state, last if own_logs else None

    return epoch


def _own_buffers(groups: Sequence[Sequence[Any]]) -> tuple[list[Any], ...]:
    """The variables' values, each in memory of its own, as they are given away: one that was assigned to another
    variable (an average to its weight) shares it."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        taken = id(value) in seen
        seen.add(id(value))
        return jnp.copy(value) if taken else value

    return tuple([own(variable.value) for variable in group] for group in groups)


def _on_device(packed: Any) -> Any:
    return keras.tree.map_structure(jnp.asarray, packed)
