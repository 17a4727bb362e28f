"""Which runner trains a segment: `fused` where it is right, else `fit`. On TensorFlow both give the same bits (CPU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras

from search.errors import SpaceError
from search.worker.data.arrays import Data, Split
from search.worker.data.streams import Stream
from search.worker.runners import distribution
from search.worker.runners import graph_cache as graphs
from search.worker.runners.fit import FitRunner, Plan, make_plan
from search.worker.runners.fused import Framework, FusedRunner, Loops
from search.worker.runners.model_key import ModelKey

__all__ = ["Runner", "build", "choose"]

_FUSED_BYTES = 2**30
_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)
_STOCK_METHODS = (
    "fit",
    "evaluate",
    "make_train_function",
    "make_test_function",
)


class Runner(Protocol):
    """Trains a segment of a compiled model, and drives its callbacks as `model.fit` does.

    Attributes:
        name: "fused", or "fit: <why not fused>".
    """

    name: str

    def run(self, from_epoch: int, to_epoch: int, callbacks: list[Any]) -> None:
        """Train epochs `from_epoch` to `to_epoch - 1`, counted from 0, as far as the callbacks allow."""


def choose(
    model: Any,
    data: Data,
    fit_options: Mapping[str, Any],
    seed: int,
    callbacks: Sequence[Any],
    fuse: bool = True,
    signature: ModelKey | None = None,
) -> Runner:
    """The runner for a compiled model; one that is not built yet is built for `data`.

    Args:
        fit_options: the user's options for `model.fit`; those that the search owns must not be among them.
        seed: the training seed, of which the order of the samples is derived.
        callbacks: those that will be driven, of the user and of the search.
        fuse: False for `fit` in any case.
        signature: the model's, where it may share a graph.

    Raises:
        SpaceError: in one line, for options that cannot be used.
    """
    plan = make_plan(data, fit_options, seed)
    devices = distribution.count()
    if isinstance(plan.train, Split) and plan.batch_size % devices and keras.config.backend() == "tensorflow":
        raise SpaceError(f"batches of {plan.batch_size} cannot be shared by {devices} devices: use a multiple of that")
    build(model, data.train.x_spec)
    reason = _reason_against(model, plan, fit_options, callbacks) if fuse else "asked for"
    if reason is not None:
        return FitRunner(model, plan, reason)
    framework = _framework()

    def make_loops(compiled_anew: bool) -> Loops:
        return graphs.loops(framework, model, plan, None if compiled_anew else signature)

    return FusedRunner(model, plan, make_loops)


def _framework() -> Framework:
    """How Keras's backend makes loops. Only that one is imported."""
    if keras.config.backend() == "jax":
        from search.worker.runners.jax import epochs as fused_jax

        return fused_jax
    from search.worker.runners.tensorflow import epochs as fused_tensorflow

    return fused_tensorflow


def build(model: Any, x_spec: Any) -> None:
    """Create the weights of a model that waits for its first batch (a Sequential without Input, a subclass).

    A symbolic call computes nothing and draws no random numbers, and the batch size stays open. Where the model's code
    cannot be called so, it is called on one sample of zeros.

    Args:
        x_spec: the inputs as `keras.KerasTensor`s.
    """
    if not (model.built and all(layer.built for layer in model.layers)):
        call(model, x_spec)


def call(model: Any, x_spec: Any) -> Any:
    """What a model gives for inputs of these shapes and dtypes, symbolic if it can be called so."""
    try:
        return model(x_spec)
    except Exception:
        # What failed half-way is tried again from its beginning: variables that were made stay made.
        return model(keras.tree.map_structure(_zeros, x_spec))


def _zeros(spec: Any) -> Any:
    return keras.ops.zeros(tuple(1 if size is None else size for size in spec.shape), spec.dtype)


def _reason_against(model: Any, plan: Plan, fit_options: Mapping[str, Any], callbacks: Sequence[Any]) -> str | None:
    """Why the fused runner would not do what `fit` does; None where it would."""
    if keras.config.backend() not in ("tensorflow", "jax"):
        return f"Keras runs on {keras.config.backend()}"
    if isinstance(plan.train, Stream) or isinstance(plan.validation, Stream):
        return "data that come in batches"
    return _model_reason(model) or _options_reason(plan, fit_options) or _callbacks_reason(callbacks)


def _model_reason(model: Any) -> str | None:
    for name in _STOCK_METHODS:
        # `fit` is looked up in the class: on the instance it may have been replaced to lead here.
        owner = type(model) if name == "fit" else model
        if _function(owner, name) is not _function(keras.Model, name):
            return f"own {name}"
    if model.run_eagerly:
        return "run_eagerly"
    if model.steps_per_execution != 1:
        return "steps_per_execution"
    if any(tensor.shape[0] is not None for tensor in keras.tree.flatten(getattr(model, "inputs", None) or [])):
        return "fixed batch size"
    return _jax_reason(model) if keras.config.backend() == "jax" else _tensorflow_reason(model)


def _tensorflow_reason(model: Any) -> str | None:
    import tensorflow as tf

    if tf.config.functions_run_eagerly():
        return "run_eagerly"
    if tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy():
        return "distribute strategy"
    return None


def _jax_reason(model: Any) -> str | None:
    if not model.jit_compile:
        return "jit_compile=False"
    return "distribution" if keras.distribution.distribution() is not None else None


def _options_reason(plan: Plan, fit_options: Mapping[str, Any]) -> str | None:
    for name in ("steps_per_epoch", "validation_steps"):
        if fit_options.get(name) is not None:
            return name
    size = sum(part.nbytes for part in (plan.train, plan.validation) if isinstance(part, Split))
    return f"{size / 2**30:.1f} GiB of data" if size >= _FUSED_BYTES else None


def _callbacks_reason(callbacks: Sequence[Any]) -> str | None:
    for callback in callbacks:
        # Its batch hook does nothing but under save_freq=<batches>.
        if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq == "epoch":
            continue
        for name in _BATCH_HOOKS:
            if _function(callback, name) is not _function(keras.callbacks.Callback, name):
                return f"{type(callback).__name__}.{name}"
    return None


def _function(owner: Any, name: str) -> Any:
    """The function behind a method of a class or an instance."""
    method = getattr(owner, name)
    return getattr(method, "__func__", method)
