"""Data parallelism: one trial on several devices.

TensorFlow has `tf.distribute.MirroredStrategy` for that, JAX `keras.distribution.DataParallel`. Every device has a
copy of the model and gets its part of each batch; the gradients are averaged. The batch size in the user's code is that
of all devices together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

__all__ = ["configure", "device_count", "scope"]

_devices = 1
_parallel: Any = None
"""This process's strategy (TensorFlow) or distribution (JAX); None on one device."""


def configure(devices: int, *, gpus: bool) -> None:
    """Spread the models of this process over `devices` devices. Call it before the framework's runtime starts.

    Args:
        gpus: True for the GPUs that this process sees; False cuts the processor into as many devices.
    """
    global _devices, _parallel
    make = {"tensorflow": _make_strategy, "jax": _make_distribution}.get(keras.config.backend())
    if devices > 1 and make is not None:
        _devices, _parallel = devices, make(devices, gpus=gpus)


@contextmanager
def scope() -> Iterator[None]:
    """Build and use models on the configured devices.

    Call `clear_session` before, not within: it makes Keras and TensorFlow forget the scope.
    """
    if _parallel is None:
        yield
    elif keras.config.backend() == "tensorflow":
        with _parallel.scope():
            yield
    else:
        keras.distribution.set_distribution(_parallel)
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)


def device_count() -> int:
    """Return over how many devices a model is spread in this process."""
    return _devices


def _make_strategy(devices: int, *, gpus: bool) -> Any:
    import tensorflow as tf

    if gpus:
        return tf.distribute.MirroredStrategy()
    (processor, *_) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * devices)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])


def _make_distribution(devices: int, *, gpus: bool) -> Any:
    import jax

    if not gpus:
        jax.config.update("jax_num_cpu_devices", devices)

    from search.worker.runners.jax.internals import cut_each_batch

    cut_each_batch()  # the last batch of an epoch may be smaller than the first

    class UnevenDataParallel(keras.distribution.DataParallel):  # type: ignore[misc]  # keras is untyped
        """Data parallelism that gives each device the whole of a batch that cannot be cut evenly.

        An epoch's last batch may be uneven. The results are the same, and JAX would refuse to cut such a batch.
        """

        def get_data_layout(self, data_shape: Any) -> Any:
            if data_shape and data_shape[0] % devices:
                return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
            return super().get_data_layout(data_shape)

    return UnevenDataParallel(auto_shard_dataset=False)
