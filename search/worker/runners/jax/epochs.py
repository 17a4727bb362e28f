"""Fused epochs on JAX: compiled functions of the variables' values and of data that lie on the device.

On a GPU or TPU an epoch is one call, a `lax.scan` over its batches. On a processor each batch is a call, as XLA's
convolutions are several times slower within a loop there. Calls run ahead, as nothing is read before the epoch's end.
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
from search.worker.runners.fit import TrainingPlan
from search.worker.runners.fused import Loops, copy_to_device, create_metric_variables, epoch_logs, has_own_steps
from search.worker.runners.model_key import ModelKey

__all__ = ["make_loops", "make_shared_graph"]

Variables = tuple[Sequence[Any], ...]
"""The variables of the model, of its optimizer if it is trained, and of its metrics: a sequence for each group."""
State = tuple[list[Any], ...]
"""The values of `Variables`."""


def make_loops(model: Any, plan: TrainingPlan) -> Loops:
    """Return loops of the model's own, see `search.worker.runners.fused.Framework`."""
    return _SharedGraph(model).loops_for(model, plan)


def make_shared_graph(model: Any, plan: TrainingPlan, model_key: ModelKey) -> _SharedGraph:
    """Return a graph for all models with this key, see `search.worker.runners.fused.Framework`."""
    return _SharedGraph(model)


class _SharedGraph:
    """A graph as in `search.worker.runners.fused.SharedGraph`.

    Steps are functions of all variables' values, so no model owns them.
    """

    is_loaded = False

    def __init__(self, model: Any) -> None:
        self._step = model.train_step
        own_logs = has_own_steps(model)
        make = epoch_function_class()
        self.train: EpochFunction = make(model.train_step, own_logs)
        self.validate: EpochFunction = make(model.test_step, own_logs)

    def loops_for(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes | None = None) -> _Loops:
        return _Loops(self, model, plan)

    def trains_like(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> bool:
        """Compare the programs of both steps. Equal ones give equal results, and to compile a step takes seconds."""
        batch = keras.tree.map_structure(lambda array: array[: plan.batch_size], plan.arrays.step_data)
        state = _values(self.loops_for(model, plan).variables)
        graph, own = (jax.jit(step).lower(state, batch).as_text() for step in (self._step, model.train_step))
        return bool(graph == own)


class _Loops:
    """Loops as in `search.worker.runners.fused.Loops`."""

    def __init__(self, graph: _SharedGraph, model: Any, plan: TrainingPlan) -> None:
        self._graph, self._model, self._plan = graph, model, plan
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        create_metric_variables(model, plan.arrays.step_spec)

    def prepare(self) -> None:
        pass  # the first call compiles

    def train(self, order: Any) -> dict[str, Any]:
        plan, variables = self._plan, self.variables
        self._graph.train.prepare(variables, plan.arrays, plan.batch_size)
        if plan.validation is not None:
            # Validation is needed next, and is compiled beside the training.
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

    @property
    def variables(self) -> Variables:
        """The variables of a training step."""
        return self._variables(self._model.optimizer.variables)

    def _variables(self, *more: Sequence[Any]) -> Variables:
        model = self._model
        return (model.trainable_variables, model.non_trainable_variables, *more, model.metrics_variables)

    def _run(
        self, function: EpochFunction, variables: Variables, split: Split, order: Any, batch_size: int
    ) -> dict[str, Any]:
        data = copy_to_device(split.step_data, jnp.asarray)
        last_logs, state = function(_own_buffers(variables), data, order.astype("int32"), batch_size)
        for group, values in zip(variables, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        logs: dict[str, Any] = epoch_logs(self._model, last_logs)
        return logs


class EpochFunction(Protocol):
    """A function that runs all batches of an epoch.

    It is made of the model's step, a function of variables' values and a batch, and of whether the step's logs count.
    """

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        """Return the logs of the last step, or None if they do not count, and the variables' new values.

        Args:
            state: the variables' values. Their memory is given away.
            order: the order of the samples: indices, shape (samples,).
        """

    def prepare(self, variables: Variables, split: Split, batch_size: int) -> None:
        """Begin to compile for a call, if that can be done beside other work."""


class BatchCalls:
    """An `EpochFunction` that makes a call for each batch, and compiles at the first call.

    A function of its own, which all models share, takes the batch from the data. Within the step it would be compiled
    with each model, which takes a quarter longer.
    """

    def __init__(self, step: Any, own_logs: bool) -> None:
        def one(state: State, batch: Any) -> tuple[State, Any]:
            logs, state = step(state, batch)
            return state, logs if own_logs else None

        self._step = jax.jit(one, donate_argnums=0)

    def prepare(self, variables: Variables, split: Split, batch_size: int) -> None:
        pass

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        last_logs = None
        for begin in range(0, len(order), batch_size):
            state, last_logs = self._step(state, _take_compiled(data, order[begin : begin + batch_size]))
        return last_logs, state


class BatchScan:
    """An `EpochFunction` that makes one call for all batches."""

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
            data = copy_to_device(split.step_data, jnp.asarray)
            order = np.arange(split.samples, dtype="int32")
            # Keras traces in this thread; XLA compiles in another.
            lowered = self._run.lower(_values(variables), *_batches(order, batch_size), data)
            self._compiled[split.samples, batch_size] = _compilers.submit(lowered.compile)

    def __call__(self, state: State, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        try:
            compiled = self._compiled[len(order), batch_size].result()
        except Exception:
            # A GPU without memory for the program may have some when the trial is tried again.
            del self._compiled[len(order), batch_size]
            raise
        state, last_logs = compiled(state, *_batches(order, batch_size), data)
        return last_logs, state


def epoch_function_class() -> Callable[[Any, bool], EpochFunction]:
    """Return the class that is faster on JAX's default device."""
    return BatchCalls if jax.default_backend() == "cpu" else BatchScan


_compilers = ThreadPoolExecutor(2, "compile")
"""The threads that compile, started with their first work: after the fork."""


def _batches(order: Any, batch_size: int) -> tuple[Any, Any]:
    """Return the indices of whole batches, shape (batches, batch_size), and of the rest."""
    whole = len(order) - len(order) % batch_size
    return order[:whole].reshape(-1, batch_size), order[whole:]


def _take(data: Any, indices: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[indices], data)


_take_compiled = jax.jit(_take)


def _values(variables: Variables) -> State:
    return tuple([variable.value for variable in group] for group in variables)


def _own_buffers(variables: Variables) -> State:
    """Return the variables' values, each in memory of its own, as a call gives it away.

    A value that was assigned to another variable (an average to its weight) shares memory with it, and is copied.
    """
    seen: set[int] = set()

    def own(value: Any) -> Any:
        is_shared = id(value) in seen
        seen.add(id(value))
        return jnp.copy(value) if is_shared else value

    return tuple([own(variable.value) for variable in group] for group in variables)
