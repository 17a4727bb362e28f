"""The fused runner: a whole epoch is one call into the framework, with the results of `model.fit`.

Arrays lie on the device, and streams are read within the call. A compiled loop runs the model's own `train_step`, or
`test_step`, on every batch. Only this loop differs between frameworks: see `search.worker.runners.tensorflow.epochs`
(equal to `fit` to the last bit on CPU) and `search.worker.runners.jax.epochs`.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from search.worker.keras_internals import build_compiled_parts
from search.worker.runners.dynamic_sizes import DynamicSizes
from search.worker.runners.fit import FitRunner, OpenedStreams, TrainingPlan
from search.worker.runners.model_key import ModelKey

__all__ = [
    "CANNOT_FUSE",
    "ArrayFeeds",
    "Feeds",
    "Framework",
    "FusedRunner",
    "Loops",
    "NotDynamic",
    "SharedGraph",
    "cannot_fuse",
    "clear_device_copies",
    "copy_to_device",
    "create_metric_variables",
    "epoch_logs",
    "has_own_steps",
]


CANNOT_FUSE = "its steps do not work in a fused epoch"
"""The reason of a model that only an attempt shows to be unfit."""


def cannot_fuse(error: Exception) -> str:
    """Return why a model is trained by `fit` whose loops raised `error` when they were made."""
    return f"{CANNOT_FUSE}, {type(error).__name__}"


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


class Feeds(Protocol):
    """The data of a training, which hands each epoch its batches."""

    @property
    def plan(self) -> TrainingPlan | None:
        """The plan for loops, whose streams are only described; None as long as they must be opened for that."""

    @property
    def opened(self) -> OpenedStreams | None:
        """The streams; None before `open`, and if all data are arrays."""

    def open(self, from_epoch: int) -> None:
        """Open the streams for a segment that begins with epoch `from_epoch`."""

    def train(self, loops: Any, epoch: int) -> dict[str, Any]:
        """Train an epoch by loops for `self.plan`. Return the logs, as tensors or arrays."""

    def validate(self, loops: Any) -> dict[str, Any]:
        """Validate by loops for `self.plan`. Return the logs."""


class ArrayFeeds:
    """Feeds of arrays."""

    opened = None

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan

    def open(self, from_epoch: int) -> None:
        pass

    def train(self, loops: Loops, epoch: int) -> dict[str, Any]:
        return loops.train(self.plan.sample_order(epoch))

    def validate(self, loops: Loops) -> dict[str, Any]:
        return loops.validate()


class SharedGraph(Protocol):
    """Compiled loops that no model owns.

    Attributes:
        is_loaded: whether a model of another process made the graph.
    """

    is_loaded: bool

    def loops_for(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> Loops:
        """Return the loops for a model with the same key, and a plan with the same data."""

    def trains_like(self, model: Any, plan: TrainingPlan, dynamic_sizes: DynamicSizes) -> bool | None:
        """Train one batch by the graph and by the model's own step. Return whether the results are the same.

        The state of the model stays. None means that there is no batch to compare.
        """


class NotDynamic(Exception):
    """A graph cannot leave open what the key of its model leaves open. With all of it fixed, it may be shared."""


class Framework(Protocol):
    """A module that makes loops by a framework."""

    def make_loops(self, model: Any, plan: TrainingPlan) -> Loops:
        """Return loops of the model's own."""

    def make_shared_graph(self, model: Any, plan: TrainingPlan, model_key: ModelKey) -> SharedGraph:
        """Return a graph for all models with the key of this one.

        Raises:
            NotDynamic: such models may share a graph if they are equal in all that their key leaves dynamic.
            Exception: of any class, if such models cannot share a graph.
        """


class FusedRunner:
    """A runner that trains by fused epochs. `search.worker.runners.choose` knows when that is right.

    If loops cannot be made for streams that had to be opened first, it trains by `fit` after all, and its name says so.

    Args:
        make_loops: returns loops of the model as it is compiled at the call, for a plan whose streams are only
            described. Its last argument tells whether the model has been compiled again since the runner was made.
    """

    name = "fused"

    def __init__(
        self, model: Any, plan: TrainingPlan, feeds: Feeds, make_loops: Callable[[TrainingPlan, bool], Loops]
    ) -> None:
        self._model = model
        self._plan = plan
        self._feeds = feeds
        self._make_loops = make_loops
        self._loops: Loops | None = None
        self._loops_plan: TrainingPlan | None = None
        self._train_function: Any = None
        self._is_recompiled = False

    def prepare(self) -> None:
        """Make the loops, if the streams need not be opened for that.

        Raises:
            Exception: of any class, if the model must be trained otherwise.
        """
        if self._feeds.plan is not None:
            self._model.make_train_function()
            self._current_loops().prepare()

    def run(self, from_epoch: int, to_epoch: int, callbacks: list[Any]) -> None:
        """Train epochs `from_epoch` to `to_epoch - 1` (from 0), driving `callbacks` in the order of `fit`."""
        model, plan, feeds = self._model, self._plan, self._feeds
        feeds.open(from_epoch)
        if feeds.opened is not None and self._loops is None:
            try:
                self.prepare()
            except Exception as error:
                traceback.print_exc()
                self._loops = None
                fit = FitRunner(model, plan, cannot_fuse(error))
                self.name = fit.name
                fit.run(from_epoch, to_epoch, callbacks, feeds.opened)
                return
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
            logs = _plain_logs(feeds.train(loops, epoch))
            if plan.validation is not None:
                hooks.on_test_begin()
                model.reset_metrics()
                validation = _plain_logs(feeds.validate(loops))
                hooks.on_test_end(validation)
                logs.update({f"val_{name}": value for name, value in validation.items()})
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if isinstance(model.optimizer, keras.optimizers.Optimizer):
            model.optimizer.finalize_variable_values(model.trainable_weights)
        hooks.on_train_end(logs)

    def _current_loops(self) -> Loops:
        """Return the loops, new ones if the model was compiled since: `compile` resets `train_function` to None.

        They are new, too, if a stream that was opened again has other batches.
        """
        model, plan = self._model, self._feeds.plan
        assert plan is not None, "opened by run"
        recompiled = model.train_function is None or model.train_function is not self._train_function
        if self._loops is None or self._loops_plan is None or recompiled or not plan.has_same_data(self._loops_plan):
            model.make_train_function()
            self._is_recompiled |= recompiled and self._loops is not None
            self._train_function, self._loops_plan = model.train_function, plan
            self._loops = self._make_loops(plan, self._is_recompiled)
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
