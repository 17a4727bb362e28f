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
from search.worker.freedom import Freedom
from search.worker.fused import Loops, has_own_steps, logs_of, on_device
from search.worker.signature import Signature

__all__ = ["graph", "loops"]


def loops(model: Any, plan: Plan) -> Loops:
    """See `search.worker.fused.Framework`."""
    return _Graph(model, plan).loops(model, plan)


def graph(model: Any, plan: Plan, signature: Signature) -> _Graph:
    """See `search.worker.fused.Framework`."""
    return _Graph(model, plan)


class _Graph:
    """See `search.worker.fused.Graph`. Steps are functions of all variables' values, so they are no model's own."""

    def __init__(self, model: Any, plan: Plan) -> None:
        own = has_own_steps(model)
        self.train, self.validate = _compiled(model.train_step, own), _compiled(model.test_step, own)

    def loops(self, model: Any, plan: Plan, freedom: Freedom | None = None) -> Loops:
        return _Loops(self, model, plan)


class _Loops:
    """See `search.worker.fused.Loops`."""

    def __init__(self, graph: _Graph, model: Any, plan: Plan) -> None:
        self._graph, self._model, self._plan = graph, model, plan
        # As `fit` does: metrics have no variables before.
        model._symbolic_build(data_batch=plan.arrays.take(slice(plan.batch_size)))

    def train(self, order: Any) -> dict[str, Any]:
        model, plan = self._model, self._plan
        variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        return self._run(self._graph.train, variables, plan.arrays, order, plan.batch_size)

    def validate(self) -> dict[str, Any]:
        model, split = self._model, self._plan.validation
        assert isinstance(split, Split), "streams are not fused"
        variables = (model.trainable_variables, model.non_trainable_variables)
        order = np.arange(split.samples)
        return self._run(self._graph.validate, variables, split, order, self._plan.validation_batch_size)

    def _run(
        self, step: Any, variables: Sequence[Sequence[Any]], split: Split, order: Any, batch_size: int
    ) -> dict[str, Any]:
        held = (*variables, self._model.metrics_variables)
        data = on_device(split.packed, jnp.asarray)
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
