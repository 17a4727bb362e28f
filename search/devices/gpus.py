"""The GPUs of this machine: those found, those visible, and those chosen by the user."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from search.errors import OptionError

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        index: the driver's number, as `nvidia-smi` shows it.
        uuid: the driver's identifier, "GPU-…".
        name: the model, such as "NVIDIA H200".
        memory: in bytes; 0 if the driver does not tell.
        used: the bytes of it that were in use when the GPU was found, by anyone; None if the driver does not tell.
    """

    index: int
    uuid: str
    name: str
    memory: int
    used: int | None = None

    def __str__(self) -> str:
        return f"{self.index} ({self.name}, {self.uuid})"


def find_gpus(environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the visible NVIDIA GPUs of this machine.

    Asks the driver through `nvidia-ml-py` if that is installed, else through `nvidia-smi`. Without a driver there are
    no GPUs.

    Args:
        environ: the environment variables, of which CUDA_VISIBLE_DEVICES counts: see `visible_gpus`.
    """
    found = ask_nvml(_query_gpus)
    if found is None:
        found = _ask_smi()
    return visible_gpus(found, environ.get("CUDA_VISIBLE_DEVICES"))


def ask_nvml(question: Callable[[Any], Iterable[Answer]]) -> tuple[Answer, ...] | None:
    """Return the answers to a question, a function of the module `pynvml`; None if NVML cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(question(pynvml))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _query_gpus(nvml: Any) -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        yield _query_gpu(nvml, index)


def _query_gpu(nvml: Any, index: int) -> Gpu:
    def text(value: str | bytes) -> str:
        # Old versions of nvidia-ml-py return bytes.
        return value.decode() if isinstance(value, bytes) else value

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    uuid, name = text(nvml.nvmlDeviceGetUUID(handle)), text(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, uuid, name, int(memory.total), int(memory.used))


def _ask_smi() -> tuple[Gpu, ...]:
    return tuple(parse_smi(run_smi("--query-gpu=index,uuid,memory.total,memory.used,name") or ""))


def run_smi(query: str) -> str | None:
    """Return the answer of `nvidia-smi` to `query`, as lines of values and commas; None if there is no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def parse_smi(output: str) -> Iterator[Gpu]:
    """Yield the GPUs in the output of `nvidia-smi`: lines of "index, uuid, memory in MiB, used MiB, name"."""
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",", 4)]
        if len(fields) == 5 and fields[0].isdecimal():
            index, uuid, memory, used, name = fields
            yield Gpu(int(index), uuid, name, parse_mib(memory) or 0, parse_mib(used))


def parse_mib(field: str) -> int | None:
    """Return a number of MiB in bytes; None for "[N/A]", as GPUs that share the machine's memory show."""
    return int(field) * 2**20 if field.isdecimal() else None


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
