"""Grappler options: a lighter run of TensorFlow's graph optimizer over a function of ours, before its first call.

By default Grappler goes over a graph twice. That is half of the time that it takes to make a traced function of a small
model ready to run. On a processor the second pass, and some of the optimizers, changed nothing that counts in any model
tried, and are left out. Results stay those of `fit`, to the last bit: the tests of both runners compare them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from search.worker.runners.tensorflow.internals import function_options, graph_options

__all__ = ["light_grappler"]


@contextmanager
def light_grappler() -> Iterator[None]:
    """Have Grappler go once, and lightly, over functions first called within. With GPUs nothing changes."""
    if tf.config.list_logical_devices("GPU") or not graph_options.works:
        yield
        return
    with function_options(_set_light_options):
        yield


def _set_light_options(options: Any) -> None:
    options.meta_optimizer_iterations = RewriterConfig.ONE
    options.memory_optimization = RewriterConfig.NO_MEM_OPT  # swaps and recomputes for GPUs
    options.layout_optimizer = RewriterConfig.OFF  # of images, for GPUs
    options.implementation_selector = RewriterConfig.OFF  # between kernels of different devices
    # Moves operations into the branches of conditions; both options are needed to turn it off.
    options.disable_tfg_optimizer = True
    options.experimental_conditional_code_motion = RewriterConfig.OFF
