"""The cache of a worker's traced or compiled graphs, by the keys of the models that they train.

One graph trains all segments of a trial, and all trials that differ only in dynamic sizes and in the values of
variables. The most recently used graphs are kept.
"""

from __future__ import annotations

import math
import traceback
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from search.worker.runners import distribution
from search.worker.runners.dynamic_sizes import DynamicSizes, find_dynamic_sizes
from search.worker.runners.fit import TrainingPlan
from search.worker.runners.fused import Framework, Loops, NotDynamic, SharedGraph
from search.worker.runners.model_key import ModelKey, describe_callbacks, describe_model, model_keys

__all__ = ["cached_graphs", "clear_graph_cache", "count_scalars", "get_loops", "make_model_key"]

MAX_GRAPHS = 32
"""Graphs in the cache, at most."""

MAX_SHARED_SCALARS = 64 << 20
"""Scalars in the variables of a model that shares its graph, at most; 256 MiB as a rule.

Sharing takes a copy of the variables. Tracing is no large part of training a larger model.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _CachedGraph:
    """A graph for the arrays of `plan`, and for batches like those of its streams.

    Attributes:
        graph: None if models with this description cannot share one.
        is_static: whether models with this description share graphs only if they differ in nothing dynamic.
        first: returns the model that the graph was made with; None if it is gone, or of another process.
    """

    description: Hashable
    plan: TrainingPlan
    graph: SharedGraph | None
    first: Callable[[], Any]
    is_static: bool = False


def _nobody() -> None:
    return None


_cache: list[_CachedGraph] = []
"""The cached graphs, the most recently used last."""


def make_model_key(model: Any, callbacks: Sequence[Any]) -> ModelKey | None:
    """Return the key of a model that is built, compiled and not yet trained; None if its graph cannot be shared.

    Args:
        callbacks: the user's callbacks. If they may know of the model's making, the model has no key.
    """
    if not _sharing_works():
        return None
    if type(model).__module__.partition(".")[0] != "keras":
        return None  # its `train_step` may build the optimizer for a part of the variables, and the code below for all
    # A distribution strategy ends with its session.
    if distribution.device_count() > 1 or model.optimizer is None or describe_callbacks(callbacks) is None:
        return None
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if count_scalars(model) > MAX_SHARED_SCALARS:
        return None
    dynamic_sizes = _dynamic_sizes(model)
    description = describe_model(model, dynamic_sizes)
    return None if description is None else ModelKey(description, dynamic_sizes)


def _dynamic_sizes(model: Any) -> DynamicSizes:
    """Return all that a graph of the model leaves dynamic. A compiler makes another program for each shape."""
    if keras.config.backend() == "jax":
        from search.worker.runners.jax.lifting import lifting
        from search.worker.runners.jax.scalars import find_dynamic_scalars

        return find_dynamic_scalars(model) if lifting.works else DynamicSizes()
    is_traced = keras.config.backend() == "tensorflow" and not model.jit_compile
    return find_dynamic_sizes(model) if is_traced else DynamicSizes()


def _sharing_works() -> bool:
    if keras.config.backend() == "tensorflow":
        from search.worker.runners.tensorflow.internals import placeholders

        return placeholders.works and model_keys.works
    return model_keys.works


def count_scalars(model: Any) -> int:
    """Return the number of scalars in the variables of a model and its optimizer."""
    return sum(math.prod(variable.shape) for variable in (*model.variables, *model.optimizer.variables))


def get_loops(framework: Framework, model: Any, plan: TrainingPlan, model_key: ModelKey | None) -> Loops:
    """Return the loops of a model, by a graph that may have served others.

    Args:
        plan: streams are only described.
        model_key: the model's key; None for a graph of the model's own.
    """
    if model_key is None or not _sharing_works():
        return framework.make_loops(model, plan)
    known = _known_graph(model_key, plan)
    static = None
    if known is None or known.is_static:
        static = describe_model(model)  # now, as to make a graph adds variables to the model
    cached = _find_graph(framework, model, plan, model_key)
    if cached.is_static and static is not None:
        model_key = ModelKey(static, DynamicSizes())
        cached = _find_graph(framework, model, plan, model_key)
    if cached.graph is None or not _serves(cached, model, plan, model_key):
        return framework.make_loops(model, plan)
    return cached.graph.loops_for(model, plan, model_key.dynamic_sizes)


def _find_graph(framework: Framework, model: Any, plan: TrainingPlan, model_key: ModelKey) -> _CachedGraph:
    """Return the cached graph for a model, made if there is none."""
    cached = _known_graph(model_key, plan)
    if cached is None:
        try:
            graph = framework.make_shared_graph(model, plan, model_key)
            cached = _CachedGraph(
                model_key.description, plan, graph, _nobody if graph.is_loaded else weakref.ref(model)
            )
        except NotDynamic:
            cached = _CachedGraph(model_key.description, plan, None, _nobody, is_static=True)
        except Exception:
            # If the model is at fault, its own graph will say so.
            cached = _CachedGraph(model_key.description, plan, None, _nobody)
    else:
        _cache.remove(cached)
    _cache.append(cached)
    del _cache[:-MAX_GRAPHS]
    return cached


_compared: list[bool] = []
"""The result of the comparison of a graph with the own step of a second model, once it is made in this process."""


def _serves(cached: _CachedGraph, model: Any, plan: TrainingPlan, model_key: ModelKey) -> bool:
    """Return whether a graph trains a model right. The first time that it is another model, one batch is compared.

    If the results differ, no graph is shared in this process from then on.
    """
    if _compared or cached.graph is None or cached.first() is model:
        return True
    try:
        alike = cached.graph.trains_like(model, plan, model_key.dynamic_sizes)
        if alike is None:
            return False
        _compared.append(alike)
    except Exception:
        traceback.print_exc()
        _compared.append(False)
    if not _compared[0]:
        model_keys.turn_off("a shared graph does not train a second model as the model's own step does")
        clear_graph_cache()
    return _compared[0]


def _known_graph(model_key: ModelKey, plan: TrainingPlan) -> _CachedGraph | None:
    key = model_key.description
    return next((each for each in _cache if each.description == key and each.plan.has_same_data(plan)), None)


def cached_graphs() -> list[SharedGraph | None]:
    """Return the cached graphs, the most recently used last; None stands for models that could not share one."""
    return [cached.graph for cached in _cache]


def clear_graph_cache() -> None:
    """Drop all cached graphs."""
    _cache.clear()
