"""An optimizer's update, traced for one variable and repeated for the others.

Keras traces `update_step` for each variable, with Adam 37 operations, half of which make the same scalars each time: a
third and more of what a model takes to be traced. Here it is traced for the first variable of each dtype. For the
others the graph gets once more the operations that depend on the variable, its gradient or its slots, as they are. So
the results are equal to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from search.worker.runners.dynamic_sizes import ELEMENTWISE

__all__ = ["repeated"]

_SLOTS = (
    "momentums",
    "_accumulated_delta_vars",
    "_accumulated_grads",
    "_accumulators",
    "_average_gradients",
    "_linears",
    "_m",
    "_momentums",
    "_u",
    "_velocities",
    "_velocity_hats",
)
"""Where Keras's optimizers keep a variable for each variable."""

_SHARED = ("_iterations", "_learning_rate", "_u_product")
"""Where they keep a variable for all of them."""

_UPDATE = "_distributed_tf_update_step"


@contextmanager
def repeated(optimizer: Any) -> Iterator[None]:
    """Have an optimizer trace its update once for all variables; others than those of Keras are left alone.

    It needs TensorFlow's and Keras's insides, and raises anything where a version has others.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if type(optimizer) not in ELEMENTWISE:
        yield
        return
    attributes = vars(optimizer)  # past what Keras does when an attribute is set
    attributes[_UPDATE] = functools.partial(_update, optimizer, getattr(optimizer, _UPDATE))
    try:
        yield
    finally:
        del attributes[_UPDATE]


def _update(optimizer: Any, trace: Any, strategy: Any, pairs: Sequence[tuple[Any, Any]], learning_rate: Any) -> None:
    """Update variables, of which there are pairs (gradient, variable)."""
    graph = tf.compat.v1.get_default_graph()
    templates: dict[Any, _Template | None] = {}
    for gradient, variable in pairs:
        kind = (gradient.dtype, variable.dtype) if isinstance(gradient, tf.Tensor) else None
        template = templates.get(kind)
        own = [] if kind is None else [gradient, *_captured(graph, optimizer, variable)]
        if template is not None:
            template.repeat(own)
            continue
        before = len(graph.get_operations())
        trace(strategy, [(gradient, variable)], learning_rate)
        if kind is not None and kind not in templates:
            known = {tensor.name for tensor in (*own, *_shared(graph, optimizer))}
            templates[kind] = _Template.of(graph, graph.get_operations()[before:], own, known)


def _captured(graph: Any, optimizer: Any, variable: Any) -> list[Any]:
    """The handles of a variable and of its slots, as the graph has them."""
    index = optimizer._get_variable_index(variable)
    slots = [getattr(optimizer, name, None) for name in _SLOTS]
    values = [variable, *(slot[index].value for slot in slots if slot)]
    return [graph.capture(value.handle) for value in values]


def _shared(graph: Any, optimizer: Any) -> list[Any]:
    """The handles of what all variables share, as the graph has them."""
    variables = [getattr(optimizer, name, None) for name in _SHARED]
    return [graph.capture(variable.value.handle) for variable in variables if isinstance(variable, keras.Variable)]


@dataclass(frozen=True, slots=True)
class _Template:
    """What was traced for one variable.

    Attributes:
        own: the tensors that are another variable's when it is repeated, by name.
        operations: those that depend on them, in order, with their attributes.
    """

    graph: Any
    own: list[str]
    operations: list[tuple[Any, Any]]

    @classmethod
    def of(cls, graph: Any, operations: Sequence[Any], own: Sequence[Any], known: set[str]) -> _Template | None:
        """None where an operation cannot be repeated, or has a variable that is not among the `known` tensors."""
        depend, kept = {tensor.name for tensor in own}, []
        for operation in operations:
            resources = {tensor.name for tensor in operation.inputs if tensor.dtype == tf.resource}
            if not resources <= known:
                return None
            if not any(tensor.name in depend for tensor in operation.inputs):
                continue
            attributes = dict(operation.node_def.attr)
            if any(value.HasField("func") for value in attributes.values()):
                return None
            attributes.pop("_class", None)  # it is placed by the variable
            depend.update(tensor.name for tensor in operation.outputs)
            kept.append((operation, attributes))
        return cls(graph, [tensor.name for tensor in own], kept)

    def repeat(self, own: Sequence[Any]) -> None:
        tensors = dict(zip(self.own, own, strict=True))
        made: dict[str, Any] = {}
        for operation, attributes in self.operations:
            after = [made.get(other.name, other) for other in operation.control_inputs]
            with self.graph.control_dependencies(after):
                copy = self.graph._create_op_internal(
                    operation.type,
                    [tensors.get(tensor.name, tensor) for tensor in operation.inputs],
                    [tensor.dtype for tensor in operation.outputs],
                    attrs=attributes,
                    op_def=operation.op_def,
                )
            made[operation.name] = copy
            tensors.update((old.name, new) for old, new in zip(operation.outputs, copy.outputs, strict=True))
