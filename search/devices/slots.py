"""Finds the machine's GPUs and processor cores, and cuts them into slots: one worker's place each.

Decisions are pure functions. Only `available_cpus`, `core_ids` and `find_gpus` look at the machine, and only
`apply_slot` changes anything.
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
"""The most slots that `--workers auto` makes of a machine without a GPU."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One worker's place.

    Attributes:
        index: 0, 1, … within the machine.
        gpus: the UUIDs of its GPUs; empty for a slot of processor cores alone.
        cores: the ids of the processor cores it may run on.
        threads: how many threads a worker should compute with, at least 1.
        label: what people call it, "GPU 0" or "CPU 0-3".
        logical: into how many devices the processor is cut, where there are no GPUs.
    """

    index: int
    gpus: tuple[str, ...]
    cores: tuple[int, ...]
    threads: int
    label: str
    logical: int = 1

    @property
    def devices(self) -> int:
        """Over how many devices a trial is spread."""
        return len(self.gpus) or self.logical

    def environment(self) -> dict[str, str]:
        """The environment variables that the worker must have before its framework's runtime starts."""
        if not self.gpus:
            return {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus),
            # Both frameworks take the whole GPU's memory otherwise, also where the slot is a share of it.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }


# The machine ----------------------------------------------------------------------------------------------------------


def core_ids() -> tuple[int, ...]:
    """The ids of the processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def available_cpus(root: str | Path = "/") -> float:
    """How many processors this process may keep busy: its cores, or the quota of its control groups if that is less.

    A container of half a processor gives 0.5. `root` is where `proc` and `sys` are found.
    """
    return min([float(len(core_ids())), *_cgroup_limits(Path(root))])


def _cgroup_limits(root: Path) -> Iterator[float]:
    """The processor quotas of this process's control groups and of all that contain them, versions 1 and 2."""
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
    # Inside a container the path may be the host's, while the mount is the container's own group: then only the mount
    # itself exists. A path that begins with ".." leads out of the namespace, where nothing can be seen.
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


# The decisions --------------------------------------------------------------------------------------------------------


def make_slots(
    gpus: Sequence[Gpu],
    cpus: float,
    core_ids: Sequence[int],
    workers: int | None = None,
    gpus_per_trial: float = 1,
    logical_devices: int = 1,
) -> tuple[Slot, ...]:
    """Cut a machine into slots.

    Args:
        gpus: the GPUs to use; none makes slots of processor cores alone.
        cpus: processors that may be kept busy, as `available_cpus` says.
        core_ids: the cores to share out, as `core_ids` says.
        workers: how many slots; None makes as many as there are shares of GPUs, or one for each processor, up to 8.
        gpus_per_trial: a whole number of GPUs for each slot, or the share of one GPU: 0.5 puts two slots on every GPU,
            0.3 three. Without GPUs, shares mean nothing.
        logical_devices: into how many devices a slot of processor cores alone is cut.

    Slots are spread over all GPUs before any GPU gets a second one. GPUs that do not fill a slot are left unused, the
    last ones first: see `unused_gpus`. OptionError for numbers that do not fit the machine.
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


def sharing(slots: Sequence[Slot]) -> tuple[frozenset[int], ...]:
    """For each slot, the others that share its device's memory: a GPU's, or without GPUs the machine's."""
    return tuple(
        frozenset(
            other.index
            for other in slots
            if other is not slot and (set(other.gpus) & set(slot.gpus) or not (slot.gpus or other.gpus))
        )
        for slot in slots
    )


def unused_gpus(gpus: Sequence[Gpu], slots: Sequence[Slot]) -> tuple[Gpu, ...]:
    """Those of `gpus` that are in none of `slots`: more GPUs than workers, or too few left to fill a slot."""
    used = {uuid for slot in slots for uuid in slot.gpus}
    return tuple(gpu for gpu in gpus if gpu.uuid not in used)


def apply_slot(slot: Slot) -> None:
    """Move this process into `slot`: its environment, and the cores it may run on where the system can say so.

    To be called before the framework's runtime starts; later it has no effect on that.
    """
    os.environ.update(slot.environment())
    if slot.cores and hasattr(os, "sched_setaffinity"):
        # The machine may have taken a core away since the slots were made; then any core will do.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, slot.cores)


def _places(gpus: Sequence[Gpu], per_trial: float) -> list[tuple[tuple[str, ...], str]]:
    """The GPUs and the label of every slot that `gpus` have room for, in the order in which they are filled."""
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
    """The largest `--gpus-per-trial`, as a user would type it, that makes room for `workers` slots on `gpus` GPUs."""
    if workers <= gpus:
        return str(gpus // workers)
    # Rounded down, so that the shares fit.
    share = 1 / math.ceil(workers / gpus)
    return f"{math.floor(share * 1000) / 1000:g}" if share >= 0.001 else f"{share:g}"


def _share_cores(core_ids: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Share cores out over `count` slots: whole ones, neighbours together; with too few, slots share them in turn."""
    if len(core_ids) < count:
        return [(core_ids[index % len(core_ids)],) if core_ids else () for index in range(count)]
    bounds = [len(core_ids) * index // count for index in range(count + 1)]
    return [tuple(core_ids[start:end]) for start, end in itertools.pairwise(bounds)]


def _ranges(cores: Sequence[int]) -> str:
    """Core ids as people write them: "0-3,8"."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
