"""The methods of `benchmarks/regret.py`: back ends of this project by the registry's names, and peers.

A method is named as `--backend` takes it: `name`, or `name:key=value,…`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from regret_problems import Problem

from regret_methods.peer import Observation, run_peer
from search.errors import OptionError, nearest
from search.plugins.loading import BACKENDS
from search.plugins.spec import parse_arguments, split_spec

__all__ = ["Observation", "check_method", "default_methods", "run_method"]

PEERS = {
    "best-of": "regret_methods.best_of:BestOf",
    "keras-tuner": "regret_methods.keras_tuner:KerasTunerHyperband",
    "optuna-study": "regret_methods.optuna_study:OptunaStudy",
    "smac": "regret_methods.smac:Smac",
}
"""The classes of the peers, by the names of the methods."""


def default_methods() -> list[str]:
    """Return the methods that are run if none are named: ours, then the peers that can be imported."""
    ours = [name for name in BACKENDS.own if name != "optuna"]
    ours += [f"optuna:pruner={pruner}" for pruner in ("none", "median", "hyperband")]
    studies = [f"optuna-study:pruner={pruner}" for pruner in ("none", "median", "hyperband", "halving")]
    smac = ["smac"] if importlib.util.find_spec("smac") else []
    return [*ours, "keras-tuner", *studies, *smac, "best-of"]


def split_methods(text: str) -> Iterator[str]:
    """Yield the methods of a list with commas, which also separate the arguments of one method."""
    method = ""
    for piece in text.split(","):
        if method and "=" in piece.partition(":")[0]:
            method += f",{piece}"
        else:
            if method:
                yield method
            method = piece
    yield method


def check_method(spec: str) -> None:
    """Raise OptionError if `spec` names no method, or one with arguments that it does not take."""
    name, text = split_spec(spec)
    if name in PEERS:
        _arguments(spec)
        return
    if name not in BACKENDS.own and ":" not in name:
        try:
            BACKENDS.check(name)
        except OptionError:
            known = [*BACKENDS.own, *PEERS]
            raise OptionError(
                f"--methods {name!r} is not known: use {', '.join(known)}.{nearest(name, known)}"
            ) from None
    from regret_methods import ours

    ours.check(name, text)


def run_method(spec: str, problem: Problem, seed: int, workers: int, horizon: int) -> list[Observation]:
    """Return what a search observed until `horizon`, in virtual seconds. An epoch takes one of these."""
    name, text = split_spec(spec)
    if name in PEERS:
        make, arguments = _arguments(spec)
        return run_peer(lambda choices: make(problem, seed, choices, **arguments), problem, seed, workers, horizon)
    from regret_methods import ours

    return ours.run_backend(name, text, problem, seed, workers, horizon)


def _arguments(spec: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class of a peer and its arguments in `spec`."""
    name, text = split_spec(spec)
    module, _, target = PEERS[name].partition(":")
    if name == "smac" and importlib.util.find_spec("smac") is None:
        raise OptionError("--methods smac needs the package smac: pip install smac, or leave it out")
    make = getattr(importlib.import_module(module), target)
    allowed = list(inspect.signature(make).parameters)[3:]
    arguments = parse_arguments(text, allowed, "--methods", name)
    if check := getattr(make, "check", None):
        check(**arguments)
    return make, arguments
