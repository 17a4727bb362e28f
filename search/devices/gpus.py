"""The GPUs of this machine: those found, those visible, and those chosen by the user."""

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
    """A GPU.

    Attributes:
        index: the driver's number, as `nvidia-smi` shows it.
        uuid: the driver's identifier, "GPU-…".
        name: the model, such as "NVIDIA H200".
        memory: in bytes; 0 if the driver does not tell.
    """

    index: int
    uuid: str
    name: str
    memory: int

    def __str__(self) -> str:
        return f"{self.index} ({self.name}, {self.uuid})"


def find_gpus(environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the visible NVIDIA GPUs of this machine.

    Asks the driver through `nvidia-ml-py` if that is installed, else through `nvidia-smi`. Without a driver there are
    no GPUs.

    Args:
        environ: the environment variables, of which CUDA_VISIBLE_DEVICES counts: see `visible_gpus`.
    """
    found = _ask_nvml()
    if found is None:
        found = _ask_smi()
    return visible_gpus(found, environ.get("CUDA_VISIBLE_DEVICES"))


def _ask_nvml() -> tuple[Gpu, ...] | None:
    """Return the GPUs that NVML lists; None if NVML cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(_query_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _query_gpu(nvml: Any, index: int) -> Gpu:
    def text(value: str | bytes) -> str:
        # Old versions of nvidia-ml-py return bytes.
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
    """Yield the GPUs in the output of `nvidia-smi`: lines of "index, uuid, memory in MiB, name"."""
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdecimal():
            index, uuid, memory, name = fields
            # GPUs that share the machine's memory show "[N/A]".
            yield Gpu(int(index), uuid, name, int(memory) * 2**20 if memory.isdecimal() else 0)


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves visible, in its order.

    As in CUDA, the first entry that is no GPU ends the list.

    Args:
        gpus: all GPUs.
        visible: the value of CUDA_VISIBLE_DEVICES; None, if it is not set, leaves all GPUs visible.
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
    """Return the GPU whose index is `token`, or the only one whose UUID begins with it; None if there is none."""
    token = token.strip()
    if token.isdecimal():
        matches = [gpu for gpu in gpus if gpu.index == int(token)]
    else:
        matches = [gpu for gpu in gpus if token and gpu.uuid.lower().startswith(token.lower())]
    return matches[0] if len(matches) == 1 else None


def choose_gpus(found: Sequence[Gpu], request: str) -> tuple[Gpu, ...]:
    """Return the GPUs that the option `--gpus` selects.

    Args:
        found: the GPUs to choose from.
        request: `auto` (all), `none`, or indices and UUIDs separated by commas. A UUID may be cut short if the rest is
            unique.

    Raises:
        OptionError: a GPU was not found.
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
