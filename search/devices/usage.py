"""The use of GPUs by processes outside our own tree.

Only `find_processes` and `own_pids` look at the machine. The decisions are pure: `use_of` says who uses a GPU, and
`pick_gpus` which GPUs a search takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.devices.gpus import Gpu, ask_nvml, choose_gpus, parse_mib, run_smi
from search.errors import OptionError
from search.wording import format_memory

if TYPE_CHECKING:
    import psutil

LARGEST_FREE_USE = 1 << 30
"""The bytes of a GPU that processes of others may hold while the GPU still counts as free: a display, a monitor."""


class NoFreeGpu(OptionError):
    """The error that others use each GPU of a machine."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU.

    Attributes:
        gpu: the GPU's UUID.
        pid: the process id that the driver gives.
        memory: the bytes that it holds; None if the driver does not tell.
        name: the program, such as "python", or its path; "" if it is unknown.
        user: the user's name; "" if it is unknown.
        visible: the process is in this process's own list of processes. In a container it may not be.
    """

    gpu: str
    pid: int
    memory: int | None
    name: str = ""
    user: str = ""
    visible: bool = True

    def __str__(self) -> str:
        program = (self.name or "unknown") + (f" of {self.user}" if self.user else "")
        return f"process {self.pid} ({program}{', ' + format_memory(self.memory) if self.memory is not None else ''})"


@dataclass(frozen=True, slots=True)
class Use:
    """The use of a GPU by others.

    Attributes:
        gpu: the GPU.
        others: the processes outside our own tree that hold more than `LARGEST_FREE_USE` of it, the largest first.
        hidden: processes that cannot be seen may hold more than that.
    """

    gpu: Gpu
    others: tuple[GpuProcess, ...] = ()
    hidden: bool = False

    def __str__(self) -> str:
        return f"GPU {self.gpu.index} by {', '.join(map(str, self.others))}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs of a machine that a search takes.

    Attributes:
        gpus: those GPUs.
        left_out: the GPUs that are left out, as others use them.
        hidden: GPUs among `gpus` that others may use, as the processes on them cannot be seen.
    """

    gpus: tuple[Gpu, ...]
    left_out: tuple[Use, ...] = ()
    hidden: tuple[Gpu, ...] = ()

    def lines(self) -> list[str]:
        """Return a line for the user about each GPU that is left out, and one about the processes that are hidden."""
        lines = []
        for use in self.left_out:
            indices = sorted(gpu.index for gpu in (*self.gpus, use.gpu))
            lines.append(f"left out: {use}; --gpus {','.join(map(str, indices))} takes it all the same")
        if self.hidden:
            lines.append(
                f"the processes on {_names(self.hidden)} cannot be seen, as from within a container: no GPU is left "
                "out for them; --gpus names those to take"
            )
        return lines


# Decisions ------------------------------------------------------------------------------------------------------------


def use_of(gpu: Gpu, processes: Sequence[GpuProcess] | None, own: Collection[int]) -> Use:
    """Return the use of `gpu` by others.

    Args:
        processes: the processes on all GPUs; None if the driver does not list them.
        own: the process ids of our own tree.
    """
    listed = [process for process in processes or () if process.gpu == gpu.uuid]
    visible = [process for process in listed if process.visible]
    others = [process for process in visible if process.pid not in own]
    holders = [process for process in others if (process.memory or 0) > LARGEST_FREE_USE]
    hidden = processes is None or len(visible) < len(listed)
    # Memory that no visible process of known size holds: processes of unknown size have it, or hidden ones.
    rest = None if gpu.used is None else gpu.used - sum(process.memory or 0 for process in visible)
    unsized = [process for process in visible if process.memory is None]
    if rest is not None and rest <= LARGEST_FREE_USE:
        hidden = False
    elif not hidden and rest is not None and unsized and all(process in others for process in unsized):
        holders += [replace(process, memory=rest) if len(unsized) == 1 else process for process in unsized]
    elif rest is not None and not unsized:
        hidden = True
    else:
        hidden = hidden or any(process in others for process in unsized)
    return Use(gpu, tuple(sorted(holders, key=lambda process: -(process.memory or 0))), hidden)


def pick_gpus(uses: Sequence[Use], request: str) -> Choice:
    """Return the GPUs that a search with the option `--gpus` takes of a machine.

    Args:
        uses: the machine's visible GPUs, with their use by others.
        request: `auto` takes those that others do not use; see `choose_gpus` for the rest.

    Raises:
        NoFreeGpu: others use each of them.
        OptionError: a GPU was not found.
    """
    chosen = choose_gpus([use.gpu for use in uses], request)
    taken = [use for use in uses if use.gpu in chosen]
    if request.strip().lower() != "auto":
        return Choice(chosen)
    left_out = tuple(use for use in taken if use.others)
    free = [use for use in taken if not use.others]
    if left_out and not free:
        raise NoFreeGpu(
            f"no GPU is free: others use {'; '.join(map(str, left_out))}: wait for them to end, share GPUs by "
            f"--gpus {','.join(str(use.gpu.index) for use in left_out)}, or train on the processor by --gpus none"
        )
    return Choice(tuple(use.gpu for use in free), left_out, tuple(use.gpu for use in free if use.hidden))


def _names(gpus: Sequence[Gpu]) -> str:
    return f"GPU{'s' if len(gpus) > 1 else ''} {', '.join(str(gpu.index) for gpu in gpus)}"


# The machine ----------------------------------------------------------------------------------------------------------


def find_processes() -> tuple[GpuProcess, ...] | None:
    """Return the processes that compute on this machine's GPUs; None if the driver does not list them.

    Asks the driver as `find_gpus` does.
    """
    found = ask_nvml(_query_processes)
    if found is None:
        output = run_smi("--query-compute-apps=gpu_uuid,pid,used_memory,process_name")
        found = None if output is None else tuple(parse_compute_apps(output))
    return None if found is None else tuple(map(_look_up, found))


def _query_processes(nvml: Any) -> Iterator[GpuProcess]:
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            yield GpuProcess(uuid, int(process.pid), process.usedGpuMemory)


def parse_compute_apps(output: str) -> Iterator[GpuProcess]:
    """Yield the processes in the output of `nvidia-smi`: lines of "gpu uuid, pid, used MiB, program's path"."""
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[1].isdecimal():
            uuid, pid, memory, path = fields
            # Instead of a path there may be "[Not Found]" or "[Insufficient Permissions]".
            yield GpuProcess(uuid, int(pid), parse_mib(memory), "" if path.startswith("[") else path)


def _look_up(process: GpuProcess) -> GpuProcess:
    """Return `process` with its program and user, as this machine's list of processes has them.

    The driver may count the processes of another namespace, in which another process has that number. So the program
    must be the same, if the driver tells it.
    """
    import psutil

    try:
        found = psutil.Process(process.pid)
        names = [found.name(), *_file_names(found)]
    except psutil.Error:
        return replace(process, visible=False)
    if process.name and not any(name and name in process.name for name in names):
        return replace(process, visible=False)
    user = ""
    with contextlib.suppress(psutil.Error, KeyError):
        user = found.username()
    return replace(process, name=names[0], user=user)


def _file_names(process: psutil.Process) -> Iterator[str]:
    """Yield the names of a process's program: that of its file, and that by which it was called."""
    import psutil

    for ask in (process.exe, lambda: (process.cmdline() or [""])[0]):
        with contextlib.suppress(psutil.Error, OSError):
            yield Path(ask()).name


def own_pids(root: int | None = None) -> frozenset[int]:
    """Return the ids of the process `root` and all processes that it has started; by default, of this process."""
    import psutil

    try:
        process = psutil.Process(root)
        return frozenset([process.pid, *(child.pid for child in process.children(recursive=True))])
    except psutil.Error:
        return frozenset()
