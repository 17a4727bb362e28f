"""Traced functions of TensorFlow as files: what one worker of a search has traced, the others need not trace.

A file has the functions' definitions as they were traced, before TensorFlow makes them fit a processor, with what they
capture left out. Whoever traced them runs them from these definitions, too: what Python knows of a graph takes
megabytes, and is let go of.
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
from tensorflow.core.framework.function_pb2 import FunctionDefLibrary
from tensorflow.python.eager import context

__all__ = ["keep", "load", "use"]

_folder: list[Path] = []
_numbers = itertools.count()


def use(folder: str) -> None:
    """Keep files in `folder`, for the processes of one search only: the user's code may change what is traced."""
    _folder[:] = [Path(folder)]


def keep(word: Hashable, made: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Write concrete functions, if there is a folder, and give functions that do the same.

    Args:
        word: what they depend on.
        known: of each, by its name, the tensors that it may capture.

    Raises:
        ValueError: one captures another tensor.
    """
    described = _described(made, known, f"_{_key(word)}_{os.getpid()}_{next(_numbers)}")
    path = _path(word)
    if path is not None:
        temporary = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            temporary.write_text(json.dumps(described))
            temporary.replace(path)
    return _functions(described, known)


def load(word: Hashable, known: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """The functions that depend on `word`, if another process has kept them.

    Args:
        known: of each the tensors that it may capture, in the order of when it was kept.
    """
    path = _path(word)
    if path is None or not path.exists():
        return None
    return _functions(json.loads(path.read_text()), known)


def _path(word: Hashable) -> Path | None:
    return _folder[0] / f"{_key(word)}.json" if _folder else None


def _key(word: Hashable) -> str:
    return hashlib.sha256(repr(word).encode()).hexdigest()[:32]


# As text --------------------------------------------------------------------------------------------------------------


def _described(made: Mapping[str, Any], known: Mapping[str, Sequence[Any]], suffix: str) -> dict[str, Any]:
    """All that is to be known of the functions.

    Args:
        suffix: for the definitions' names: each process counts its own from the same number.
    """
    parts, library = {}, FunctionDefLibrary()
    for name, function in made.items():
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
    _rename(library, suffix)
    return {"library": base64.b64encode(library.SerializeToString()).decode(), "suffix": suffix, "parts": parts}


def _rename(library: Any, suffix: str) -> None:
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
    """Definitions that TensorFlow knows in this process, as long as one holds this."""

    def __init__(self, library: str) -> None:
        definitions = FunctionDefLibrary.FromString(base64.b64decode(library)).function
        runtime = context.context()
        for definition in definitions:
            runtime.add_function_def(definition)
        self.names = [definition.signature.name for definition in definitions]
        weakref.finalize(self, _forget, runtime, self.names).atexit = False


def _forget(runtime: Any, names: Iterable[str]) -> None:
    for name in names:
        runtime.remove_function(name)


_libraries: weakref.WeakValueDictionary[str, _Library] = weakref.WeakValueDictionary()
"""Those that are held, by the suffix of their names."""


def _functions(described: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    library = _libraries.get(described["suffix"]) or _Library(described["library"])
    _libraries[described["suffix"]] = library
    return {name: _function(part, known[name], library) for name, part in described["parts"].items()}


def _function(part: Mapping[str, Any], known: Sequence[Any], library: _Library) -> _Function:
    captured = [known[i] for i in part["captures"]]
    return _Function(library, part["definition"].encode(), captured, part["outputs"], part["count"])


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of a library, by its name.

    Attributes:
        captured: the tensors that it takes after its arguments.
        outputs: a structure of places among the tensors that it returns, of which there are `count`.
    """

    library: _Library
    name: bytes
    captured: Sequence[Any]
    outputs: Any
    count: int

    def __call__(self, *arguments: Any) -> Any:
        found = context.context().call_function(self.name, [*arguments, *self.captured], self.count)
        return keras.tree.map_structure(found.__getitem__, self.outputs)
