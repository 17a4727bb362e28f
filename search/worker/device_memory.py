"""The GPUs that Keras's framework sees in this process, and the most memory that it has held of one of them.

Memory counts as the framework's allocator hands it out for tensors. The driver shows more: what the allocator keeps in
reserve, and the framework's own kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import keras

__all__ = ["count_gpus", "take_peak"]


def count_gpus() -> int:
    """Return the number of GPUs that the framework sees. This may start its runtime."""
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            return len(tf.config.list_physical_devices("GPU"))
        case "torch":
            import torch

            return torch.cuda.device_count() if torch.cuda.is_available() else 0
        case "jax":
            return len(list(_jax_gpus()))
    return 0


def take_peak() -> int | None:
    """Return the most bytes that the framework has held of one GPU since the last call, and measure anew.

    JAX cannot measure anew: there it is the most since the process began. None without a GPU, or if the framework does
    not tell. Call it at the end of a training: it may start the framework's runtime, which the user's code configures.
    """
    peaks: list[int | None] = []
    # A GPU that has failed cannot be asked, and the end of its segment must be reported all the same.
    with suppress(Exception):
        peaks += _peaks()
        _reset()
    return max((peak for peak in peaks if peak is not None), default=None)


def _peaks() -> Iterator[int | None]:
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            for device in _tensorflow_gpus():
                yield int(tf.config.experimental.get_memory_info(device)["peak"])
        case "torch":
            import torch

            for number in _torch_gpus():
                yield int(torch.cuda.max_memory_allocated(number))
        case "jax":
            for gpu in _jax_gpus():
                yield (gpu.memory_stats() or {}).get("peak_bytes_in_use")


def _reset() -> None:
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            for device in _tensorflow_gpus():
                tf.config.experimental.reset_memory_stats(device)
        case "torch":
            import torch

            for number in _torch_gpus():
                torch.cuda.reset_peak_memory_stats(number)


def _tensorflow_gpus() -> list[str]:
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return []  # without a GPU the runtime need not start for the question
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]


def _torch_gpus() -> range:
    import torch

    # Before its first use a GPU holds nothing of ours, and cannot be asked.
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _jax_gpus() -> Iterator[Any]:
    import jax

    yield from (device for device in jax.local_devices() if device.platform in ("gpu", "cuda", "rocm"))
