"""Where a model is built and used: what Keras knows of those before is forgotten, and its random states are set.

What the space file has set for all of them, as a policy for dtypes, stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from search.worker.runners import distribution

__all__ = ["session"]

_seeds: set[int] = set()


@contextmanager
def session(seed: int = 0) -> Iterator[None]:
    """Layers' names count on from one model to the next, and a trial's are to be the same in every worker."""
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


def _set(policy: Any, layout: Any) -> None:
    """Set what holds for all models; to clear a session takes it away, too."""
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(layout)


@contextmanager
def _keeping_kernels(seed: int) -> Iterator[None]:
    """Have TensorFlow keep what it has made ready to run, where that holds no random state of this seed.

    To clear a session, or to seed it, clears the cache of kernels, which also those of held models are in: it takes
    tenths of a second to make them again. It has to be: a kernel goes on with its random numbers where it is used for
    the same seed once more.
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
