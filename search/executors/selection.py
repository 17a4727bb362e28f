"""Where segments run: `local` worker processes, or `inline`. `make` is the one place that knows them by name.

`simulated`, which trains nothing, is reached from Python only: `search.executors.simulated.SimulatedExecutor`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from search.devices.gpus import Gpu, choose_gpus
from search.devices.slots import Slot, available_cpus, core_ids, make_slots
from search.errors import OptionError
from search.executors.base import Executor
from search.options import KERAS_BACKENDS, Options

if TYPE_CHECKING:
    from search.executors.local import Zygote

shared_zygote: Zygote | None = None
"""Where many searches run in one process, one after the other: a zygote that they share."""


def slots_of(opts: Options, gpus: tuple[Gpu, ...]) -> tuple[Slot, ...]:
    """The slots that `opts` make of this machine, whose GPUs are `gpus`. OptionError where they cannot be."""
    chosen = choose_gpus(gpus, opts.gpus)
    if opts.executor == "inline" and max(opts.gpus_per_trial if chosen else 1, opts.logical_devices) > 1:
        raise OptionError("a trial is spread over several devices by a worker process: leave --executor inline out")
    workers = 1 if opts.executor == "inline" else opts.workers
    return make_slots(chosen, available_cpus(), core_ids(), workers, opts.gpus_per_trial, opts.logical_devices)


def check_installed(keras_backend: str | None) -> None:
    """Raise OptionError where Keras would not find its back end: the one given, else that of the environment."""
    name = keras_backend or os.environ.get("KERAS_BACKEND") or "tensorflow"
    where = f"--keras-backend {name}" if keras_backend else f"KERAS_BACKEND={name}"
    if name not in KERAS_BACKENDS:
        raise OptionError(f"{where}: a search trains with {', '.join(KERAS_BACKENDS)}: set it to one of them")
    if importlib.util.find_spec(name) is None:
        raise OptionError(f"{where}: {name} is not installed: pip install {name}, or use another")


def make(opts: Options, gpus: tuple[Gpu, ...], log: Path, compiled: Path | None = None) -> Executor:
    """The executor that `opts` ask for.

    Args:
        log: where what its processes print goes.
        compiled: where worker processes keep what they compile; by default in a folder that goes with them.
    """
    check_installed(opts.keras_backend)
    if opts.executor == "inline":
        from search.executors.inline import InlineExecutor
        from search.worker.process import quietly

        if opts.keras_backend is not None:
            os.environ["KERAS_BACKEND"] = opts.keras_backend
        with quietly(log):
            import search.worker.probe  # noqa: F401
        return InlineExecutor()
    from search.executors.local import LocalExecutor

    return LocalExecutor(
        slots_of(opts, gpus),
        log,
        opts.keras_backend,
        compiled=compiled,
        heartbeat=opts.heartbeat_timeout,
        zygote=shared_zygote,
    )
