"""Graph files: functions that one worker of a search has traced, for the other workers to load.

A file has the functions' definitions as traced, before TensorFlow adapts them to a processor, without the tensors that
they capture. The worker that traced them runs them from these definitions, too: so Python's objects of a graph, which
take megabytes, are freed.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDefLibrary

from search.worker.runners.tensorflow.internals import call_function, register_function, unregister_function

__all__ = ["load_functions", "registered_functions", "save_functions", "set_graph_folder"]

_folder: list[Path] = []
_numbers = itertools.count()


def set_graph_folder(folder: str | None) -> None:
    """Set the folder of graph files; None for no files.

    It serves the processes of one search only, as the user's code may change what is traced.
    """
    _folder[:] = [] if folder is None else [Path(folder)]


def save_functions(key: Hashable, functions: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Write concrete functions to a file, if there is a folder, and return functions that do the same.

    Args:
        key: all that the functions depend on.
        functions: the concrete functions, by name.
        known: the tensors that each function may capture, by its name.

    Raises:
        ValueError: a function captures another tensor.
    """
    content = _serialize(functions, known, f"_{_digest(key)}_{os.getpid()}_{next(_numbers)}")
    path = _path(key)
    if path is not None:
        temporary = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            temporary.write_text(json.dumps(content))
            temporary.replace(path)
    return _functions(content, known)


def load_functions(key: Hashable, known: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """Return the functions that another process has saved for `key`; None if there are none.

    Args:
        known: the tensors that each function may capture, in the same order as when it was saved.
    """
    path = _path(key)
    if path is None or not path.exists():
        return None
    return _functions(json.loads(path.read_text()), known)


def _path(key: Hashable) -> Path | None:
    return _folder[0] / f"{_digest(key)}.json" if _folder else None


def _digest(key: Hashable) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:32]


# As text --------------------------------------------------------------------------------------------------------------


def _serialize(functions: Mapping[str, Any], known: Mapping[str, Sequence[Any]], suffix: str) -> dict[str, Any]:
    """Return the content of a graph file.

    Args:
        suffix: is added to the definitions' names, as each process numbers its own from the same start.
    """
    parts, library = {}, FunctionDefLibrary()
    for name, function in functions.items():
        places = {id(tensor): i for i, tensor in enumerate(known[name])}
        if not all(id(tensor) in places for tensor in function.captured_inputs):
            raise ValueError("the graph captures more of its model than its variables")
        outputs = {id(tensor): i for i, tensor in enumerate(function.outputs)}
        parts[name] = {
            "definition": function.function_def.signature.name + suffix,
            "captures": [places[id(tensor)] for tensor in function.captured_inputs],
            "outputs": keras.tree.map_structure(lambda tensor, at=outputs: at[id(tensor)], function.structured_outputs),
            "count": len(outputs),
        }
        library.function.append(function.function_def)
        library.function.extend(function.graph.as_graph_def().library.function)
    _add_suffix(library, suffix)
    return {"library": base64.b64encode(library.SerializeToString()).decode(), "suffix": suffix, "parts": parts}


def _add_suffix(library: Any, suffix: str) -> None:
    names = {function.signature.name: function.signature.name + suffix for function in library.function}
    for function in library.function:
        function.signature.name = names[function.signature.name]
    for node in _nodes(library):
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in names:
                    called.name = names[called.name]


def _nodes(library: Any) -> Iterator[Any]:
    for function in library.function:
        yield from function.node_def


# In this process ------------------------------------------------------------------------------------------------------


class _Library:
    """Function definitions, registered with TensorFlow in this process as long as this object lives."""

    def __init__(self, library: str) -> None:
        definitions = FunctionDefLibrary.FromString(base64.b64decode(library)).function
        for definition in definitions:
            register_function(definition)
        self.names = [definition.signature.name for definition in definitions]
        weakref.finalize(self, _unregister, self.names).atexit = False


def _unregister(names: Iterable[str]) -> None:
    for name in names:
        unregister_function(name)


_libraries: weakref.WeakValueDictionary[str, _Library] = weakref.WeakValueDictionary()
"""The libraries in use, by the suffix of their names."""


def registered_functions() -> list[str]:
    """Return the names of all definitions that are registered with TensorFlow in this process."""
    return [name for library in _libraries.values() for name in library.names]


def _functions(content: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    library = _libraries.get(content["suffix"]) or _Library(content["library"])
    _libraries[content["suffix"]] = library
    return {name: _function(part, known[name], library) for name, part in content["parts"].items()}


def _function(part: Mapping[str, Any], known: Sequence[Any], library: _Library) -> _Function:
    captured = [known[i] for i in part["captures"]]
    return _Function(library, part["definition"].encode(), captured, part["outputs"], part["count"])


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of a library, called by its name.

    Attributes:
        captured: the tensors that follow its arguments.
        outputs: the structure of its result. The leaves are indices of the tensors that it returns.
        count: the number of tensors that it returns.
    """

    library: _Library
    name: bytes
    captured: Sequence[Any]
    outputs: Any
    count: int

    def __call__(self, *arguments: Any) -> Any:
        given = tf.nest.flatten(arguments, expand_composites=True)  # an iterator is one tensor
        tensors = call_function(self.name, [*given, *self.captured], self.count)
        return keras.tree.map_structure(tensors.__getitem__, self.outputs)
