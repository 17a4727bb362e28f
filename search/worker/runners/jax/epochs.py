"""Fused epochs on JAX: compiled functions of the variables' values and of data that lie on the device.

On a GPU or TPU an epoch is one call, a `lax.scan` over its batches. On a processor it is a call for each batch, as
XLA's convolutions are several times slower within a loop there; calls run ahead, as nothing is read before the epoch's
end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import keras
import numpy as np

from search.worker.data.arrays import Split
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import Plan
from search.worker.runners.fused import Loops, has_own_steps, logs_of, on_device
from search.worker.runners.model_key import ModelKey

__all__ = ["graph", "loops"]

Variables = tuple[Sequence[Any], ...]
"""Those of the model, of its optimizer where it is trained, and of its metrics."""
State = tuple[list[Any], ...]
"""Their values."""


def loops(model: Any, plan: Plan) -> Loops:
    """See `search.worker.runners.fused.Framework`."""
    return _Graph(model, plan).loops(model, plan)


def graph(model: Any, plan: Plan, signature: ModelKey) -> _Graph:
    """See `search.worker.runners.fused.Framework`."""
    return _Graph(model, plan)


class _Graph:
    """See `search.worker.runners.fused.Graph`. Steps are functions of all variables' values, so they are no model's own."""

    def __init__(self, model: Any, plan: Plan) -> None:
        own = has_own_steps(model)
        make = epoch_of_device()
        self.train: Epoch = make(model.train_step, own)
        self.validate: Epoch = make(model.test_step, own)

    def loops(self, model: Any, plan: Plan, freedom: DynamicSizes | None = None) -> Loops:
        return _Loops(self, model, plan)


class _Loops:
    """See `search.worker.runners.fused.Loops`."""

    def __init__(self, graph: _Graph, model: Any, plan: Plan) -> None:
        self._graph, self._model, self._plan = graph, model, plan
        # As `fit` does: metrics have no variables before.
        model._symbolic_build(data_batch=plan.arrays.take(slice(plan.batch_size)))

    def train(self, order: Any) -> dict[str, Any]:
        plan, variables = self._plan, self._variables(self._model.optimizer.variables)
        self._graph.train.prepare(variables, plan.arrays, plan.batch_size)
        if plan.validation is not None:
            # What is needed next is compiled beside it.
            self._graph.validate.prepare(self._variables(), self._validation, plan.validation_batch_size)
        return self._run(self._graph.train, variables, plan.arrays, order, plan.batch_size)

    def validate(self) -> dict[str, Any]:
        split = self._validation
        order = np.arange(split.samples)
        return self._run(self._graph.validate, self._variables(), split, order, self._plan.validation_batch_size)

    @property
    def _validation(self) -> Split:
        assert isinstance(self._plan.validation, Split), "streams are not fused"
        return self._plan.validation

    def _variables(self, *more: Sequence[Any]) -> Variables:
        model = self._model
        return (model.trainable_variables, model.non_trainable_variables, *more, model.metrics_variables)

    def _run(self, epoch: Epoch, variables: Variables, split: Split, order: Any, batch_size: int) -> dict[str, Any]:
        data = on_device(split.packed, jnp.asarray)
        last, state = epoch(_own_buffers(variables), data, order.astype("int32"), batch_size)
        for group, values in zip(variables, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        logs: dict[str, Any] = logs_of(self._model, last)
        return logs


class Epoch(Protocol):
    """The batches of an epoch: (variables' values, data, order of the samples, batch size) → (logs of the last step,
    where they count; values). The values that are given are given away.

    It is made of the model's step, a function of variables' values and a batch, and of whether the step's logs count.
    """

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]: ...

    def prepare(self, variables: Variables, split: Split, batch_size: int) -> None:
        """Begin to compile what a call will need, if that can be done beside other work."""


class Steps:
    """See `Epoch`: a call for each batch. What it needs is compiled when it is called.

    The batch is taken by a function of its own, which all models share: within the step it would have to be compiled
    with each of them, a quarter of the time again.
    """

    def __init__(self, step: Any, own_logs: bool) -> None:
        def one(state: State, batch: Any) -> tuple[State, Any]:
            logs, state = step(state, batch)
            return state, logs if own_logs else None

        self._step = jax.jit(one, donate_argnums=0)

    def prepare(self, variables: Variables, split: Split, batch_size: int) -> None:
        pass

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        last = None
        for begin in range(0, len(order), batch_size):
            state, last = self._step(state, _take_compiled(data, order[begin : begin + batch_size]))
        return last, state


class Scan:
    """See `Epoch`: one call for all batches."""

    def __init__(self, step: Any, own_logs: bool) -> None:
        def run(state: State, batches: Any, rest: Any, data: Any) -> tuple[State, Any]:
            def one(state: State, indices: Any) -> tuple[State, Any]:
                logs, state = step(state, _take(data, indices))
                return state, logs if own_logs else None

            logs = None
            if len(batches):
                state, each = jax.lax.scan(one, state, batches)
                logs = jax.tree.map(lambda values: values[-1], each)
            return one(state, rest) if len(rest) else (state, logs)

        self._run = jax.jit(run, donate_argnums=0)
        self._compiled: dict[tuple[int, int], Future[Any]] = {}

    def prepare(self, variables: Variables, split: Split, batch_size: int) -> None:
        if (split.samples, batch_size) not in self._compiled:
            data = on_device(split.packed, jnp.asarray)
            order = np.arange(split.samples, dtype="int32")
            # Keras traces in this thread; XLA compiles in another.
            traced = self._run.lower(_values(variables), *_batches(order, batch_size), data)
            self._compiled[split.samples, batch_size] = _compilers.submit(traced.compile)

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        try:
            compiled = self._compiled[len(order), batch_size].result()
        except Exception:
            # A GPU that had no memory for it may have some when the trial is tried again.
            del self._compiled[len(order), batch_size]
            raise
        state, last = compiled(state, *_batches(order, batch_size), data)
        return last, state


def epoch_of_device() -> Callable[[Any, bool], Epoch]:
    """The form that is faster where JAX computes."""
    return Steps if jax.default_backend() == "cpu" else Scan


_compilers = ThreadPoolExecutor(2, "compile")
"""Its threads begin with their first work: after the fork."""


def _batches(order: Any, batch_size: int) -> tuple[Any, Any]:
    """The indices of whole batches, shape (batches, batch_size), and of the rest."""
    whole = len(order) - len(order) % batch_size
    return order[:whole].reshape(-1, batch_size), order[whole:]


def _take(data: Any, indices: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[indices], data)


_take_compiled = jax.jit(_take)


def _values(variables: Variables) -> State:
    return tuple([variable.value for variable in group] for group in variables)


def _own_buffers(variables: Variables) -> State:
    """The variables' values, each in memory of its own, as they are given away: one that was assigned to another
    variable (an average to its weight) shares it."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        taken = id(value) in seen
        seen.add(id(value))
        return jnp.copy(value) if taken else value

    return tuple([own(variable.value) for variable in group] for group in variables)
