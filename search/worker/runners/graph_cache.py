"""What a worker has traced or compiled: graphs, by the signature of the models that they train.

Trials that differ only in what a graph leaves open and in the values of variables are trained by one graph; so are all
segments of a trial. Those that were used last are kept.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from search.worker.runners import distribution
from search.worker.runners import model_key as signature
from search.worker.runners.dynamic_sizes import DynamicSizes, find
from search.worker.runners.fit import Plan
from search.worker.runners.fused import Framework, Graph, Loops
from search.worker.runners.model_key import ModelKey

__all__ = ["drop_all", "loops", "sign", "size"]

MOST = 32
"""Graphs that are kept."""

MOST_SCALARS = 64 << 20
"""Scalars in the variables of a model that shares its graph, 256 MiB as a rule: sharing takes a copy of them, and of
training a larger one, tracing is no large part."""


@dataclass(slots=True)
class _Made:
    """A graph, for the arrays of `plan`; None where models with this signature cannot share one."""

    word: Hashable
    plan: Plan
    graph: Graph | None


_made: list[_Made] = []
"""What was used last comes last."""


def sign(model: Any, callbacks: Sequence[Any]) -> ModelKey | None:
    """The signature of a model that is built, compiled and not yet trained; None where it cannot be told.

    Args:
        callbacks: the user's; what they know of the model's making cannot be told either.
    """
    if distribution.count() > 1 or model.optimizer is None or signature.of_callbacks(callbacks) is None:
        return None  # a strategy ends with its session
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if size(model) > MOST_SCALARS:
        return None
    # A compiler makes another program for each shape in any case.
    is_traced = keras.config.backend() == "tensorflow" and not model.jit_compile
    freedom = find(model) if is_traced else DynamicSizes()
    word = signature.of_model(model, freedom)
    return None if word is None else ModelKey(word, freedom)


def size(model: Any) -> int:
    """Scalars in the variables of model and optimizer."""
    return sum(math.prod(variable.shape) for variable in (*model.variables, *model.optimizer.variables))


def loops(framework: Framework, model: Any, plan: Plan, signed: ModelKey | None) -> Loops:
    """The loops of a model, by a graph that may have served others.

    Args:
        signed: None for a graph of the model's own.
    """
    if signed is None:
        return framework.loops(model, plan)
    made = next((made for made in _made if made.word == signed.word and made.plan.has_arrays_of(plan)), None)
    if made is None:
        try:
            made = _Made(signed.word, plan, framework.graph(model, plan, signed))
        except Exception:
            # Where the model is at fault, its own graph will say so.
            made = _Made(signed.word, plan, None)
    else:
        _made.remove(made)
    _made.append(made)
    del _made[:-MOST]
    return framework.loops(model, plan) if made.graph is None else made.graph.loops(model, plan, signed.freedom)


def drop_all() -> None:
    """Let go of everything."""
    _made.clear()
