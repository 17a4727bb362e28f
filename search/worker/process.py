"""The main loop of a worker process, which the zygote forks."""

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
from search.messages import Evaluate, Notice, Probe, Probed, ProbeFailed, Segment, Shutdown, Stage
from search.storage.scratch import remove_scratch
from search.storage.trial_files import localize
from search.study.paths import TrialPaths
from search.worker.channel import PipeChannel
from search.worker.own_process import claim_process

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}
"""Environment variables that silence TensorFlow's start-up. Other output goes to the trial's log."""

_FAST = {"TF_ENABLE_ONEDNN_OPTS": "1"} if platform.machine() == "x86_64" else {}
"""Environment variables that make TensorFlow use oneDNN on all x86 processors.

By itself it uses oneDNN only on those with AVX512-VNNI or AMX. Convolutions then take half the time, and attention two
thirds (`benchmarks/onednn.py`).
"""


def set_environment() -> None:
    """Set the environment variables that a framework reads when it is imported, unless the user has set them."""
    for name, value in (_QUIET | _FAST).items():
        os.environ.setdefault(name, value)


def serve_worker(connection: Connection, slot: Slot, log: str) -> None:
    """Run commands from `connection` on the devices of `slot` until `Shutdown`.

    Args:
        log: the file for output while no trial runs.
    """
    claim_process()
    _ignore_signals()
    redirect_output(Path(log))
    apply_slot(slot)
    _configure_framework(slot)
    from search.worker.evaluate_best import run_evaluation
    from search.worker.segment import run_segment

    channel = PipeChannel(connection)
    while True:
        match channel.receive_work():
            case Probe() as probe:
                channel.send(_probe(probe, channel))
            case Segment() as segment:
                redirect_output(TrialPaths(Path(localize(segment).folder)).log)
                run_segment(segment, channel)
                redirect_output(Path(log))
            case Evaluate() as evaluate:
                redirect_output(TrialPaths(Path(localize(evaluate).folder)).log)
                channel.send(run_evaluation(evaluate, channel))
                redirect_output(Path(log))
            case Shutdown():
                remove_scratch()
                # Frameworks' threads may hang an orderly exit; there is nothing left to write.
                os._exit(0)


def _probe(probe: Probe, channel: PipeChannel) -> Probed | ProbeFailed:
    from search.worker.probe import run_probe

    return run_probe(probe, lambda text: channel.send(Notice(0, text)), lambda text: channel.send(Stage(text)))


def _ignore_signals() -> None:
    """Ignore the signals of Ctrl-C and of a cluster that stops a job: they reach all processes, and the driver acts."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: None)

    def back_to_default() -> None:
        # The user's code can terminate its own child processes.
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=back_to_default)


def redirect_output(path: Path) -> None:
    """Append the output of this process and its C libraries to the file `path`; leave it as it is if that fails."""
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
    """Append the output of this process to `log` within, while it imports the framework, which always prints."""
    set_environment()
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    redirect_output(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in kept.items():
            os.dup2(descriptor, number)
            os.close(descriptor)


def _configure_framework(slot: Slot) -> None:
    """Limit the framework to the slot's threads and devices, before its runtime starts and takes all of them."""
    import keras

    from search.worker.runners import distribution

    backend = keras.config.backend()
    if backend != "tensorflow":
        from search.worker.late_tensorflow_internals import serialize_without_import

        serialize_without_import()
    if backend == "tensorflow":
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(slot.threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except TypeError:  # a script that was forked has assigned numbers in place of calling these functions
            print(f"search: TensorFlow's threads cannot be limited to {slot.threads}", flush=True)
    elif backend == "torch":
        import torch

        torch.set_num_threads(slot.threads)
        torch.set_num_interop_threads(1)
    elif backend == "jax":
        import jax

        # XLA's thread pools read this. `intra_op_parallelism_threads` in XLA_FLAGS has no effect on them.
        os.environ["PJRT_NPROC"] = str(slot.threads)
        # JAX reads JAX_PLATFORMS when it is imported, which the zygote did.
        if not slot.gpus and not jax.config.jax_platforms:
            jax.config.update("jax_platforms", "cpu")
    distribution.configure(slot.devices, gpus=bool(slot.gpus))
