"""The GPUs of this machine: which there are, which are visible, and which the user chose."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import OptionError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver numbers it: the `index` that `nvidia-smi` shows, its `memory` in bytes."""

    index: int
    uuid: str
    name: str
    memory: int

    def __str__(self) -> str:
        return f"{self.index} ({self.name}, {self.uuid})"


def find_gpus(environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine, in the driver's order, without those that CUDA_VISIBLE_DEVICES hides.

    Asks the driver through `nvidia-ml-py` where it is installed, else through `nvidia-smi`. No driver, no GPUs.
    """
    found = _ask_nvml()
    if found is None:
        found = _ask_smi()
    return visible_gpus(found, environ.get("CUDA_VISIBLE_DEVICES"))


def _ask_nvml() -> tuple[Gpu, ...] | None:
    """The GPUs that NVML knows; None where it cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(_describe(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _describe(nvml: Any, index: int) -> Gpu:
    def text(value: str | bytes) -> str:
        # Old versions of nvidia-ml-py give bytes.
        return value.decode() if isinstance(value, bytes) else value

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(index, text(nvml.nvmlDeviceGetUUID(handle)), text(nvml.nvmlDeviceGetName(handle)), memory)


def _ask_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(parse_smi(output))


def parse_smi(output: str) -> Iterator[Gpu]:
    """Read the lines "index, uuid, memory in MiB, name" of `nvidia-smi`."""
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdecimal():
            index, uuid, memory, name = fields
            # Some GPUs share the machine's memory and say "[N/A]".
            yield Gpu(int(index), uuid, name, int(memory) * 2**20 if memory.isdecimal() else 0)


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Those of `gpus` that a CUDA_VISIBLE_DEVICES of `visible` shows, in its order; all of them where it is None.

    As in CUDA, the first entry that is no GPU hides itself and all that follow it.
    """
    if visible is None:
        return tuple(gpus)
    shown: list[Gpu] = []
    for token in visible.split(","):
        gpu = _match(gpus, token)
        if gpu is None:
            break
        if gpu not in shown:
            shown.append(gpu)
    return tuple(shown)


def _match(gpus: Sequence[Gpu], token: str) -> Gpu | None:
    """The GPU of this index, or of the one UUID that begins so."""
    token = token.strip()
    if token.isdecimal():
        matches = [gpu for gpu in gpus if gpu.index == int(token)]
    else:
        matches = [gpu for gpu in gpus if token and gpu.uuid.lower().startswith(token.lower())]
    return matches[0] if len(matches) == 1 else None


def choose_gpus(found: Sequence[Gpu], request: str) -> tuple[Gpu, ...]:
    """Those of the GPUs `found` that `--gpus` asks for: `auto` (all), `none`, or indices and UUIDs with commas between.

    A UUID may be cut short where what is left is unique. OptionError for a GPU that was not found.
    """
    if request.strip().lower() == "auto":
        return tuple(found)
    if request.strip().lower() == "none":
        return ()
    chosen: list[Gpu] = []
    for token in request.split(","):
        gpu = _match(found, token)
        if gpu is None:
            known = f"found: {', '.join(map(str, found))}" if found else "no GPU was found on this machine"
            raise OptionError(
                f"--gpus {request}: there is no GPU {token.strip()!r}; {known}. Give auto, none, or indices or UUIDs"
            )
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen)
