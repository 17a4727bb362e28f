"""Private API of Keras on JAX, behind functions with public names: an island, see `search.worker.capabilities`."""

from __future__ import annotations

import inspect

import keras

from search.worker.capabilities import capability

__all__ = ["cut_each_batch", "own_cuts"]


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
