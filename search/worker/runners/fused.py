"""The fused runner: a whole epoch is one call into the framework, with the results of `model.fit`.

The data lie on the device, and a compiled loop runs the model's own `train_step`, or `test_step`, on every batch. What
differs between frameworks is that loop: `fused_tensorflow` (equal to `fit` to the last bit on CPU) and `fused_jax`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import Plan
from search.worker.runners.model_key import ModelKey

__all__ = ["Framework", "FusedRunner", "Graph", "Loops", "forget_copies", "has_own_steps", "logs_of", "on_device"]


class Loops(Protocol):
    """The compiled loops of a model that is built and compiled. Both return an epoch's logs, as tensors or arrays."""

    def train(self, order: Any) -> dict[str, Any]:
        """Train one epoch, in which the samples come in this order: indices, shape (samples,)."""

    def validate(self) -> dict[str, Any]:
        """Go once through the validation data."""


class Graph(Protocol):
    """Compiled loops that no model owns."""

    def loops(self, model: Any, plan: Plan, freedom: DynamicSizes) -> Loops:
        """They for a model with the same signature, and a plan with the same arrays."""


class Framework(Protocol):
    """How a framework makes loops: the module `fused_tensorflow` or `fused_jax`."""

    def loops(self, model: Any, plan: Plan) -> Loops:
        """The model's own."""

    def graph(self, model: Any, plan: Plan, signature: ModelKey) -> Graph:
        """Loops for all models with the signature of this one. It may raise anything where they cannot be shared."""


class FusedRunner:
    """Trains by fused epochs. `choose` knows when that is right.

    Args:
        make_loops: gives the loops of the model, as it was compiled when it is called. It is told whether the model has
            been compiled anew since the runner was made.
    """

    name = "fused"

    def __init__(self, model: Any, plan: Plan, make_loops: Callable[[bool], Loops]) -> None:
        self._model = model
        self._plan = plan
        self._make_loops = make_loops
        self._made_for: Any = None
        self._made: Loops | None = None

    def run(self, from_epoch: int, to_epoch: int, callbacks: list[Any]) -> None:
        """Train epochs `from_epoch` to `to_epoch - 1` (from 0), driving `callbacks` in the order of `fit`."""
        model, plan = self._model, self._plan
        hooks = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=model, verbose=0, epochs=to_epoch, steps=plan.steps
        )
        model.stop_training = False
        model.make_train_function()
        hooks.on_train_begin()
        logs = None
        for epoch in range(from_epoch, to_epoch):
            model.reset_metrics()
            hooks.on_epoch_begin(epoch)
            loops = self._loops()
            logs = _floats(loops.train(plan.order(epoch)))
            if plan.validation is not None:
                hooks.on_test_begin()
                model.reset_metrics()
                validation = _floats(loops.validate())
                hooks.on_test_end(validation)
                logs.update({f"val_{name}": value for name, value in validation.items()})
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if isinstance(model.optimizer, keras.optimizers.Optimizer):
            model.optimizer.finalize_variable_values(model.trainable_weights)
        hooks.on_train_end(logs)

    def _loops(self) -> Loops:
        """The loops, made anew where the model was compiled since: `compile` resets `train_function` to None."""
        model = self._model
        if self._made is None or model.train_function is None or model.train_function is not self._made_for:
            model.make_train_function()
            self._made_for = model.train_function
            self._made = self._make_loops(self._made is not None)
        return self._made


_copies: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
_MOST_COPIES = 64


def on_device(packed: Any, put: Callable[[Any], Any]) -> Any:
    """The arrays of a structure where a model can use them: one copy for all models that a worker holds.

    Args:
        put: makes the copy of one array.
    """

    def copy(array: Any) -> Any:
        if id(array) not in _copies:
            _copies[id(array)] = array, put(array)
        _copies.move_to_end(id(array))
        if len(_copies) > _MOST_COPIES:
            _copies.popitem(last=False)
        return _copies[id(array)][1]

    return keras.tree.map_structure(copy, packed)


def forget_copies() -> None:
    """Let go of the copies: other data are loaded."""
    _copies.clear()


_STEPS = ("train_step", "test_step", "compute_metrics", "get_metrics_result")


def has_own_steps(model: Any) -> bool:
    """Whether what a step returns may differ from the model's metrics: then the last step's logs count, as in `fit`."""
    return any(getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name) for name in _STEPS)


def logs_of(model: Any, last: Any) -> Any:
    """An epoch's logs as `fit` has them: the metrics, unless the last step returned something else."""
    metrics = model.get_metrics_result()
    return last if isinstance(last, dict) and last.keys() != metrics.keys() else metrics


def _floats(metrics: dict[str, Any]) -> dict[str, Any]:
    """Tensors as `fit` puts them in its logs: scalars as floats, what is none as an array, nested dicts flat."""
    logs: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            logs.update(_floats(value))
        else:
            array = np.asarray(value)
            logs[name] = float(array) if array.size == 1 else array
    return logs
