"""Pickles of factories and data that are passed in Python: cloudpickle's, with each `tf.data.Dataset` as its graph.

A dataset holds a handle to memory of its process, which cannot be pickled. Its graph, with all captured tensors,
rebuilds the same dataset in another process.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle

__all__ = ["dumps"]

_PYTHON_CALLS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""Operations that call a Python function of their own process."""


def dumps(value: Any) -> bytes:
    """Return the pickle of `value`. Any exception may be raised if a part of `value` cannot be pickled."""
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # cloudpickle is untyped
    def reducer_override(self, obj: Any) -> Any:
        # A process that has a dataset has imported TensorFlow; the others need not.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and isinstance(obj, tensorflow.data.Dataset):
            return dataset_of, (_graph_of(obj, tensorflow), obj.element_spec)
        return super().reducer_override(obj)


def _graph_of(dataset: Any, tf: Any) -> bytes:
    variant = tf.data.experimental.to_variant(dataset)
    # Random operations have a state, which need not be kept: policy 1 ignores it.
    serialized = tf.raw_ops.DatasetToGraphV2(
        input_dataset=variant, external_state_policy=1, strip_device_assignment=True
    )
    graph: bytes = serialized.numpy()
    parsed = tf.compat.v1.GraphDef.FromString(graph)
    nodes = [*parsed.node, *(node for function in parsed.library.function for node in function.node_def)]
    if not _PYTHON_CALLS.isdisjoint(node.op for node in nodes):
        raise pickle.PicklingError("a tf.data.Dataset that calls Python, as from_generator and py_function do")
    return graph


def dataset_of(graph: bytes, element_spec: Any) -> Any:
    """Return the dataset of a serialized graph. Pickles name this function."""
    import tensorflow as tf

    return tf.data.experimental.from_variant(tf.raw_ops.DatasetFromGraph(graph_def=graph), structure=element_spec)
