"""TensorFlow's graph optimizer goes over functions of ours once. That bits stay is seen wherever they are compared."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.eager import context

from search.worker.runners.tensorflow import grappler as rewriting


def now() -> RewriterConfig:
    given = context.context().function_call_options.config_proto_serialized
    return ConfigProto.FromString(given).graph_options.rewrite_options


def test_what_is_set_otherwise_stays_and_all_is_as_before_after_it() -> None:
    before = now()
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        with rewriting.once():
            assert now().meta_optimizer_iterations == RewriterConfig.ONE
            assert now().remapping == RewriterConfig.OFF
        assert now().meta_optimizer_iterations == before.meta_optimizer_iterations
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": True})


def test_it_is_as_before_after_an_error_too() -> None:
    before = now()
    with pytest.raises(ValueError, match="a loop"), rewriting.once():
        raise ValueError("a loop")
    assert now() == before
