"""A clean Keras session for each model: Keras's state of earlier models is cleared, and its random states are set.

Settings that the space file makes for all models, such as a dtype policy, stay. `seeded` sets the random states alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from search.worker.runners import distribution

__all__ = ["seeded", "session"]

_seeds: set[int] = set()


@contextmanager
def session(seed: int = 0) -> Iterator[None]:
    """Clear Keras's session, seed all random states with `seed`, and enter the slot's distribution scope.

    Without a cleared session, Keras numbers layers from one model to the next. A trial's layer names must be the same
    in every worker.
    """
    settings = keras.config.dtype_policy(), keras.distribution.distribution()
    with _keeping_kernels(seed):
        keras.utils.clear_session(free_memory=False)
    _set(*settings)
    try:
        with distribution.scope():
            with _keeping_kernels(seed):
                keras.utils.set_random_seed(seed)
            _seeds.add(seed)
            yield
    finally:
        _set(*settings)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random states with `seed`. At the end, those of Python and NumPy are what they were before.

    Keras and the framework give no way to read their global seeds, which stay.
    """
    before = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _set(policy: Any, layout: Any) -> None:
    """Set the dtype policy and the distribution of all models, which clearing a session resets."""
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(layout)


@contextmanager
def _keeping_kernels(seed: int) -> Iterator[None]:
    """Make TensorFlow keep its cached kernels, unless `seed` was used before in this process.

    TensorFlow clears its kernel cache whenever a session is cleared or seeded. Cached models need the kernels, too, and
    making them again takes tenths of a second. A reused seed needs fresh kernels: a cached one would continue its
    random stream.
    """
    if keras.config.backend() != "tensorflow" or seed in _seeds:
        yield
        return
    from tensorflow.python.eager import context

    clear = context.pywrap_tfe.TFE_ContextClearCaches
    context.pywrap_tfe.TFE_ContextClearCaches = lambda handle: None
    try:
        yield
    finally:
        context.pywrap_tfe.TFE_ContextClearCaches = clear
