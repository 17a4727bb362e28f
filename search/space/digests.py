"""Digests of files and of objects: a notebook's cell that runs again shows by them that it means the same search.

Functions and classes of the user's program are known by their bytecode, and by all that they use: globals, closures,
defaults, bases. So comments, blank lines and the place of a cell change no digest. Other files of the user's count with
all of their text, and installed packages by name alone. A digest holds for one version of Python.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import math
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.space.domain import Parameter
from search.space.local_modules import digest_module, module_file

__all__ = ["digest_files", "digest_object", "digest_parameters"]

HASHED_BYTES = 1 << 28
"""Bytes of an array that are read for its digest. Of a larger array, evenly spaced rows are read."""

_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_NO_PART = ("__dict__", "__weakref__", "__module__", "__annotations__", "__firstlineno__", "__static_attributes__")
"""Attributes of a class that tell nothing about its behaviour, or differ from one process to the next."""


def digest_object(value: Any, own_modules: Collection[str] = ("__main__",)) -> str:
    """Return a digest of `value` and of all that it uses, 16 hexadecimal digits; "" if it has none.

    An object has none if it is nested too deeply, or if it raises an exception when its attributes are read.

    Args:
        own_modules: the modules whose functions and classes count as they are in memory. Those of the user's other
            modules count as they are in their files.
    """
    try:
        return _Digester(own_modules).digest(value).hex()
    except Exception:  # an object of the user's may raise anything
        return ""


class _Digester:
    """The digests of the objects met so far."""

    def __init__(self, own_modules: Collection[str]) -> None:
        self._own = own_modules
        self._known: dict[int, tuple[bytes, Any]] = {}  # it keeps the objects, so that no other one gets their ids
        self._open: dict[int, int] = {}

    def digest(self, value: Any) -> bytes:
        if type(value) in _PLAIN:
            return _hash(type(value).__name__, repr(value).encode(errors="surrogatepass"))
        key = id(value)
        if key in self._known:
            return self._known[key][0]
        if key in self._open:
            return _hash("cycle", str(self._open[key]).encode())
        self._open[key] = len(self._open)
        try:
            found = self._digest(value)
        finally:
            del self._open[key]
        self._known[key] = found, value
        return found

    def _all(self, kind: str, *values: Any) -> bytes:
        return _hash(kind, *map(self.digest, values))

    def _digest(self, value: Any) -> bytes:
        for classes, method in _METHODS.items():
            if isinstance(value, classes):
                return method(self, value)
        found = (describe(value) for describe in (self._array, self._keras_object, self._dataset))
        return next(filter(None, found), None) or self._by_pickling(value)

    # Containers -----------------------------------------------------------------------------------------------------

    def _sequence(self, value: Any) -> bytes:
        if type(value) in (list, tuple) and set(map(type, value)) <= set(_PLAIN):
            return _hash(type(value).__name__, repr(value).encode(errors="surrogatepass"))
        return self._all("sequence", type(value), *value)

    def _set(self, value: Any) -> bytes:
        return _hash(type(value).__name__, *sorted(map(self.digest, value)))

    def _mapping(self, value: Mapping[Any, Any]) -> bytes:
        return _hash("mapping", *(self._all("item", *item) for item in value.items()))

    # Code -----------------------------------------------------------------------------------------------------------

    def _code(self, code: types.CodeType) -> bytes:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        parts = (code.co_name, code.co_code, code.co_exceptiontable, names, counts, *code.co_consts)
        return self._all("code", *parts)

    def _function(self, function: types.FunctionType) -> bytes:
        name = function.__qualname__
        if function.__module__ not in self._own and "<l" not in name:  # no <locals> and no <lambda>
            return self._by_name(function)
        parts: list[Any] = [function.__code__, function.__defaults__, function.__kwdefaults__, vars(function)]
        parts += [_content(cell) for cell in function.__closure__ or ()]
        used = {name: function.__globals__[name] for name in _names(function) if name in function.__globals__}
        modules = [digest_module(name, function.__module__) for name in _imports(function)]
        return self._all("function", *parts, used, modules)

    def _class(self, cls: type[Any]) -> bytes:
        if cls.__module__ not in self._own and "<l" not in cls.__qualname__:
            return self._by_name(cls)
        parts = {name: part for name, part in vars(cls).items() if name not in (*_NO_PART, "_abc_impl")}
        return self._all("class", cls.__qualname__, cls.__bases__, parts)

    def _method(self, method: types.MethodType) -> bytes:
        return self._all("method", method.__func__, method.__self__)

    def _builtin(self, function: Any) -> bytes:
        owner = getattr(function, "__self__", None)
        owner = None if isinstance(owner, types.ModuleType) else owner
        return self._all("builtin", str(getattr(function, "__module__", "")), function.__qualname__, owner)

    def _module(self, module: types.ModuleType) -> bytes:
        return self._all("module", module.__name__, digest_module(module.__name__))

    def _wrapper(self, value: Any) -> bytes:
        return self._all("wrapper", type(value), value.__func__)

    def _property(self, value: property) -> bytes:
        return self._all("property", value.fget, value.fset, value.fdel)

    def _cached_property(self, value: functools.cached_property[Any]) -> bytes:
        return self._all("cached property", value.func)

    def _by_name(self, value: Any) -> bytes:
        module = str(value.__module__)
        text = digest_module(module) if module_file(module) is not None else ""
        return self._all("name", module, value.__qualname__, text)

    # Data and other objects -----------------------------------------------------------------------------------------

    def _array(self, value: Any) -> bytes | None:
        """Return the digest of an array or a table of any package; None if `value` is neither."""
        if hasattr(value, "iloc"):
            columns = [value.iloc[:, i] for i in range(value.shape[1])] if value.ndim == 2 else [value.array]
            names = list(value.columns) if value.ndim == 2 else [value.name]
            return self._all("table", names, value.index.array, *columns)
        if hasattr(value, "nested_row_splits"):
            return self._all("ragged", value.flat_values, list(value.nested_row_splits))
        if hasattr(value, "dense_shape") and hasattr(value, "indices"):
            return self._all("sparse", value.indices, value.values, value.dense_shape)
        if not (hasattr(value, "__array__") and hasattr(value, "dtype") and hasattr(value, "shape")):
            return None
        return self._numbers(value)

    def _numbers(self, value: Any) -> bytes | None:
        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        except Exception:  # a tensor of a graph, or of a type that numpy lacks
            return None
        head = f"{array.dtype} {array.shape}".encode()
        if array.dtype.kind == "O":
            return _hash("objects", head, *map(self.digest, array.ravel().tolist()))
        if array.nbytes > HASHED_BYTES and array.ndim:
            array = array[:: math.ceil(array.nbytes / HASHED_BYTES)]
        return _hash("array", head, np.ascontiguousarray(array).tobytes())

    def _keras_object(self, value: Any) -> bytes | None:
        """Return the digest of a layer or another object that Keras describes; None for any other.

        Keras numbers its objects over the life of a process: `dense_3`. The numbers do not count.
        """
        if "keras" not in {cls.__module__.partition(".")[0] for cls in type(value).__mro__}:
            return None
        try:
            config = re.sub(r"_\d+\b", "", repr(value.get_config()))
            weights = list(getattr(value, "weights", ()))
        except Exception:  # the user's own class may have no configuration
            return None
        return self._all("keras", type(value), re.sub(r" at 0x[0-9a-f]+", "", config), weights)

    def _dataset(self, value: Any) -> bytes | None:
        """Return the digest of a `tf.data.Dataset`, None for any other: its form, and its first element if that stays.

        Two readings tell: an unseeded shuffle makes them differ.
        """
        tensorflow: Any = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(value, tensorflow.data.Dataset):
            return None
        form = f"{value.element_spec} {int(value.cardinality())}".encode()
        first, second = (self._all("elements", *value.take(1)) for _ in range(2))
        return _hash("dataset", form, first if first == second else b"")

    def _by_pickling(self, value: Any) -> bytes:
        """Return the digest of what a pickle of `value` would hold; of the type alone if it cannot be pickled."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            return self._all("object", type(value))
        if isinstance(reduced, str):
            return self._all("global", type(value), reduced)
        parts = [list(part) if isinstance(part, Iterator) else part for part in reduced]
        return self._all("object", type(value), *parts)


_METHODS: Mapping[Any, Callable[[_Digester, Any], bytes]] = {
    type: _Digester._class,
    types.FunctionType: _Digester._function,
    types.MethodType: _Digester._method,
    types.ModuleType: _Digester._module,
    types.CodeType: _Digester._code,
    (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType): _Digester._builtin,
    (staticmethod, classmethod): _Digester._wrapper,
    property: _Digester._property,
    functools.cached_property: _Digester._cached_property,
    (list, tuple): _Digester._sequence,
    (set, frozenset): _Digester._set,
    (dict, types.MappingProxyType): _Digester._mapping,
}
"""The method for each kind of object; the first that fits counts."""


def _hash(kind: str, *parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=8)
    for part in (kind.encode(), *parts):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty as yet
        return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield `code` and the code of all functions within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _operands(function: types.FunctionType, operations: Collection[str]) -> Iterable[str]:
    """Return the names that `operations` of a function use, in order, each once."""
    codes = _codes(function.__code__)
    found = (step.argval for code in codes for step in dis.get_instructions(code) if step.opname in operations)
    return dict.fromkeys(found)


def _names(function: types.FunctionType) -> Iterable[str]:
    return _operands(function, _GLOBALS)


def _imports(function: types.FunctionType) -> Iterable[str]:
    return _operands(function, ("IMPORT_NAME",))


def digest_files(files: tuple[tuple[str, str], ...]) -> str:
    """Return a digest of the files' names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, path in files:
        content = Path(path).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def digest_parameters(parameters: tuple[Parameter, ...]) -> str:
    """Return a digest of a factory's parameters, 16 hexadecimal digits.

    It stands in for a digest of the pickled factory, whose bytes differ from one pickling to the next.
    """
    return hashlib.sha256(repr(parameters).encode()).hexdigest()[:16]
