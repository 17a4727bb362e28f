"""A process with its descendants: its run time, its memory, its end, and the use of the GPU meanwhile."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from search.devices.gpus import ask_nvml, run_smi

LOOK_SECONDS = 0.5
"""The shortest time between two measurements of the memory."""

LOOK_SHARE = 0.04
"""The largest share of a core's time for measurements: counting shared pages takes tens of milliseconds."""


@dataclass(frozen=True)
class Ran:
    """The result of a command.

    Attributes:
        seconds: from its start to its end.
        memory: the most memory that all its processes had at one time, in MiB.
        code: its exit code; None if it took too long.
        output, errors: its standard output and its standard error.
        samples: the GPU's utilisation in per cent while it ran, each with its time by `time.time`.
    """

    seconds: float
    memory: float
    code: int | None
    output: str
    errors: str
    samples: tuple[tuple[float, float], ...] = ()


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    timeout: float,
    sample: Callable[[], float | None] = lambda: None,
) -> Ran:
    """Run a command to its end, and end the processes that it leaves behind.

    Args:
        folder: a folder for the command's output.
        timeout: seconds after which the command is ended.
        sample: returns the present utilisation of the GPU in per cent; None if it is unknown.
    """
    samples: list[tuple[float, float]] = []
    output, errors = folder / "stdout", folder / "stderr"
    with output.open("w") as out, errors.open("w") as err:
        began = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        tree, pause = Tree(process.pid), LOOK_SECONDS
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(pause)
                seconds = time.monotonic() - began
                if process.returncode is not None or seconds > timeout:
                    break
                looked = time.thread_time()
                tree.look()
                if (used := sample()) is not None:
                    samples.append((time.time(), used))
                pause = max(LOOK_SECONDS, (time.thread_time() - looked) / LOOK_SHARE)
        finally:
            tree.end()
    code, texts = process.returncode, (output.read_text(), errors.read_text())
    return Ran(seconds, tree.most / 2**20, code, *texts, tuple(samples))


class Tree:
    """A process and its descendants, including those that have lost their parents since a `look` found them.

    Attributes:
        most: the most bytes that all processes had together at any `look`.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = {self._root}
        self.most = 0

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self._seen.update(self._root.children(recursive=True))
        self.most = max(self.most, sum(map(memory, self._seen)))

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self._seen.update(self._root.children(recursive=True))
        for process in self._seen:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self._seen)


def memory(process: psutil.Process) -> int:
    """Return the bytes of a process, with its share of shared pages; 0 if the process is gone."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
    except (psutil.AccessDenied, AttributeError):
        # It is another user's process, or the system does not count shares.
        return int(process.memory_info().rss)


def gpu_sampler(uuid: str) -> Callable[[], float | None]:
    """Return a function that asks the NVIDIA driver for the utilisation of a GPU in per cent, None if it is unknown.

    That is the share of the last moment (a sixth of a second to a second) in which any kernel ran.
    """

    def ask(nvml: Any) -> Iterator[float]:
        yield float(nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByUUID(uuid.encode())).gpu)

    def sample() -> float | None:
        found = ask_nvml(ask)
        if found is None:
            found = parse_utilisation(run_smi("--query-gpu=uuid,utilization.gpu") or "", uuid)
        return found[0] if found else None

    return sample


def parse_utilisation(output: str, uuid: str) -> tuple[float, ...]:
    """Return the utilisation of one GPU in the output of `nvidia-smi`: lines of "uuid, per cent"."""
    lines = ([field.strip() for field in line.split(",")] for line in output.splitlines())
    return tuple(
        float(fields[1]) for fields in lines if len(fields) == 2 and fields[0] == uuid and fields[1].isdecimal()
    )
