"""Plain values as JSON beside a list of arrays: how a checkpoint holds values that are no variables.

Plain values are JSON's scalars, complex numbers and bytes, numpy's arrays and scalars, the tensors of Keras's back end,
and Python's own containers of these.
"""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["Array", "decode", "encode", "fingerprint", "is_plain", "is_symbolic", "is_tensor"]

Array = np.ndarray[Any, Any]

_LARGE = 64 << 20
_SCALARS = (type(None), bool, int, float, str)
_SEQUENCES: Mapping[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_MAPPINGS: Mapping[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
}
_FACTORIES: Mapping[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, list, dict, set)}


def encode(value: Any, arrays: list[Array]) -> Any:
    """Return `value` as JSON, with indices into `arrays`, to which arrays are appended.

    Raises:
        TypeError: `value` is not plain. Arrays may have been appended.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, (np.ndarray, np.generic)) or is_tensor(value):
        return _encode_array(value, arrays)
    if isinstance(value, (complex, bytes)):
        text = repr(complex(value)) if isinstance(value, complex) else base64.b64encode(value).decode()
        return {type(value).__name__: text}
    kind = _container_kind(value)
    if kind in _SEQUENCES:
        return {kind: [encode(item, arrays) for item in value]}
    if kind == "deque":
        return {kind: [value.maxlen, [encode(item, arrays) for item in value]]}
    if kind is not None:
        pairs = [[encode(key, arrays), encode(item, arrays)] for key, item in value.items()]
        return {
            kind: [value.default_factory and value.default_factory.__name__, pairs] if _is_default(value) else pairs
        }
    raise TypeError(f"{type(value).__name__} has no representation")


def decode(data: Any, arrays: Sequence[Array]) -> Any:
    """Return the value that `encode` has encoded. Containers and arrays are new ones."""
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind in ("array", "scalar", "tensor"):
        array = arrays[content]
        if kind == "tensor":
            return keras.ops.convert_to_tensor(array)
        return array.copy() if kind == "array" else array[()]
    if kind in ("complex", "bytes"):
        return complex(content) if kind == "complex" else base64.b64decode(content)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([decode(item, arrays) for item in content])
    if kind == "deque":
        return deque([decode(item, arrays) for item in content[1]], content[0])
    factory, pairs = content if kind == "defaultdict" else (None, content)
    items = [(decode(key, arrays), decode(item, arrays)) for key, item in pairs]
    return defaultdict(_FACTORIES.get(factory or ""), items) if kind == "defaultdict" else _MAPPINGS[kind](items)


def is_plain(value: Any) -> bool:
    """Return whether `encode` accepts a value. Arrays are not copied for that."""
    if type(value) in _SCALARS or isinstance(value, (complex, bytes)) or is_tensor(value):
        return True
    if isinstance(value, (np.ndarray, np.generic)):
        return not (value.dtype.hasobject or value.dtype.names or isinstance(value, np.memmap))
    if _container_kind(value) is None:
        return False
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return all(type(item) in _SCALARS or is_plain(item) for item in items)


def fingerprint(value: Any) -> bytes:
    """Return a digest of a plain value. Equal values of equal types have equal digests.

    Of an array beyond 64 MiB, a data set as a rule, only each n-th number counts.
    """
    if isinstance(value, np.ndarray):
        return _fingerprint_array(hashlib.blake2b(), value).digest()
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    if isinstance(items, (list, tuple)) and all(type(item) in _SCALARS for item in items):
        # A vocabulary may have many entries.
        return hashlib.blake2b(marshal.dumps([type(value).__name__, list(items)], 2)).digest()
    arrays: list[Array] = []
    digest = hashlib.blake2b(json.dumps(encode(value, arrays)).encode())
    for array in arrays:
        _fingerprint_array(digest, array)
    return digest.digest()


def _fingerprint_array(digest: hashlib.blake2b, array: Array) -> hashlib.blake2b:
    digest.update(f"{array.dtype} {array.shape}".encode())
    step = 1 if array.nbytes <= _LARGE else array.size // (_LARGE >> 4)
    digest.update(np.ravel(array, order="K")[::step].tobytes())
    return digest


def _encode_array(value: Any, arrays: list[Array]) -> Any:
    kind = "array" if isinstance(value, np.ndarray) else "scalar" if isinstance(value, np.generic) else "tensor"
    array = np.array(keras.ops.convert_to_numpy(value) if kind == "tensor" else value)
    if array.dtype.hasobject or array.dtype.names or isinstance(value, np.memmap):
        raise TypeError(f"arrays of {array.dtype} have no representation")
    arrays.append(array)
    return {kind: len(arrays) - 1}


def _container_kind(value: Any) -> str | None:
    """Return the name of a container's class; None if the value is no container of Python's.

    Keras and TensorFlow wrap the lists, dicts, sets and tuples that are assigned to a layer's attributes.
    """
    if type(value).__module__.partition(".")[0] in ("keras", "tensorflow"):
        if isinstance(value, tuple):
            return None if hasattr(value, "_fields") else "tuple"
        return next((base.__name__ for base in (list, set, OrderedDict, dict) if isinstance(value, base)), None)
    if type(value) in (list, tuple, set, frozenset, dict, deque, OrderedDict, Counter):
        return type(value).__name__
    if _is_default(value) and (value.default_factory is None or value.default_factory in _FACTORIES.values()):
        return "defaultdict"
    return None


def _is_default(value: Any) -> bool:
    return type(value) is defaultdict


# Tensors --------------------------------------------------------------------------------------------------------------


_FRAMEWORKS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax", "jaxlib": "jax"}


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of Keras's back end, is no variable, and holds numbers."""
    framework = _FRAMEWORKS.get(type(value).__module__.partition(".")[0], "")
    if not framework or framework != keras.config.backend() or is_symbolic(value):
        return False
    if framework == "tensorflow":
        if type(value).__name__ != "EagerTensor":
            return False
        kind = value.dtype
        return bool(kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex)
    package = sys.modules[framework]
    if framework == "torch":
        return isinstance(value, package.Tensor) and not isinstance(value, package.nn.Parameter)
    return isinstance(value, package.Array) and not package.dtypes.issubdtype(value.dtype, package.dtypes.prng_key)


def is_symbolic(value: Any) -> bool:
    """Return whether a value stands for a tensor while a graph is made, and so belongs to no training."""
    if isinstance(value, keras.KerasTensor):
        return True
    framework = type(value).__module__.partition(".")[0]
    if framework == "tensorflow":
        tensor = getattr(sys.modules["tensorflow"], "Tensor", ())
        return isinstance(value, tensor) and type(value).__name__ != "EagerTensor"
    if framework == "jax":
        return isinstance(value, sys.modules["jax"].core.Tracer)
    return framework == "torch" and getattr(getattr(value, "device", None), "type", None) == "meta"
