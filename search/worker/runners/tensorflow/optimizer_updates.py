"""Optimizer updates: traced for one variable, and repeated for the others.

Keras traces `update_step` for each variable. With Adam these are 37 operations, half of which make the same scalars
each time: a third and more of the time that tracing a model takes. Here the update is traced for the first variable of
each dtype. For each other variable the graph gets copies of the operations that depend on the variable, its gradient or
its slots. So the results are equal to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from search.worker.runners.dynamic_sizes import ELEMENTWISE_OPTIMIZERS
from search.worker.runners.tensorflow.internals import (
    PLACE,
    add_operation,
    shared_slots_of,
    slots_of,
    traced_updates,
    update_method,
)

__all__ = ["UpdateTemplate", "repeated_updates"]


@contextmanager
def repeated_updates(optimizer: Any) -> Iterator[None]:
    """Have an optimizer of Keras's trace its update once for all variables. Other optimizers are left alone."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if type(optimizer) not in ELEMENTWISE_OPTIMIZERS or not traced_updates.works:
        yield
        return
    with update_method(optimizer, functools.partial(functools.partial, _update, optimizer)):
        yield


def _update(optimizer: Any, trace: Any, strategy: Any, pairs: Sequence[tuple[Any, Any]], learning_rate: Any) -> None:
    """Update the variables of `pairs` (gradient, variable); `trace` is Keras's own method for that."""
    graph = tf.compat.v1.get_default_graph()
    templates: dict[Any, UpdateTemplate | None] = {}
    for gradient, variable in pairs:
        dtypes = (gradient.dtype, variable.dtype) if isinstance(gradient, tf.Tensor) else None
        template = templates.get(dtypes)
        own = [] if dtypes is None else [gradient, *_variable_handles(graph, optimizer, variable)]
        if template is not None:
            template.repeat(own)
            continue
        before = len(graph.get_operations())
        trace(strategy, [(gradient, variable)], learning_rate)
        if dtypes is not None and dtypes not in templates:
            known = {tensor.name for tensor in (*own, *_shared_handles(graph, optimizer))}
            templates[dtypes] = UpdateTemplate.of(graph, graph.get_operations()[before:], own, known)


def _variable_handles(graph: Any, optimizer: Any, variable: Any) -> list[Any]:
    """Return the handles of a variable and of its slots, as the graph captures them."""
    return [graph.capture(value.handle) for value in (variable, *slots_of(optimizer, variable))]


def _shared_handles(graph: Any, optimizer: Any) -> list[Any]:
    """Return the handles of the optimizer's variables that serve all, as the graph captures them."""
    return [graph.capture(value.handle) for value in shared_slots_of(optimizer)]


@dataclass(frozen=True, slots=True)
class UpdateTemplate:
    """The update that was traced for one variable.

    Attributes:
        own: the names of the tensors that a repetition replaces by those of another variable.
        operations: the operations that depend on these tensors, in order, with their attributes.
    """

    graph: Any
    own: list[str]
    operations: list[tuple[Any, Any]]

    @classmethod
    def of(cls, graph: Any, operations: Sequence[Any], own: Sequence[Any], known: set[str]) -> UpdateTemplate | None:
        """Return the template of a traced update; None if it cannot be repeated.

        Args:
            operations: the operations that were traced.
            own: the handles of the variable and its slots, and its gradient.
            known: the names of all handles that the update may use. One that uses another is not repeated.
        """
        dependent, repeated = {tensor.name for tensor in own}, []
        for operation in operations:
            resources = {tensor.name for tensor in operation.inputs if tensor.dtype == tf.resource}
            if not resources <= known:
                return None
            if not any(tensor.name in dependent for tensor in operation.inputs):
                continue
            attributes = dict(operation.node_def.attr)
            if any(value.HasField("func") for value in attributes.values()):
                return None
            attributes.pop(PLACE, None)  # with the variable
            dependent.update(tensor.name for tensor in operation.outputs)
            repeated.append((operation, attributes))
        return cls(graph, [tensor.name for tensor in own], repeated)

    def repeat(self, own: Sequence[Any]) -> None:
        """Add the update of another variable to the graph.

        Args:
            own: the tensors of that variable, in the order of `self.own`.
        """
        tensors = dict(zip(self.own, own, strict=True))
        copies: dict[str, Any] = {}
        for operation, attributes in self.operations:
            after = [copies.get(other.name, other) for other in operation.control_inputs]
            with self.graph.control_dependencies(after):
                inputs = [tensors.get(tensor.name, tensor) for tensor in operation.inputs]
                copy = add_operation(self.graph, operation, inputs, attributes)
            copies[operation.name] = copy
            tensors.update((old.name, new) for old, new in zip(operation.outputs, copy.outputs, strict=True))
