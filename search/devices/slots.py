"""Slots: shares of a machine's GPUs and processor cores, one for each worker.

`make_slots` is a pure function. Only `core_ids` and `available_cpus` look at the machine, and only `apply_slot` changes
anything.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from search.devices.gpus import Gpu
from search.errors import OptionError

MAX_CPU_SLOTS = 8
"""The largest number of slots that `--workers auto` makes of a machine without a GPU."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The share of a machine that one worker uses.

    Attributes:
        index: 0, 1, … within the machine.
        gpus: the UUIDs of the GPUs; empty for a slot of processor cores alone.
        cores: the ids of the processor cores that the worker may run on.
        threads: the number of threads for computing, at least 1.
        label: the name for users, "GPU 0" or "CPU 0-3".
        logical: the number of devices that the processor is cut into; 1 if there are GPUs.
        node: the machine, if the slots are on several.
    """

    index: int
    gpus: tuple[str, ...]
    cores: tuple[int, ...]
    threads: int
    label: str
    logical: int = 1
    node: str = ""

    @property
    def devices(self) -> int:
        """The number of devices that a trial is spread over."""
        return len(self.gpus) or self.logical

    def environment(self) -> dict[str, str]:
        """Return the environment variables that must be set before the framework's runtime starts."""
        if not self.gpus:
            return {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus),
            # Otherwise TensorFlow and JAX reserve the whole GPU's memory, even if the slot is a share of the GPU.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }


# The machine ----------------------------------------------------------------------------------------------------------


def core_ids() -> tuple[int, ...]:
    """Return the ids of the processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def available_cpus(root: str | Path = "/") -> float:
    """Return the number of processors that this process may keep busy.

    It is the number of cores, or the quota of the process's control groups if that is less. A container of half a
    processor gives 0.5.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    return min([float(len(core_ids())), *_cgroup_limits(Path(root))])


def _cgroup_limits(root: Path) -> Iterator[float]:
    """Yield the processor quotas of this process's control groups and their ancestors, in versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        # "0::/user.slice" in version 2, "4:cpu,cpuacct:/user.slice" in version 1
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _with_ancestors([mounts, mounts / "unified"], path):
                yield from _quota_v2(folder)
        elif "cpu" in controllers.split(","):
            for folder in _with_ancestors([mounts / controllers, mounts / "cpu"], path):
                yield from _quota_v1(folder)


def _with_ancestors(mounts: Sequence[Path], path: str) -> Iterator[Path]:
    # Inside a container the path may be the host's, while the mount is the container's own group. Then only the mount
    # itself exists. A path that begins with ".." leads out of the namespace, and nothing there is visible.
    relative = PurePosixPath(path.strip("/"))
    for mount in mounts:
        if ".." not in relative.parts:
            for part in (relative, *relative.parents):
                if part.parts:
                    yield mount / part
        yield mount


def _quota_v2(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)


def _quota_v1(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        if quota > 0 and period > 0:
            yield quota / period


# Slots ----------------------------------------------------------------------------------------------------------------


def make_slots(
    gpus: Sequence[Gpu],
    cpus: float,
    core_ids: Sequence[int],
    workers: int | None = None,
    gpus_per_trial: float = 1,
    logical_devices: int = 1,
) -> tuple[Slot, ...]:
    """Return the slots of a machine.

    Each GPU gets one slot before any gets a second. GPUs that do not fill a slot stay unused, the last ones first: see
    `unused_gpus`.

    Args:
        gpus: the GPUs to use; if empty, the slots have processor cores alone.
        cpus: the number of processors that may be kept busy, from `available_cpus`.
        core_ids: the cores to share out, from the function `core_ids`.
        workers: the number of slots; None makes one for each share of a GPU, or, without GPUs, one for each processor,
            up to `MAX_CPU_SLOTS`.
        gpus_per_trial: a whole number of GPUs for each slot, or the share of one GPU: 0.5 puts two slots on every GPU,
            0.3 three. Ignored without GPUs if it is a share.
        logical_devices: the number of devices that a slot of processor cores alone is cut into.

    Raises:
        OptionError: the numbers do not fit the machine.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"--workers {workers}: give at least 1, or auto")
    if gpus and logical_devices > 1:
        raise OptionError(f"--logical-devices {logical_devices} is for searches without GPUs: add --gpus none")
    places = _places(gpus, gpus_per_trial)
    if gpus:
        count = len(places) if workers is None else workers
        if count > len(places):
            raise OptionError(
                f"--workers {workers}: {len(gpus)} GPU(s) at --gpus-per-trial {gpus_per_trial:g} have room for "
                f"{len(places)}; lower --workers, or give --gpus-per-trial {_share_for(workers or 1, len(gpus))}"
            )
    else:
        count = workers or max(1, min(MAX_CPU_SLOTS, math.floor(cpus)))
    threads = max(1, math.floor(cpus / count))
    slots = []
    for index, cores in enumerate(_share_cores(core_ids, count)):
        uuids, label = places[index] if gpus else ((), f"CPU {_ranges(cores)}")
        label += f" as {logical_devices} devices" if logical_devices > 1 else ""
        slots.append(Slot(index, uuids, cores, threads, label, logical_devices))
    return tuple(slots)


def slots_sharing_memory(slots: Sequence[Slot]) -> tuple[frozenset[int], ...]:
    """Return for each slot the indices of the others that share its device's memory.

    The device is a GPU, or, without GPUs, the machine.
    """
    return tuple(
        frozenset(
            other.index
            for other in slots
            if other is not slot
            and other.node == slot.node
            and (set(other.gpus) & set(slot.gpus) or not (slot.gpus or other.gpus))
        )
        for slot in slots
    )


def unused_gpus(gpus: Sequence[Gpu], slots: Sequence[Slot]) -> tuple[Gpu, ...]:
    """Return the GPUs in no slot: there are fewer workers than GPUs, or too few GPUs left to fill a slot."""
    used = {uuid for slot in slots for uuid in slot.gpus}
    return tuple(gpu for gpu in gpus if gpu.uuid not in used)


def apply_slot(slot: Slot) -> None:
    """Set this process's environment for `slot`, and bind the process to the slot's cores if the system allows it.

    Call it before the framework's runtime starts: the runtime reads the environment only then.
    """
    os.environ.update(slot.environment())
    if slot.cores and hasattr(os, "sched_setaffinity"):
        # The system may have removed a core since the slots were made; then any core will do.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, slot.cores)


def _places(gpus: Sequence[Gpu], per_trial: float) -> list[tuple[tuple[str, ...], str]]:
    """Return the GPUs and the label of every slot that fits on `gpus`, in the order in which slots are made."""
    if not (math.isfinite(per_trial) and per_trial > 0):
        raise OptionError(f"--gpus-per-trial {per_trial:g}: give a number above 0")
    if per_trial < 1:
        # 1 / (1 / 93) is 92.99999999999999
        shares = math.floor(1 / per_trial + 1e-9)
        return [
            ((gpu.uuid,), f"GPU {gpu.index}" + (f" ({share + 1} of {shares})" if shares > 1 else ""))
            for share in range(shares)
            for gpu in gpus
        ]
    if per_trial != int(per_trial):
        raise OptionError(f"--gpus-per-trial {per_trial:g}: above 1, give a whole number")
    size = int(per_trial)
    if size > max(1, len(gpus)):
        raise OptionError(f"--gpus-per-trial {size}: only {len(gpus)} GPU(s) can be used: lower it, or see --gpus")
    groups = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
    return [
        (tuple(gpu.uuid for gpu in group), f"GPU{'s' if size > 1 else ''} {'+'.join(str(gpu.index) for gpu in group)}")
        for group in groups
    ]


def _share_for(workers: int, gpus: int) -> str:
    """Return the largest `--gpus-per-trial` that fits `workers` slots on `gpus` GPUs, as a user would type it."""
    if workers <= gpus:
        return str(gpus // workers)
    # Round down, so that the shares fit.
    share = 1 / math.ceil(workers / gpus)
    return f"{math.floor(share * 1000) / 1000:g}" if share >= 0.001 else f"{share:g}"


def _share_cores(core_ids: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Return the cores of each of `count` slots: neighbours stay together, and too few cores are shared in turn."""
    if len(core_ids) < count:
        return [(core_ids[index % len(core_ids)],) if core_ids else () for index in range(count)]
    bounds = [len(core_ids) * index // count for index in range(count + 1)]
    return [tuple(core_ids[start:end]) for start, end in itertools.pairwise(bounds)]


def _ranges(cores: Sequence[int]) -> str:
    """Return core ids as ranges: "0-3,8"."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
