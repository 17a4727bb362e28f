"""A node: one machine with its GPUs, their use by others, its processors and its memory.

`find_node` looks at the machine on which it runs, so a cluster's executor runs it on each node: it imports no
framework, takes about as long as `nvidia-smi`, and returns a value that can be pickled.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from search.devices.gpus import Gpu, find_gpus
from search.devices.slots import available_cpus, core_ids
from search.devices.usage import Use, find_processes, own_pids, use_of

ORPHAN_SECONDS = 4
"""Seconds that the workers of a killed search may still hold its GPUs."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that a search may use.

    Attributes:
        name: the host's name.
        cpus: the number of processors that may be kept busy.
        cores: the ids of the processor cores.
        memory: the main memory in bytes.
        uses: the visible GPUs, with their use by others.
        keras_backend: the back end of Keras there; "" if it was not asked.
        seen: the number of GPUs that this back end's framework sees there; None if it was not asked.
    """

    name: str
    cpus: float
    cores: tuple[int, ...]
    memory: int
    uses: tuple[Use, ...] = ()
    keras_backend: str = ""
    seen: int | None = None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The visible GPUs."""
        return tuple(use.gpu for use in self.uses)


def find_node(environ: Mapping[str, str] = os.environ, root: int | None = None) -> Node:
    """Return the machine on which this runs.

    Args:
        environ: the environment variables, of which CUDA_VISIBLE_DEVICES counts; {} makes all GPUs visible.
        root: the process whose tree is our own; by default, this process.
    """
    import psutil

    gpus = find_gpus(environ)
    processes, own = (find_processes(), own_pids(root)) if gpus else ((), frozenset[int]())
    return Node(
        name=socket.gethostname(),
        cpus=available_cpus(),
        cores=core_ids(),
        memory=int(psutil.virtual_memory().total),
        uses=tuple(use_of(gpu, processes, own) for gpu in gpus),
    )


def find_node_again() -> Node:
    """Return this machine for a search that goes on: if others use a GPU, wait for the workers of a killed driver."""
    node = find_node()
    for _ in range(ORPHAN_SECONDS):
        if not any(use.others for use in node.uses):
            break
        time.sleep(1)
        node = find_node()
    return node
