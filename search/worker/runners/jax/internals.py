"""Private API of Keras on JAX, behind functions with public names: an island, see `search.worker.capabilities`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import jax
import keras
import numpy as np

from search.worker.capabilities import capability

__all__ = ["cut_each_batch", "own_cuts", "unrolled_draws", "unrolling_draws"]


def _version() -> str:
    return f"Keras {keras.__version__}"


@capability(
    "uneven batches",
    without="batches must be of one size that the devices share",
    uses=(
        "keras.src.backend.jax.trainer",
        "keras.src.backend.jax.trainer.JAXEpochIterator._get_distributed_iterator",
        "keras.src.backend.jax.trainer._distribute_data",
    ),
    packages=_version,
)
def own_cuts() -> bool:
    """Test whether Keras has the two functions by which it cuts batches."""
    from keras.src.backend.jax import trainer

    method = trainer.JAXEpochIterator._get_distributed_iterator
    return len(inspect.signature(method).parameters) == 2 and callable(trainer._distribute_data)


def cut_each_batch() -> None:
    """Have Keras cut each batch for the devices by itself: it would cut all as it cut an epoch's first."""
    if not own_cuts.works:
        return
    from keras.src.backend.jax import trainer

    trainer.JAXEpochIterator._get_distributed_iterator = lambda iterator, _: map(
        trainer._distribute_data, iterator.data_adapter.get_jax_iterator()
    )


@capability(
    "unrolled random numbers",
    without="JAX compiles what draws random numbers for longer",
    uses=("jax.extend.random.threefry2x32_p", "jax._src.interpreters.mlir._platform_specific_lowerings"),
    packages=lambda: f"JAX {jax.__version__}",
    for_speed=True,
)
def unrolled_draws() -> bool:
    """Test whether random bits are compiled without a loop, and are those that Threefry's authors publish."""
    from jax.extend.random import threefry_2x32

    keys, counts, bits = (np.array(values, "uint32") for values in _KNOWN_DRAWS)
    with _unrolled():
        lowered = jax.jit(lambda keys, counts: threefry_2x32(keys, counts)).lower(keys, counts)
    return "while" not in lowered.as_text() and np.array_equal(lowered.compile()(keys, counts), bits)


_KNOWN_DRAWS = ([0x13198A2E, 0x03707344], [0x243F6A88, 0x85A308D3], [0xC4923A9C, 0x483DF7A0])
"""A key, a counter, and the bits that `threefry2x32` makes of them, by the tests of Random123."""


@contextmanager
def unrolling_draws() -> Iterator[None]:
    """Have JAX compile random numbers for a processor as for other devices, without a loop.

    The bits are the same. XLA compiles each shape of a weight or of a dropout anew, so in a third of the time, and many
    numbers are drawn several times as fast.
    """
    with _unrolled() if unrolled_draws.works else nullcontext():
        yield


@contextmanager
def _unrolled() -> Iterator[None]:
    from jax._src.interpreters import mlir
    from jax.extend.random import threefry2x32_p

    rules = mlir._platform_specific_lowerings["cpu"]
    rolled = rules.pop(threefry2x32_p, None)
    try:
        yield
    finally:
        if rolled is not None:
            rules[threefry2x32_p] = rolled
