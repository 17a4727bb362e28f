"""Pickles of factories and data that are passed in Python: cloudpickle's, with each `tf.data.Dataset` as its graph.

A dataset holds a handle to memory of its process, which cannot be pickled. Its graph, with all captured tensors,
rebuilds the same dataset in another process.

A factory may use layers that the user's program has made before it. The pickle of the factory has their names, so that
Keras gives none of them again in another process.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import cloudpickle

from search.space.inherited import Key
from search.space.names import count_names, names_in

__all__ = ["dumps", "dumps_factory", "keras_settings", "set_keras_settings"]

_PYTHON_CALLS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""Operations that call a Python function of their own process."""


_NONE: Mapping[int, Key] = MappingProxyType({})


def dumps(value: Any, inherited: Mapping[int, Key] = _NONE) -> bytes:
    """Return the pickle of `value`. Any exception may be raised if a part of `value` cannot be pickled.

    Args:
        inherited: the keys of the parts that only this process and its forks have, by their ids.
    """
    with io.BytesIO() as file:
        _pickler(file, inherited).dump(value)
        return file.getvalue()


def dumps_factory(parts: Mapping[str, Any], inherited: Mapping[int, Key] = _NONE) -> bytes:
    """Return the pickle of a factory's parts, with two further parts about Keras.

    `names` are the names of Keras's objects in the parts, as the number of names by prefix: {"dense": 2} for `dense`
    and `dense_1`. `settings` are those of `keras_settings`.

    Args:
        inherited: as in `dumps`.
    """
    with io.BytesIO() as file:
        pickler = _pickler(file, inherited)
        # The parts are pickled in order, so the names are complete when their turn comes.
        pickler.dump({**parts, "names": pickler.names, "settings": keras_settings()})
        return file.getvalue()


_DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


def keras_settings() -> dict[str, Any]:
    """Return the settings of Keras in this process that differ from the defaults; none if Keras is not imported.

    They are `floatx`, `epsilon`, `image_data_format`, and `dtype_policy` with its name: a script that sets them sets
    them for its trials, too.
    """
    keras: Any = sys.modules.get("keras")
    if not hasattr(keras, "config"):  # also Keras 2 and a module that is still being imported
        return {}
    present = {name: getattr(keras.config, name)() for name in _DEFAULTS}
    found = {name: value for name, value in present.items() if value != _DEFAULTS[name]}
    policy = keras.config.dtype_policy().name
    return found if policy == present["floatx"] else {**found, "dtype_policy": policy}


def set_keras_settings(settings: Mapping[str, Any]) -> None:
    """Set what `keras_settings` has found, as a space file would that sets it while it is imported."""
    if not settings:
        return
    import keras

    for name, value in settings.items():
        getattr(keras.config, f"set_{name}")(value)


def _pickler(file: io.BytesIO, inherited: Mapping[int, Key]) -> _Pickler:
    return _InheritingPickler(file, inherited) if inherited else _Pickler(file)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # cloudpickle is untyped
    """A pickler that counts the names of the pickled layers and other objects of Keras, by prefix."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.names: dict[str, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, (list, tuple, dict)):
            for prefix, count in count_names(names_in(obj)).items():
                self.names[prefix] = max(self.names.get(prefix, 0), count)
        # A process that has a dataset has imported TensorFlow; the others need not.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and isinstance(obj, tensorflow.data.Dataset):
            return dataset_of, (_graph_of(obj, tensorflow), obj.element_spec)
        return super().reducer_override(obj)


class _InheritingPickler(_Pickler):
    """A pickler that leaves out the inherited parts, and writes their keys."""

    def __init__(self, file: io.BytesIO, inherited: Mapping[int, Key]) -> None:
        super().__init__(file)
        self._inherited = inherited

    def persistent_id(self, obj: Any) -> Key | None:
        return self._inherited.get(id(obj))


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
