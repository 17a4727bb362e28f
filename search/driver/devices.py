"""The machines of `search devices`: this one, or those of a cluster, which its executor finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search import options
from search.devices.nodes import Node, find_node
from search.devices.plan import NodePlan, plan_machine, plan_placed
from search.plugins.loading import EXECUTORS

COUNT = """
import keras
from search.worker.device_memory import count_gpus
print(keras.config.backend(), count_gpus())
"""
"""The program that prints Keras's back end and the number of GPUs that its framework sees."""

KERAS_SECONDS = 120.0
"""Seconds for that program."""


def plan_devices(given: Mapping[str, Any]) -> tuple[NodePlan, ...]:
    """Return the machines that a search with the options `given` would use, and its slots there.

    An executor of several machines has classmethods `find_nodes(options)`, which returns them by the `node` of their
    slots, and `find_slots(options)`.

    Raises:
        OptionError: an option is wrong, or does not fit the machines.
    """
    opts = options.resolve_options(given)
    cls = EXECUTORS.load(opts.executor).cls
    if hasattr(cls, "find_nodes"):
        return plan_placed(cls.find_nodes(opts), cls.find_slots(opts), opts.gpus)
    node = ask_keras(find_node(), opts.keras_backend)
    workers = 1 if getattr(cls, "in_process", False) else opts.workers
    return (plan_machine(node, opts.gpus, workers, opts.gpus_per_trial, opts.logical_devices),)


def ask_keras(node: Node, keras_backend: str | None) -> Node:
    """Return this machine, `node`, with the number of GPUs that Keras's framework sees, if it has any.

    A process of its own imports Keras. If that fails, nothing is known.

    Args:
        keras_backend: `tensorflow`, `jax` or `torch`; None for Keras's own choice.
    """
    if not node.uses:
        return node
    environ = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if keras_backend is not None:
        environ["KERAS_BACKEND"] = keras_backend
    command = [sys.executable, "-P", "-c", COUNT]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=KERAS_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return node
    backend, seen = done.stdout.split()[-2:]
    return replace(node, keras_backend=backend, seen=int(seen))
