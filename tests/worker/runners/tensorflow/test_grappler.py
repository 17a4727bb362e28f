"""Grappler options of our functions. All tests that compare the bits of both runners show that bits stay."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.eager import context

from search.worker.runners.tensorflow.grappler import light_grappler

pytestmark = pytest.mark.core


def current_options() -> RewriterConfig:
    config = context.context().function_call_options.config_proto_serialized
    return ConfigProto.FromString(config).graph_options.rewrite_options


def test_other_options_stay_and_all_are_restored() -> None:
    before = current_options()
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        with light_grappler():
            assert current_options().meta_optimizer_iterations == RewriterConfig.ONE
            assert current_options().remapping == RewriterConfig.OFF
        assert current_options().meta_optimizer_iterations == before.meta_optimizer_iterations
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": True})


def test_options_are_restored_after_an_error() -> None:
    before = current_options()
    with pytest.raises(ValueError, match="a loop"), light_grappler():
        raise ValueError("a loop")
    assert current_options() == before
