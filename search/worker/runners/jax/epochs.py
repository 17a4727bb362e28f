"""Fused epochs on JAX: compiled functions of the variables' values and of data that lie on the device."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from search.worker.data.arrays import Split
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import TrainingPlan
from search.worker.runners.fused import Loops, copy_to_device, create_metric_variables, epoch_logs, has_own_steps
from search.worker.runners.jax.epoch_functions import EpochFunction, Scalars, State, Variables, values_of
from search.worker.runners.jax.lifting import LiftedStep, ScalarInputs
from search.worker.runners.model_key import ModelKey

__all__ = ["make_loops", "make_shared_graph"]

_NONE = DynamicSizes()

_Specs = tuple[Any, Any]
"""The state and the batch of a step, as shapes and dtypes."""


def make_loops(model: Any, plan: TrainingPlan) -> Loops:
    """Return loops of the model's own, see `search.worker.runners.fused.Framework`."""
    return _SharedGraph(model).loops_for(model, plan)


def make_shared_graph(model: Any, plan: TrainingPlan, model_key: ModelKey) -> _SharedGraph:
    """Return a graph for all models with this key, see `search.worker.runners.fused.Framework`."""
    graph = _SharedGraph(model, model_key.dynamic_sizes)
    graph.loops_for(model, plan, model_key.dynamic_sizes).prepare()  # a model that cannot share it raises
    return graph


class _SharedGraph:
    """A graph as in `search.worker.runners.fused.SharedGraph`.

    Steps are functions of the values of all variables and of the dynamic scalars, so no model owns them.
    """

    is_loaded = False

    def __init__(self, model: Any, dynamic_sizes: DynamicSizes = _NONE) -> None:
        own_logs = has_own_steps(model)
        self._inputs = ScalarInputs()
        self._train_step = LiftedStep(model.train_step, dynamic_sizes.scalars, self._inputs)
        self._test_step = LiftedStep(model.test_step, dynamic_sizes.scalars, self._inputs)
        self.train = EpochFunction(self._train_step, own_logs)
        self.validate = EpochFunction(self._test_step, own_logs)

    def loops_for(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes = _NONE) -> _Loops:
        return _Loops(self, model, plan, dynamic_sizes)

    def trace(self, training: Iterable[_Specs], validation: Iterable[_Specs]) -> None:
        """Trace steps with dynamic scalars for batches of these sizes.

        Raises:
            NotLiftable: these scalars cannot be dynamic.
        """
        for state, batch in training:
            self._train_step.trace(state, batch)
        for state, batch in validation:
            self._test_step.trace(state, batch)
        self._inputs.complete()

    def scalars_of(self, dynamic_sizes: DynamicSizes) -> Scalars:
        """Return the values of a model's dynamic scalars, as the functions take them."""
        return self._inputs.values(dynamic_sizes.scalars)

    def trains_like(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> bool:
        """Compare the programs of both training steps, and their inputs. To compile a program would take seconds.

        To make the model's own graph is a test as well: each of its scalars must stand where the graph has an input.
        """
        own = _SharedGraph(model, dynamic_sizes)
        loops = own.loops_for(model, plan, dynamic_sizes)
        loops.prepare()
        batch = next(loops.training_batches())
        return self._inputs.inputs == own._inputs.inputs and self._text(*batch) == own._text(*batch)

    def _text(self, state: Any, batch: Any) -> str:
        scalars = (jax.ShapeDtypeStruct((), np.float32),) * len(self._inputs.inputs)
        return str(jax.jit(self._train_step.__call__).lower(state, scalars, batch).as_text())


class _Loops:
    """Loops as in `search.worker.runners.fused.Loops`."""

    def __init__(self, graph: _SharedGraph, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> None:
        self._graph, self._model, self._plan, self._dynamic_sizes = graph, model, plan, dynamic_sizes
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        create_metric_variables(model, plan.arrays.step_spec)

    def prepare(self) -> None:
        self._graph.trace(self.training_batches(), self.validation_batches())  # the first call compiles

    def train(self, order: Any) -> dict[str, Any]:
        plan, variables = self._plan, self.variables
        self._graph.train.prepare(variables, self._scalars, plan.arrays, plan.batch_size)
        if plan.validation is not None:
            # Validation is needed next, and is compiled beside the training.
            validation = self._validation
            self._graph.validate.prepare(self._variables(), self._scalars, validation, plan.validation_batch_size)
        return self._run(self._graph.train, variables, plan.arrays, order, plan.batch_size)

    def validate(self) -> dict[str, Any]:
        split = self._validation
        order = np.arange(split.samples)
        return self._run(self._graph.validate, self._variables(), split, order, self._plan.validation_batch_size)

    def training_batches(self) -> Iterator[_Specs]:
        """Yield (state, batch) for each size of a training batch, as shapes and dtypes."""
        return _specs(self.variables, self._plan.arrays, self._plan.batch_size)

    def validation_batches(self) -> Iterator[_Specs]:
        """Yield the same for validation, if there is one."""
        if self._plan.validation is not None:
            yield from _specs(self._variables(), self._validation, self._plan.validation_batch_size)

    @functools.cached_property
    def _scalars(self) -> Scalars:
        return self._graph.scalars_of(self._dynamic_sizes)

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
        state = _own_buffers(variables)
        last_logs, state = function(state, self._scalars, data, order.astype("int32"), batch_size)
        for group, values in zip(variables, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        logs: dict[str, Any] = epoch_logs(self._model, last_logs)
        return logs


def _specs(variables: Variables, split: Split, batch_size: int) -> Iterator[_Specs]:
    data = copy_to_device(split.step_data, jnp.asarray)
    state = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), values_of(variables))
    sizes = {min(batch_size, split.samples): None, split.samples % batch_size: None}
    for size in filter(None, sizes):
        take = functools.partial(_first, size)
        yield state, jax.tree.map(take, data)


def _first(size: int, array: Any) -> Any:
    return jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)


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
