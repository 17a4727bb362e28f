"""The choice of an executor by the options: `local` worker processes, or `inline`.

The third executor, `search.executors.simulated.SimulatedExecutor`, trains nothing and has no option.
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
from search.options import Options
from search.study.versions import KERAS_BACKENDS

if TYPE_CHECKING:
    from search.executors.local import Zygote

shared_zygote: Zygote | None = None
"""The zygote of all searches that run one after the other in this process; None if each has its own."""


def slots_of(opts: Options, gpus: tuple[Gpu, ...]) -> tuple[Slot, ...]:
    """Return the slots that `opts` ask for on this machine, which has `gpus`. OptionError if that is impossible."""
    chosen = choose_gpus(gpus, opts.gpus)
    if opts.executor == "inline" and max(opts.gpus_per_trial if chosen else 1, opts.logical_devices) > 1:
        raise OptionError("a trial is spread over several devices by a worker process: leave --executor inline out")
    workers = 1 if opts.executor == "inline" else opts.workers
    return make_slots(chosen, available_cpus(), core_ids(), workers, opts.gpus_per_trial, opts.logical_devices)


def check_installed(keras_backend: str | None) -> None:
    """Raise OptionError if Keras's backend is not installed: `keras_backend`, or else that of the environment."""
    name = keras_backend or os.environ.get("KERAS_BACKEND") or "tensorflow"
    where = f"--keras-backend {name}" if keras_backend else f"KERAS_BACKEND={name}"
    if name not in KERAS_BACKENDS:
        raise OptionError(f"{where}: a search trains with {', '.join(KERAS_BACKENDS)}: set it to one of them")
    if importlib.util.find_spec(name) is None:
        raise OptionError(f"{where}: {name} is not installed: pip install {name}, or use another")


def make_executor(opts: Options, gpus: tuple[Gpu, ...], log: Path, compiled: Path | None = None) -> Executor:
    """Return the executor that `opts` ask for.

    Args:
        log: the file for the output of its processes.
        compiled: the folder in which worker processes keep compiled programs; by default a temporary one.
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
