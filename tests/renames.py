"""Private names that disappear, as in a new release of Keras, TensorFlow or JAX that has renamed them.

A name is renamed in the code of all functions of its package, so the package itself goes on to work.
"""

from __future__ import annotations

import builtins
import gc
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

_SCOPES = {"keras": ("keras",), "tensorflow": ("keras", "tensorflow"), "jax": ("jax",)}
"""The packages in which a name is renamed, by the first part of the name."""


def hide(use: str) -> None:
    """Make a private name disappear from this process.

    Args:
        use: a module, or a name in one, dotted from the package on; as in `Capability.uses`.
    """
    if use in sys.modules:
        _refuse_import(use)
        return
    name = use.rpartition(".")[2]
    scope = _SCOPES[use.partition(".")[0]]
    new = f"{name}_renamed"
    for value in gc.get_objects():
        if isinstance(value, types.FunctionType) and _root(value.__globals__.get("__name__")) in scope:
            code = _renamed(value.__code__, name, new)
            if code is not value.__code__:
                value.__code__ = code
        elif isinstance(value, (type, types.ModuleType)) and name in vars(value) and _module_root(value) in scope:
            setattr(value, new, vars(value)[name])
            delattr(value, name)


def _refuse_import(module: str) -> None:
    """Let no module of ours import `module`. Its own package goes on to use it."""
    import_ = builtins.__import__

    def refuse(name: str, namespace: Any = None, local: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        wanted = {name, *(f"{name}.{each}" for each in fromlist or ())}
        if module in wanted and _root((namespace or {}).get("__name__")) == "search":
            raise ImportError(f"{module} has moved")
        return import_(name, namespace, local, fromlist, level)

    builtins.__import__ = refuse


def _module_root(owner: Any) -> str:
    return _root(owner.__module__ if isinstance(owner, type) else owner.__name__)


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _renamed(code: types.CodeType, name: str, new: str) -> types.CodeType:
    """Return a code with another name in place of `name`; the same code if it lacks that name."""
    consts = tuple(
        _renamed(value, name, new) if isinstance(value, types.CodeType) else new if value == name else value
        for value in code.co_consts
    )
    names = tuple(new if each == name else each for each in code.co_names)
    same = names == code.co_names and all(one is two for one, two in zip(consts, code.co_consts, strict=True))
    return code if same else code.replace(co_names=names, co_consts=consts)


def train(path: Path, folder: Path, trials: int, *, plainly: bool = False) -> dict[str, Any]:
    """Train some trials of a space for two epochs, and the first for a third one, in this process.

    Args:
        folder: for the files of the trials.
        plainly: as `--no-fuse --no-graph-sharing` does.

    Returns:
        The logs of all epochs, the errors, the runners of the trials, and the lines for the user.
    """
    from search.messages import Answer, Message, Notice, Question, Segment
    from search.space.file import SpaceRef
    from search.study.records import Built, EpochDone, SegmentEnded
    from search.study.trial import Objective
    from search.worker.channel import DirectChannel
    from search.worker.runners.graph_cache import cached_graphs
    from search.worker.segment import run_segment

    found: dict[str, Any] = {"logs": [], "errors": [], "runners": [], "lines": []}
    values: dict[int, dict[str, Any]] = {}

    def handle(message: Message) -> None:
        match message:
            case Question(trial, parameter):
                value = values[trial][parameter.name] = parameter.domain.at(draws.random())
                channel.put(Answer(value))
            case EpochDone():
                found["logs"].append(dict(message.logs))
            case Built():
                found["runners"].append(message.runner)
            case Notice() if message.text not in found["lines"]:
                found["lines"].append(message.text)
            case SegmentEnded() if message.error is not None:
                found["errors"].append(message.error)

    channel = DirectChannel(handle)
    for trial, start, end in [*((trial, 0, 2) for trial in range(trials)), (0, 2, 3)]:
        draws = random.Random(trial)
        segment = Segment(
            trial,
            0,
            SpaceRef(str(path)),
            values.setdefault(trial, {}),
            seed=trial,
            from_epoch=start,
            to_epoch=end,
            objective=Objective("val_loss", "min"),
            folder=str(folder / str(trial)),
            fuse=not plainly,
            graph_sharing=not plainly,
            cached_trials=(0,),
        )
        channel.begin()
        run_segment(segment, channel)
    return {**found, "graphs": len(cached_graphs())}


def main() -> None:
    """Hide the names of the last arguments, train, and write the result: SPACE FOLDER TRIALS PLAINLY RESULT USE …."""
    space, folder, trials, plainly, result, *uses = sys.argv[1:]
    for use in uses:
        hide(use)
    trained = train(Path(space), Path(folder), int(trials), plainly=plainly == "plainly")
    Path(result).write_text(json.dumps(trained))
