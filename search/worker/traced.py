"""Traced functions of TensorFlow as files: what one worker of a search has traced, the others need not trace.

A file has functions as they were traced, before TensorFlow makes them fit a processor, with what they capture left out.
To load them takes a fifth of what tracing takes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

__all__ = ["keep", "load", "use"]

_folder: list[Path] = []


def use(folder: str) -> None:
    """Keep files in `folder`, for the processes of one search only: the user's code may change what is traced."""
    _folder[:] = [Path(folder)]


def keep(word: Hashable, made: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Write concrete functions, if there is a folder, and give them back.

    Args:
        word: what they depend on.
        known: of each, by its name, the tensors that it may capture.

    Raises:
        ValueError: one captures another tensor.
    """
    captures = {name: _captures(function, known[name]) for name, function in made.items()}
    path = _path(word)
    if path is not None:
        parts = {name: _described(function, captures[name], path.stem) for name, function in made.items()}
        temporary = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            temporary.write_text(json.dumps(parts))
            temporary.replace(path)
    return dict(made)


def load(word: Hashable, known: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """The functions that depend on `word`, if another process has kept them.

    Args:
        known: of each the tensors that it may capture, in the order of when it was kept.
    """
    path = _path(word)
    if path is None or not path.exists():
        return None
    parts = json.loads(path.read_text())
    return {name: _function(part, known[name]) for name, part in parts.items()}


def _captures(function: Any, known: Sequence[Any]) -> list[int]:
    places = {id(tensor): i for i, tensor in enumerate(known)}
    if not all(id(tensor) in places for tensor in function.captured_inputs):
        raise ValueError("the graph captures more of its model than its variables")
    return [places[id(tensor)] for tensor in function.captured_inputs]


def _path(word: Hashable) -> Path | None:
    if not _folder:
        return None
    return _folder[0] / f"{hashlib.sha256(repr(word).encode()).hexdigest()[:32]}.json"


def _described(function: Any, captures: list[int], key: str) -> dict[str, Any]:
    definition = function.graph.as_graph_def()
    _rename(definition, f"_{key}")
    return {
        "graph": base64.b64encode(definition.SerializeToString()).decode(),
        "inputs": [tensor.name for tensor in function.inputs],
        "outputs": keras.tree.map_structure(lambda tensor: tensor.name, function.structured_outputs),
        "effects": [operation.name for operation in function.graph.control_outputs],
        "captures": captures,
    }


def _function(part: Mapping[str, Any], known: Sequence[Any]) -> Callable[..., Any]:
    definition = tf.compat.v1.GraphDef.FromString(base64.b64decode(part["graph"]))
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    inputs = [whole.graph.get_tensor_by_name(name) for name in part["inputs"]]
    outputs = keras.tree.map_structure(whole.graph.get_tensor_by_name, part["outputs"])
    effects = [whole.graph.get_operation_by_name(name) for name in part["effects"]]
    pruned = whole.prune(inputs, (outputs, effects))
    captured = [known[i] for i in part["captures"]]
    return lambda *arguments: pruned(*arguments, *captured)[0]


def _rename(definition: Any, suffix: str) -> None:
    """Give the functions within a graph names that no other has: each process counts its own from the same number."""
    names = {function.signature.name: function.signature.name + suffix for function in definition.library.function}
    for function in definition.library.function:
        function.signature.name = names[function.signature.name]
    for node in _nodes(definition):
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in names:
                    called.name = names[called.name]


def _nodes(definition: Any) -> Iterator[Any]:
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def
