"""The choice of an executor by the options: `local` worker processes, `inline`, `ray`, or one of another package.

A further executor, `search.executors.simulated.SimulatedExecutor`, trains nothing and has no option.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from search.devices.gpus import Gpu, choose_gpus
from search.devices.slots import Slot, available_cpus, core_ids, make_slots
from search.errors import OptionError, SearchError
from search.executors.base import Executor, ExecutorSetup
from search.executors.early_fork import find_early_fork
from search.options import Options
from search.plugins.loading import EXECUTORS
from search.study.versions import KERAS_BACKENDS
from search.wording import pluralize

if TYPE_CHECKING:
    from search.executors.forked_process import ForkOptions
    from search.executors.zygotes import Zygote

shared_zygote: Zygote | None = None
"""The zygote of all searches that run one after the other in this process; None if each has its own."""

_early_zygote: Zygote | None = None
"""The zygote that this process's early fork has become."""


def why_shared() -> str | None:
    """Return why a search of this process needs no zygote of its own, None if it does."""
    return None if shared_zygote is None else "the searches of this program share their workers' origin"


def finds_slots(opts: Options) -> bool:
    """Return whether the executor has slots of its own, beside those of this machine."""
    return hasattr(EXECUTORS.load(opts.executor).cls, "find_slots")


def slots_of(opts: Options, gpus: tuple[Gpu, ...]) -> tuple[Slot, ...]:
    """Return the slots that `opts` ask for: on this machine, which has `gpus`, unless the executor finds its own.

    Raises:
        OptionError: there are no such slots.
    """
    cls = EXECUTORS.load(opts.executor).cls
    if finds_slots(opts):
        return cast(tuple[Slot, ...], cls.find_slots(opts))
    chosen = choose_gpus(gpus, opts.gpus)
    in_process = getattr(cls, "in_process", False)
    if in_process and max(opts.gpus_per_trial if chosen else 1, opts.logical_devices) > 1:
        raise OptionError(
            f"a trial is spread over several devices by a worker process: leave --executor {opts.executor} out"
        )
    workers = 1 if in_process else opts.workers
    return make_slots(chosen, available_cpus(), core_ids(), workers, opts.gpus_per_trial, opts.logical_devices)


def check_installed(keras_backend: str | None) -> None:
    """Raise OptionError if Keras's backend is not installed: `keras_backend`, or else that of the environment."""
    name = keras_backend or os.environ.get("KERAS_BACKEND") or "tensorflow"
    where = f"--keras-backend {name}" if keras_backend else f"KERAS_BACKEND={name}"
    if name not in KERAS_BACKENDS:
        raise OptionError(f"{where}: a search trains with {', '.join(KERAS_BACKENDS)}: set it to one of them")
    if importlib.util.find_spec(name) is None:
        raise OptionError(f"{where}: {name} is not installed: pip install {name}, or use another")


def make_executor(
    opts: Options,
    gpus: tuple[Gpu, ...],
    log: Path,
    compiled: Path | None = None,
    fork: ForkOptions | None = None,
    *,
    early: bool = False,
) -> Executor:
    """Return the executor that `opts` ask for.

    Args:
        log: the file for the output of its processes.
        compiled: the folder in which worker processes keep compiled programs; by default a temporary one.
        fork: how worker processes are forked from this one; None for those of a new Python.
        early: have worker processes from this process's early fork, if it still lives.
    """
    check_installed(opts.keras_backend)
    part = EXECUTORS.load(opts.executor)
    shared = shared_zygote if fork is None else None  # only a fork of this moment has the parts that do not pickle
    if early:
        shared = _find_early_zygote(log, opts.keras_backend, compiled)
    setup = ExecutorSetup(
        slots_of(opts, gpus), log, opts.keras_backend, compiled, opts.heartbeat_timeout, shared, opts, fork
    )
    if part.own:
        return cast(Executor, part.make(setup))
    try:
        return cast(Executor, part.make(setup, **part.arguments))
    except SearchError:
        raise
    except Exception as error:
        raise OptionError(f"--executor {opts.executor} cannot be used ({type(error).__name__}: {error})") from error


def _find_early_zygote(log: Path, keras_backend: str | None, compiled: Path | None) -> Zygote | None:
    """Return the zygote that this process's early fork has become, None if it has none. It serves all searches."""
    global _early_zygote
    early = find_early_fork(keras_backend)
    if early is None:
        return None
    if _early_zygote is None:
        from search.executors.zygotes import Zygote

        _early_zygote = Zygote(log, keras_backend, compiled, early)
    return _early_zygote if _early_zygote.alive else None


def set_slots(executor: Executor, slots: tuple[Slot, ...], opts: Options) -> None:
    """Give an executor the slots of the search. OptionError if it has another number of them.

    Args:
        opts: those that the slots were made for.
    """
    if hasattr(executor, "set_options"):
        executor.set_options(opts)
    if hasattr(executor, "set_slots"):
        executor.set_slots(slots)
    if executor.slots != len(slots):
        raise OptionError(
            f"--executor {opts.executor} has {pluralize(executor.slots, 'slot')}, and the options ask for "
            f"{len(slots)}: give --workers {executor.slots}"
        )
