"""The choice of the runner of a segment: `fused` if it does what `fit` does, else `fit`.

On TensorFlow on CPU both give the same bits.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from search.errors import SpaceError
from search.worker.data.arrays import Data, Split
from search.worker.data.kinds import example_of, is_dense
from search.worker.data.streams import Stream
from search.worker.runners import distribution
from search.worker.runners.fit import FitRunner, TrainingPlan, make_training_plan
from search.worker.runners.fused import ArrayFeeds, Feeds, Framework, FusedRunner, Loops, cannot_fuse
from search.worker.runners.graph_cache import get_loops
from search.worker.runners.model_key import ModelKey

__all__ = ["Runner", "call_on_specs", "choose_runner", "create_weights", "create_weights_for"]

_MAX_FUSED_BYTES = 2**30
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
    """A way to train a segment of a compiled model, driving its callbacks as `model.fit` does.

    Attributes:
        name: "fused", or "fit: <why not fused>".
    """

    name: str

    def run(self, from_epoch: int, to_epoch: int, callbacks: list[Any]) -> None:
        """Train epochs `from_epoch` to `to_epoch - 1`, counted from 0, as far as the callbacks allow."""


def choose_runner(
    model: Any,
    data: Data,
    fit_options: Mapping[str, Any],
    seed: int,
    callbacks: Sequence[Any],
    fuse: bool = True,
    model_key: ModelKey | None = None,
    *,
    prepare: bool = True,
) -> Runner:
    """Return the runner for a compiled model. A model that is not built yet is built for `data`.

    Args:
        fit_options: the user's options for `model.fit`, without those that the search sets itself.
        seed: the training seed, from which the order of the samples is derived.
        callbacks: all callbacks that will be driven, the user's and the search's.
        fuse: False for `fit` in any case.
        model_key: the model's key, if the model may share a graph.
        prepare: make the loops of fused epochs, and train by `fit` if that fails. If False, only the name is wanted.

    Raises:
        SpaceError: in one line, for options that cannot be used.
    """
    plan = make_training_plan(data, fit_options, seed)
    devices = distribution.device_count()
    if isinstance(plan.train, Split) and plan.batch_size % devices and keras.config.backend() == "tensorflow":
        raise SpaceError(f"batches of {plan.batch_size} cannot be shared by {devices} devices: use a multiple of that")
    create_weights(model, data.train)
    reason = _reason_against_fusing(model, plan, fit_options, callbacks) if fuse else "asked for"
    if reason is not None:
        return FitRunner(model, plan, reason)
    framework = _framework()

    def make_loops(described: TrainingPlan, recompiled: bool) -> Loops:
        return get_loops(framework, model, described, None if recompiled else model_key)

    runner = FusedRunner(model, plan, _feeds(model, plan), make_loops)
    try:
        if prepare:
            runner.prepare()
    except Exception as error:
        traceback.print_exc()
        # A fault of the user's code shows in `fit` as well, and is told from there.
        return FitRunner(model, plan, cannot_fuse(error))
    return runner


def _feeds(model: Any, plan: TrainingPlan) -> Feeds:
    if not plan.has_streams:
        return ArrayFeeds(plan)
    from search.worker.runners.tensorflow.streams import StreamFeeds

    return StreamFeeds(model, plan)


def _framework() -> Framework:
    """Return the module that makes loops on Keras's backend. Only that one is imported."""
    if keras.config.backend() == "jax":
        from search.worker.runners.jax import epochs as jax_epochs

        return jax_epochs
    from search.worker.runners.tensorflow import epochs as tensorflow_epochs

    return tensorflow_epochs


def create_weights(model: Any, train: Split | Stream) -> None:
    """Create the weights of a model that waits for its first batch, which is one of `train`."""
    if not _is_built(model):
        step_spec = train.step_spec
        create_weights_for(model, keras.utils.unpack_x_y_sample_weight(step_spec)[0], step_spec)


def _is_built(model: Any) -> bool:
    return bool(model.built) and all(layer.built for layer in model.layers)


def create_weights_for(model: Any, x_spec: Any, step_spec: Any = None) -> None:
    """Create the weights of a model that waits for its first batch (a Sequential without Input, a subclass).

    A symbolic call computes nothing and draws no random numbers, and the batch size stays dynamic. A model whose code
    cannot be called so is called on one sample of zeros. A model that cannot be called on its inputs at all, as only
    its own `train_step` knows how, is built by that step, which is traced and not run.

    Args:
        x_spec: the inputs as `keras.KerasTensor`s.
        step_spec: a batch as the model's `train_step` takes it, likewise; None if it is not known.
    """
    if _is_built(model):
        return
    if _function_of(type(model), "call") is _function_of(keras.Model, "call"):
        if model.layers and all(layer.built for layer in model.layers):
            model.built = True  # its layers are, and it has no call that could build more
            return
        if _trace_step(model, step_spec):
            return
    try:
        call_on_specs(model, x_spec)
    except Exception:
        if not _trace_step(model, step_spec):
            raise


def _trace_step(model: Any, step_spec: Any) -> bool:
    """Build a model by tracing its own `train_step`. Return False if that is not possible here.

    Keras on JAX and PyTorch builds a model by calling it, and refuses one that cannot be called.
    """
    own = _function_of(type(model), "train_step") is not _function_of(keras.Model, "train_step")
    if step_spec is None or not own or keras.config.backend() != "tensorflow":
        return False
    from search.worker.runners.tensorflow.steps import trace_training_step

    trace_training_step(model, step_spec)
    return True


def call_on_specs(model: Any, x_spec: Any) -> Any:
    """Return a model's outputs for inputs of these shapes and dtypes, symbolic if it can be called so."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras warns of a layer that the next attempt builds
            return model(x_spec)
    except Exception:
        # A call that failed half-way is repeated from its beginning: variables that were made stay made.
        return model(keras.tree.map_structure(_zeros, x_spec))


def _zeros(spec: Any) -> Any:
    shape = tuple(1 if size is None else size for size in spec.shape)
    if is_dense(spec):
        return keras.ops.zeros(shape, spec.dtype)
    return example_of(spec, np.zeros(shape, "int32" if spec.dtype == "string" else spec.dtype))


def _reason_against_fusing(
    model: Any, plan: TrainingPlan, fit_options: Mapping[str, Any], callbacks: Sequence[Any]
) -> str | None:
    """Return why the fused runner would not do what `fit` does; None if it would."""
    if keras.config.backend() not in ("tensorflow", "jax"):
        return f"Keras runs on {keras.config.backend()}"
    if plan.has_streams and keras.config.backend() != "tensorflow":
        return "data that come in batches"
    splits = [part for part in (plan.train, plan.validation) if isinstance(part, Split)]
    if special := [kind for split in splits for kind in split.special_kinds]:
        return special[0]
    return (
        _reason_of_model(model, has_arrays=bool(splits))
        or _reason_of_options(plan, fit_options)
        or _reason_of_callbacks(callbacks)
    )


def _reason_of_model(model: Any, *, has_arrays: bool) -> str | None:
    for name in _STOCK_METHODS:
        # An instance's `fit` may have been replaced by one that leads here, so the class's is looked up.
        owner = type(model) if name == "fit" else model
        if _function_of(owner, name) is not _function_of(keras.Model, name):
            return f"own {name}"
    if model.run_eagerly:
        return "run_eagerly"
    if model.steps_per_execution != 1:
        return "steps_per_execution"
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if has_arrays and any(tensor.shape[0] is not None for tensor in inputs):
        return "fixed batch size"
    return _reason_on_jax(model) if keras.config.backend() == "jax" else _reason_on_tensorflow(model)


def _reason_on_tensorflow(model: Any) -> str | None:
    import tensorflow as tf

    if tf.config.functions_run_eagerly():
        return "run_eagerly"
    if tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy():
        return "distribute strategy"
    return None


def _reason_on_jax(model: Any) -> str | None:
    if not model.jit_compile:
        return "jit_compile=False"
    return "distribution" if keras.distribution.distribution() is not None else None


def _reason_of_options(plan: TrainingPlan, fit_options: Mapping[str, Any]) -> str | None:
    for name, part in (("steps_per_epoch", plan.train), ("validation_steps", plan.validation)):
        if fit_options.get(name) is not None and not isinstance(part, Stream):
            return name
    nbytes = sum(part.nbytes for part in (plan.train, plan.validation) if isinstance(part, Split))
    return f"{nbytes / 2**30:.1f} GiB of data" if nbytes >= _MAX_FUSED_BYTES else None


def _reason_of_callbacks(callbacks: Sequence[Any]) -> str | None:
    for callback in callbacks:
        # The batch hook of a ModelCheckpoint does nothing unless save_freq is a number of batches.
        if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq == "epoch":
            continue
        for name in _BATCH_HOOKS:
            if _function_of(callback, name) is not _function_of(keras.callbacks.Callback, name):
                return f"{type(callback).__name__}.{name}"
    return None


def _function_of(owner: Any, name: str) -> Any:
    """Return the function behind a method of a class or an instance."""
    method = getattr(owner, name)
    return getattr(method, "__func__", method)
