"""A worker process: what a zygote's child does until it is told to leave."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from search.devices.slots import Slot, apply_slot
from search.messages import Evaluate, Probe, Segment, Shutdown
from search.study.paths import TrialPaths
from search.worker.channel import PipeChannel

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}
"""What keeps TensorFlow's start-up noise down; the rest goes to the trial's log."""

_FAST = {"TF_ENABLE_ONEDNN_OPTS": "1"} if platform.machine() == "x86_64" else {}
"""Has TensorFlow compute by oneDNN on processors where it would not by itself (those without AVX512-VNNI or AMX):
convolutions take half the time then, and attention two thirds (`benchmarks/onednn.py`)."""


def set_environment() -> None:
    """Set what frameworks read once, when they are imported, unless the user has."""
    for name, value in (_QUIET | _FAST).items():
        os.environ.setdefault(name, value)


def serve(connection: Connection, slot: Slot, log: str) -> None:
    """Run commands from `connection` until `Shutdown`, in the place that `slot` gives."""
    _leave_signals_to_the_driver()
    redirect(Path(log))
    apply_slot(slot)
    _configure(slot)
    from search.worker.evaluate_best import run_evaluation
    from search.worker.probe import run_probe
    from search.worker.segment import run_segment

    channel = PipeChannel(connection)
    while True:
        match channel.idle():
            case Probe() as probe:
                channel.send(run_probe(probe))
            case Segment() as segment:
                redirect(TrialPaths(Path(segment.folder)).log)
                run_segment(segment, channel)
                redirect(Path(log))
            case Evaluate() as evaluate:
                redirect(TrialPaths(Path(evaluate.folder)).log)
                channel.send(run_evaluation(evaluate))
                redirect(Path(log))
            case Shutdown():
                # Frameworks' threads may hang an orderly exit; there is nothing left to write.
                os._exit(0)


def _leave_signals_to_the_driver() -> None:
    """Ctrl-C, or a cluster that stops a job, reaches all processes: what it means is the driver's to say."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: None)

    def back_to_default() -> None:
        # What the user's code forks can be terminated by it.
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=back_to_default)


def redirect(path: Path) -> None:
    """Send what this process prints, its C libraries included, to the end of `path`; where there is no room for that,
    let it go where it went."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        return
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


@contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Send what this process prints to `log` for as long as it imports the framework, which is never silent then."""
    set_environment()
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    redirect(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in kept.items():
            os.dup2(descriptor, number)
            os.close(descriptor)


def _configure(slot: Slot) -> None:
    """Give the framework the slot's threads and devices; before its runtime starts, or it would take all there are."""
    import keras

    from search.worker.runners import distribution

    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(slot.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    elif backend == "torch":
        import torch

        torch.set_num_threads(slot.threads)
        torch.set_num_interop_threads(1)
    elif backend == "jax":
        import jax

        # For XLA's pools. `intra_op_parallelism_threads` in XLA_FLAGS has no effect on them.
        os.environ["PJRT_NPROC"] = str(slot.threads)
        # JAX has read JAX_PLATFORMS when it was imported.
        if not slot.gpus and not jax.config.jax_platforms:
            jax.config.update("jax_platforms", "cpu")
    distribution.configure(slot.devices, gpus=bool(slot.gpus))
