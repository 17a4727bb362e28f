"""The fused runner: a whole epoch is one call into TensorFlow, equal to `model.fit` to the last bit on CPU.

The data lie on the device. Training and validation are a `tf.function` each, which loop over the model's own
`train_step` and `test_step`; the last, smaller batch has a dynamic size, so each step is traced once. Two functions
rather than one cost 0.4 ms an epoch, and let `on_test_begin` run where `fit` runs it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from search.worker.data import Split
from search.worker.fit import Plan

__all__ = ["FusedRunner"]


class FusedRunner:
    """Trains by fused epochs. `choose` knows when that is right."""

    name = "fused"

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._traced_for: Any = None
        self._train: Any = None
        self._validate: Any = None

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
            self._trace()
            logs = _floats(self._train(tf.constant(plan.order(epoch))))
            if plan.validation is not None:
                hooks.on_test_begin()
                model.reset_metrics()
                validation = _floats(self._validate())
                hooks.on_test_end(validation)
                logs.update({f"val_{name}": value for name, value in validation.items()})
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if isinstance(model.optimizer, keras.optimizers.Optimizer):
            model.optimizer.finalize_variable_values(model.trainable_weights)
        hooks.on_train_end(logs)

    def _trace(self) -> None:
        """Make the functions anew where the model was compiled since: `compile` resets `train_function` to None."""
        model, plan = self._model, self._plan
        if model.train_function is not None and model.train_function is self._traced_for:
            return
        model.make_train_function()
        self._traced_for = model.train_function
        self._train = _loop(model, model.train_step, plan.arrays.packed, plan.batch_size)
        if plan.validation is not None:
            assert isinstance(plan.validation, Split), "streams are not fused"
            self._validate = _loop(model, model.test_step, plan.validation.packed, plan.validation_batch_size)


def _loop(model: Any, step: Any, packed: Any, batch_size: int) -> Any:
    """A function of the samples' order (by default the natural one) that runs `step` on every batch of `packed`.

    It returns the model's metrics as tensors.
    """
    # Keras compiles with XLA what its "auto" resolves to: nothing where there are only CPUs (it is slower there),
    # else the step. To compile the same unit here keeps both runners equal.
    if model.jit_compile:
        step = tf.function(step, autograph=False, reduce_retracing=True, jit_compile=True)
    data = keras.tree.map_structure(_tensor, packed)
    samples = int(keras.tree.flatten(data)[0].shape[0])
    steps = -(-samples // batch_size)

    def run(order: Any = None) -> Any:
        def body(i: Any) -> tuple[Any]:
            part = slice(i * batch_size, tf.minimum((i + 1) * batch_size, samples))
            if order is None:
                step(keras.tree.map_structure(lambda array: array[part], data))
            else:
                indices = order[part]
                step(keras.tree.map_structure(lambda array: tf.gather(array, indices), data))
            return (i + 1,)

        # One iteration at a time: each reads the weights that the one before wrote.
        tf.while_loop(lambda i: i < steps, body, (tf.constant(0),), parallel_iterations=1)
        return model.get_metrics_result()

    return tf.function(run, autograph=False)


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    """The array on the device; where that is the processor, its own memory, if TensorFlow can use it as it lies."""
    aligned = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable
    if aligned and array.dtype.kind in "fiu" and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


_ALIGNMENT = 64
"""Bytes: what TensorFlow's vectorised code counts on."""


def _floats(metrics: dict[str, Any]) -> dict[str, Any]:
    """Tensors as `fit` puts them in its logs: scalars as floats, what is none as an array."""
    arrays = {name: np.asarray(value) for name, value in metrics.items()}
    return {name: float(array) if array.size == 1 else array for name, array in arrays.items()}
