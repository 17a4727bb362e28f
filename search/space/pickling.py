"""Pickles of what is given from Python: cloudpickle's, and `tf.data.Dataset`s as the graphs that they are.

A dataset holds a handle to memory of its process. Its graph, with all tensors that it has captured, makes the same
dataset anew in another process.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle

__all__ = ["dumps"]

_OF_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""Operations that call a function of their own process."""


def dumps(value: Any) -> bytes:
    """Pickle `value`. Any exception where something in it cannot be pickled."""
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # cloudpickle is untyped
    def reducer_override(self, obj: Any) -> Any:
        # Who has a dataset has imported TensorFlow: others need not.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and isinstance(obj, tensorflow.data.Dataset):
            return dataset_of, (_graph_of(obj, tensorflow), obj.element_spec)
        return super().reducer_override(obj)


def _graph_of(dataset: Any, tf: Any) -> bytes:
    variant = tf.data.experimental.to_variant(dataset)
    # What a dataset draws at random has a state, which is none that must be kept: policy 1 is to ignore it.
    made = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1, strip_device_assignment=True)
    graph: bytes = made.numpy()
    parsed = tf.compat.v1.GraphDef.FromString(graph)
    nodes = [*parsed.node, *(node for function in parsed.library.function for node in function.node_def)]
    if not _OF_PYTHON.isdisjoint(node.op for node in nodes):
        raise pickle.PicklingError("a tf.data.Dataset that calls Python, as from_generator and py_function do")
    return graph


def dataset_of(graph: bytes, element_spec: Any) -> Any:
    """The dataset that a graph was made of."""
    import tensorflow as tf

    return tf.data.experimental.from_variant(tf.raw_ops.DatasetFromGraph(graph_def=graph), structure=element_spec)
