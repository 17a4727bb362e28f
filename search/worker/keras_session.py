"""A clean Keras session for each model: Keras's state of earlier models is cleared, and its random states are set.

Settings that the space file makes for all models, such as a dtype policy, stay. `seeded` sets the random states alone.

Names follow from the user's code alone. Layers that the code makes while it is imported keep their names, and a model's
layers are numbered after these, in every process and for every model alike.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from search.space.file import SPACE_MODULE, Space, SpaceRef, read_space
from search.space.names import count_names, names_in_modules
from search.worker.keras_internals import keep_global_seeds, set_used_names, used_names
from search.worker.runners import distribution

__all__ = ["import_space", "keep_random_states", "names_after", "seeded", "session", "set_seed", "settings_of_a_worker"]

_seeds: set[int] = set()


@contextmanager
def session(seed: int = 0, names: Mapping[str, int] | None = None) -> Iterator[None]:
    """Clear Keras's session, seed all random states with `seed`, and enter the slot's distribution scope.

    Args:
        names: the names that the model's layers come after, as in `names_after`; none by default.
    """
    settings = keras.config.dtype_policy(), keras.distribution.distribution()
    before = used_names()
    with _keeping_kernels(seed):
        keras.utils.clear_session(free_memory=False)
    set_used_names(before)
    _set(*settings)
    try:
        with distribution.scope(), names_after(names or {}), _compiling_less():
            with _keeping_kernels(seed):
                set_seed(seed)
            _seeds.add(seed)
            yield
    finally:
        _set(*settings)


def import_space(ref: SpaceRef) -> Space:
    """Run the user's code, and return its functions with the names that are taken then.

    What the code draws while it is imported (a split, a teacher's weights) is the same in every process of the study.
    """
    with seeded(ref.seed), names_after({}):
        space = read_space(ref)
        found = count_names(names_in_modules(sys.modules[SPACE_MODULE])) if ref.path is not None else {}
        taken = _highest(_highest(used_names(), space.names), found)
        set_used_names(taken)
        return replace(space, names=taken)


@contextmanager
def names_after(names: Mapping[str, int]) -> Iterator[None]:
    """Make Keras give names as if it had given only `names`. At the end, all names of this process count.

    Without it, names would depend on the models that the process has made before.

    Args:
        names: the number of names by prefix, as of `used_names`.
    """
    before = used_names()
    set_used_names(names)
    try:
        yield
    finally:
        set_used_names(_highest(before, used_names()))


def _highest(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(first) | Counter(second))


def set_seed(seed: int) -> None:
    """Set all random states, as `keras.utils.set_random_seed` does."""
    if keras.config.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
    else:
        from search.worker import late_tensorflow_internals

        late_tensorflow_internals.set_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random states with `seed`. At the end, those of Python and NumPy are what they were before.

    Keras and the framework give no way to read their global seeds, which stay.
    """
    before = random.getstate(), np.random.get_state()
    set_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def keep_random_states() -> Callable[[], None]:
    """Return a function that gives this process the global random states that it has now, as a script left them.

    JAX has none.
    """
    restores: list[Callable[[], object]] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(np.random.set_state, np.random.get_state()),
        keep_global_seeds(),
    ]
    if keras.config.backend() == "tensorflow":
        from search.worker.runners.tensorflow.internals import keep_global_seed

        restores.append(keep_global_seed())
    elif keras.config.backend() == "torch":
        import torch

        restores.append(functools.partial(torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():
            restores.append(functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))

    def restore() -> None:
        for each in restores:
            each()

    return restore


@contextmanager
def settings_of_a_worker() -> Iterator[None]:
    """Begin with Keras's default dtype policy and distribution, as a worker does; put the present ones back at the end.

    A space file may set others for its own models, and the user's process for theirs.
    """
    before = keras.config.dtype_policy(), keras.distribution.distribution()
    _set(keras.config.floatx(), None)
    try:
        yield
    finally:
        _set(*before)


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
    if keras.config.backend() == "tensorflow":
        from search.worker.runners.tensorflow.internals import keeping_kernels, kept_kernels

        if kept_kernels.works and seed not in _seeds:
            with keeping_kernels():
                yield
            return
    yield


@contextmanager
def _compiling_less() -> Iterator[None]:
    """Make JAX compile less for random numbers: those of initial weights and of dropouts."""
    if keras.config.backend() != "jax":
        yield
        return
    from search.worker.runners.jax.internals import unrolling_draws
    from search.worker.runners.jax.values_internals import sharing_programs

    with unrolling_draws(), sharing_programs():
        yield
