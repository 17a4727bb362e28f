"""Initial values on JAX without a program for each shape: an island, see `search.worker.capabilities`.

JAX compiles a program for each shape of a weight that is drawn, and of a slot that is filled with zeros: 20 to 80 ms
each, which is a sixth of a short trial of a small model. Here numbers are drawn in the next power of two and cut, as
JAX's generator makes each number from its place. Zeros come from NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import keras
import numpy as np

from search.worker.capabilities import capability

__all__ = ["shared_draws", "sharing_programs"]

_DRAWS = ("normal", "truncated_normal", "uniform")
_LEAST, _MOST = 1 << 10, 1 << 22
"""The numbers that are drawn at least, and the largest array whose numbers are drawn so."""


@capability(
    "initial values by few programs",
    without="JAX compiles a program for each shape of a weight",
    uses=(
        "keras.src.backend.jax.numpy.zeros",
        "keras.src.backend.jax.random.normal",
        "keras.src.backend.jax.random.truncated_normal",
        "keras.src.backend.jax.random.uniform",
        "jax._src.core.trace_state_clean",
    ),
    packages=lambda: f"JAX {jax.__version__} with Keras {keras.__version__}",
    for_speed=True,
)
def shared_draws() -> bool:
    """Test whether Keras draws by the functions that are replaced here, the same bits."""

    def draw() -> Any:
        return np.asarray(keras.random.uniform((3, 5), -0.3, 0.7, seed=7))

    own = draw()
    with _replaced() as called:
        shared = draw()
        zeros = keras.ops.zeros((2, 3))
    return called == ["uniform", "zeros"] and np.array_equal(own, shared) and zeros.shape == (2, 3)


@contextmanager
def sharing_programs() -> Iterator[None]:
    """Have Keras make initial values by programs that all shapes share, within, on a processor."""
    if jax.default_backend() == "cpu" and shared_draws.works:
        with _replaced():
            yield
    else:
        yield


@contextmanager
def _replaced() -> Iterator[list[str]]:
    """Replace Keras's functions within. Yield a list of the calls that were taken over."""
    from keras.src.backend.jax import numpy, random

    called: list[str] = []
    with ExitStack() as restored:
        for module, names, make in ((random, _DRAWS, _cut_from_more), (numpy, ("zeros",), _from_numpy)):
            for name in names:
                own = getattr(module, name)
                restored.callback(setattr, module, name, own)
                setattr(module, name, make(own, name, called))
        yield called


def _cut_from_more(draw: Callable[..., Any], name: str, called: list[str]) -> Callable[..., Any]:
    def draw_shape(shape: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_plain(shape) or not _draws_by_place() or math.prod(shape) > _MOST:
            return draw(shape, *arguments, **options)
        called.append(name)
        size = math.prod(shape)
        numbers = draw((max(_LEAST, 1 << (size - 1).bit_length()),), *arguments, **options)
        return _copy(np.asarray(numbers)[:size].reshape(shape))

    return draw_shape


def _from_numpy(zeros: Callable[..., Any], name: str, called: list[str]) -> Callable[..., Any]:
    def make_zeros(shape: Any, dtype: Any = None) -> Any:
        if not _is_plain(shape) or (dtype or keras.config.floatx()) != "float32":
            return zeros(shape, dtype)
        called.append(name)
        return _copy(np.zeros(shape, np.float32))

    return make_zeros


def _is_plain(shape: Any) -> bool:
    """Return whether values of this shape are computed now, and are some. A trace needs the operations."""
    from jax._src import core

    is_shape = isinstance(shape, (tuple, list)) and all(isinstance(size, int) and size > 0 for size in shape)
    return is_shape and core.trace_state_clean()


def _draws_by_place() -> bool:
    """Return whether the generator makes each number from its place alone, as it does by default."""
    return bool(jax.config.jax_threefry_partitionable) and jax.config.jax_default_prng_impl == "threefry2x32"


def _copy(array: np.ndarray[Any, Any]) -> Any:
    """Return an array on the device in memory of its own: the program that trains is given a variable's memory."""
    return jax.device_put(array, may_alias=False)
