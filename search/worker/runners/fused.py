"""The fused runner: a whole epoch is one call into the framework, with the results of `model.fit`.

The data lie on the device, and a compiled loop runs the model's own `train_step`, or `test_step`, on every batch. Only
this loop differs between frameworks: see `search.worker.runners.tensorflow.epochs` (equal to `fit` to the last bit on
CPU) and `search.worker.runners.jax.epochs`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from search.worker.keras_internals import build_compiled_parts
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import TrainingPlan
from search.worker.runners.model_key import ModelKey

__all__ = [
    "Framework",
    "FusedRunner",
    "Loops",
    "SharedGraph",
    "clear_device_copies",
    "copy_to_device",
    "create_metric_variables",
    "epoch_logs",
    "has_own_steps",
]


class Loops(Protocol):
    """The compiled loops of a built and compiled model. Both return an epoch's logs, as tensors or arrays."""

    def prepare(self) -> None:
        """Trace what is not traced yet, as far as the framework can without computing.

        Raises:
            Exception: of any class, if the model's steps do not work in a loop.
        """

    def train(self, order: Any) -> dict[str, Any]:
        """Train one epoch on the samples in this order: indices, shape (samples,)."""

    def validate(self) -> dict[str, Any]:
        """Go once through the validation data."""


class SharedGraph(Protocol):
    """Compiled loops that no model owns.

    Attributes:
        is_loaded: whether a model of another process made the graph.
    """

    is_loaded: bool

    def loops_for(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> Loops:
        """Return the loops for a model with the same key, and a plan with the same arrays."""

    def trains_like(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> bool:
        """Train one batch by the graph and by the model's own step. Return whether the results are the same.

        The state of the model stays.
        """


class Framework(Protocol):
    """A module that makes loops by a framework."""

    def make_loops(self, model: Any, plan: TrainingPlan) -> Loops:
        """Return loops of the model's own."""

    def make_shared_graph(self, model: Any, plan: TrainingPlan, model_key: ModelKey) -> SharedGraph:
        """Return a graph for all models with the key of this one.

        Raises:
            Exception: of any class, if such models cannot share a graph.
        """


class FusedRunner:
    """A runner that trains by fused epochs. `search.worker.runners.choose` knows when that is right.

    Args:
        make_loops: returns loops of the model as it is compiled at the call. Its argument tells whether the model has
            been compiled again since the runner was made.
    """

    name = "fused"

    def __init__(self, model: Any, plan: TrainingPlan, make_loops: Callable[[bool], Loops]) -> None:
        self._model = model
        self._plan = plan
        self._make_loops = make_loops
        self._loops: Loops | None = None
        self._train_function: Any = None

    def prepare(self) -> None:
        """Make the loops. An exception of any class means that the model must be trained otherwise."""
        self._model.make_train_function()
        self._current_loops().prepare()

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
            loops = self._current_loops()
            logs = _plain_logs(loops.train(plan.sample_order(epoch)))
            if plan.validation is not None:
                hooks.on_test_begin()
                model.reset_metrics()
                validation = _plain_logs(loops.validate())
                hooks.on_test_end(validation)
                logs.update({f"val_{name}": value for name, value in validation.items()})
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if isinstance(model.optimizer, keras.optimizers.Optimizer):
            model.optimizer.finalize_variable_values(model.trainable_weights)
        hooks.on_train_end(logs)

    def _current_loops(self) -> Loops:
        """Return the loops, new ones if the model was compiled since: `compile` resets `train_function` to None."""
        model = self._model
        if self._loops is None or model.train_function is None or model.train_function is not self._train_function:
            model.make_train_function()
            self._train_function = model.train_function
            self._loops = self._make_loops(self._loops is not None)
        return self._loops


_copies: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
_MAX_COPIES = 64


def copy_to_device(packed: Any, copy: Callable[[Any], Any]) -> Any:
    """Return the arrays of a structure on the device: one copy for all models of a worker.

    Args:
        copy: makes the copy of one array.
    """

    def cached_copy(array: Any) -> Any:
        if id(array) not in _copies:
            _copies[id(array)] = array, copy(array)
        _copies.move_to_end(id(array))
        if len(_copies) > _MAX_COPIES:
            _copies.popitem(last=False)
        return _copies[id(array)][1]

    return keras.tree.map_structure(cached_copy, packed)


def clear_device_copies() -> None:
    """Drop the copies, as other data are loaded."""
    _copies.clear()


def create_metric_variables(model: Any, step_spec: Any) -> None:
    """Create the variables of a model's metrics and losses, as `fit` does before its first step. Nothing is computed.

    Args:
        step_spec: a batch as `keras.KerasTensor`s.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(step_spec)
    outputs = getattr(model, "outputs", None)  # of a functional or sequential model
    is_plain = outputs is not None and len(outputs) == 1 and y is not None and not keras.tree.is_nested(y)
    if is_plain and build_compiled_parts(model, y):
        return
    evaluation = _Evaluation(name="search_evaluation")  # a name that Keras gives would be counted
    evaluation.model = model
    evaluation.compute_output_spec(x, y, sample_weight)


class _Evaluation(keras.Operation):  # type: ignore[misc]  # keras is untyped
    """The metrics and the loss of a batch, as one operation that Keras can call symbolically."""

    def call(self, x: Any, y: Any, sample_weight: Any) -> Any:
        y_pred = self.model(x, training=False)
        self.model.compute_metrics(x, y, y_pred, sample_weight)
        return self.model.compute_loss(x, y, y_pred, sample_weight)


_STEPS = ("train_step", "test_step", "compute_metrics", "get_metrics_result")


def has_own_steps(model: Any) -> bool:
    """Return whether a step may return other than the model's metrics. Then the last step's logs count, as in `fit`."""
    return any(getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name) for name in _STEPS)


def epoch_logs(model: Any, last_logs: Any) -> Any:
    """Return an epoch's logs as `fit` has them: the metrics, unless the last step returned something else."""
    metrics = model.get_metrics_result()
    return last_logs if isinstance(last_logs, dict) and last_logs.keys() != metrics.keys() else metrics


def _plain_logs(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return tensors as `fit` logs them: scalars as floats, others as arrays, nested dicts flattened."""
    logs: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            logs.update(_plain_logs(value))
        else:
            array = np.asarray(value)
            logs[name] = float(array) if array.size == 1 else array
    return logs
