"""One trial over several devices: data parallelism, by `tf.distribute.MirroredStrategy` on TensorFlow and by
`keras.distribution.DataParallel` on JAX.

Every device has a copy of the model and gets its part of each batch; the gradients are averaged. The batch size stays
what the user's code says: that of all devices together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

__all__ = ["configure", "count", "scope"]

_devices = 1
_parallel: Any = None
"""Of this process: a strategy of TensorFlow's, or a distribution of Keras's."""


def configure(devices: int, *, gpus: bool) -> None:
    """Have this process spread its models over `devices` devices; to be called before the framework's runtime starts.

    Args:
        gpus: whether they are the GPUs that this process sees; else the processor is cut into so many.
    """
    global _devices, _parallel
    make = {"tensorflow": _strategy, "jax": _distribution}.get(keras.config.backend())
    if devices > 1 and make is not None:
        _devices, _parallel = devices, make(devices, gpus=gpus)


@contextmanager
def scope() -> Iterator[None]:
    """Where models are built and used. `clear_session` makes Keras, and TensorFlow, forget it: it belongs before."""
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


def count() -> int:
    """Over how many devices a model is spread in this process."""
    return _devices


def _strategy(devices: int, *, gpus: bool) -> Any:
    import tensorflow as tf

    if gpus:
        return tf.distribute.MirroredStrategy()
    (processor, *_) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * devices)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])


def _distribution(devices: int, *, gpus: bool) -> Any:
    import jax

    if not gpus:
        jax.config.update("jax_num_cpu_devices", devices)

    # Keras takes the first batch's cut for all of an epoch's, of which the last may be smaller.
    from keras.src.backend.jax import trainer

    trainer.JAXEpochIterator._get_distributed_iterator = lambda iterator, _: map(
        trainer._distribute_data, iterator.data_adapter.get_jax_iterator()
    )

    class Even(keras.distribution.DataParallel):  # type: ignore[misc]  # keras is untyped
        """Gives each device a whole batch that cannot be cut evenly, as an epoch's last one: the results are the same,
        and JAX would refuse to cut it."""

        def get_data_layout(self, data_shape: Any) -> Any:
            if data_shape and data_shape[0] % devices:
                return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
            return super().get_data_layout(data_shape)

    return Even(auto_shard_dataset=False)
