"""A model's training step, traced by TensorFlow: so a model is built that only its own `train_step` can call."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["trace_training_step"]


def trace_training_step(model: Any, step_spec: Any) -> None:
    """Build a model by tracing its `train_step`, as `model.fit` would with the first batch. Nothing is computed.

    Keras makes variables outside of the graph, with their initial values.

    Args:
        step_spec: a batch as `keras.KerasTensor`s.
    """
    batch = keras.tree.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), step_spec)
    tf.function(model.train_step, autograph=False).get_concrete_function(batch)
    model.built = True
