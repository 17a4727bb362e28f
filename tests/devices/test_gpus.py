"""GPUs: found through NVML or nvidia-smi, hidden by CUDA_VISIBLE_DEVICES, chosen by `--gpus`."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest
from fake_gpus import make_gpus

from search.devices.gpus import Gpu, choose_gpus, find_gpus, visible_gpus
from search.errors import OptionError


class FakeNvml(types.ModuleType):
    """A module `pynvml` that lists given GPUs.

    Args:
        gpus: the GPUs.
        broken: the call that raises: "init" or "count".
        encode: texts are bytes, as in old versions.

    Attributes:
        open: the number of calls of `nvmlInit` without one of `nvmlShutdown`.
    """

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: tuple[Gpu, ...], broken: str = "", encode: bool = False) -> None:
        super().__init__("pynvml")
        self.gpus, self.broken, self.encode, self.open = gpus, broken, encode, 0

    def _call(self, name: str) -> None:
        if name == self.broken:
            raise self.NVMLError("driver not loaded")

    def _text(self, text: str) -> Any:
        return text.encode() if self.encode else text

    def nvmlInit(self) -> None:
        self._call("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._call("count")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> Any:
        return self._text(gpu.uuid)

    def nvmlDeviceGetName(self, gpu: Gpu) -> Any:
        return self._text(gpu.name)

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return types.SimpleNamespace(total=gpu.memory, used=gpu.used)


@pytest.fixture
def no_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.devices.gpus.shutil.which", lambda name: None)


@pytest.mark.parametrize("encode", [False, True])
def test_gpus_are_found_through_nvml(monkeypatch: pytest.MonkeyPatch, encode: bool) -> None:
    nvml = FakeNvml(make_gpus(3), encode=encode)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_gpus({}) == make_gpus(3)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "2,0"}) == (make_gpus(3)[2], make_gpus(3)[0])
    assert nvml.open == 0


@pytest.mark.usefixtures("no_smi")
@pytest.mark.parametrize("broken", ["init", "count", "absent"])
def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    nvml = FakeNvml(make_gpus(3), broken)
    monkeypatch.setitem(sys.modules, "pynvml", None if broken == "absent" else nvml)
    assert find_gpus({}) == ()
    assert nvml.open == 0


def test_gpus_are_found_through_nvidia_smi_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    output = (
        "0, GPU-aa, 143771, 41, NVIDIA H200\n1, GPU-bb, [N/A], [N/A], NVIDIA GB10, rev 2\n\nNo devices were found\n"
    )

    def run(command: list[str], **options: Any) -> Any:
        assert command[0] == "/bin/nvidia-smi"
        return types.SimpleNamespace(stdout=output)

    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("search.devices.gpus.shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("search.devices.gpus.subprocess.run", run)
    expected = (
        Gpu(0, "GPU-aa", "NVIDIA H200", 143771 * 2**20, 41 * 2**20),
        Gpu(1, "GPU-bb", "NVIDIA GB10, rev 2", 0, None),
    )
    assert find_gpus({}) == expected

    def fail(command: list[str], **options: Any) -> Any:
        raise subprocess.CalledProcessError(9, command)

    monkeypatch.setattr("search.devices.gpus.subprocess.run", fail)
    assert find_gpus({}) == ()


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("1,1", [1]),
        ("GPU-bb-1,GPU-cc", [1, 2]),
        ("GPU-", []),
    ],
)
def test_cuda_visible_devices_hides_gpus(visible: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in visible_gpus(make_gpus(3), visible)] == indices


@pytest.mark.parametrize(
    ("request_", "indices"),
    [
        ("auto", [0, 1, 2]),
        ("AUTO", [0, 1, 2]),
        ("none", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0, 0", [0]),
        ("GPU-bb-1", [1]),
        ("gpu-cc,0", [2, 0]),
    ],
)
def test_gpus_are_chosen_by_the_option(request_: str, indices: list[int]) -> None:
    assert [gpu.index for gpu in choose_gpus(make_gpus(3), request_)] == indices


@pytest.mark.parametrize("request_", ["3", "0,3", "all", "", "0,", "GPU-", "GPU-zz", "-1"])
def test_an_unknown_gpu_is_an_error_of_one_line_that_lists_the_gpus(request_: str) -> None:
    with pytest.raises(OptionError, match=r"0 \(H200, GPU-aa-0\), 1 \(H200, GPU-bb-1\)") as caught:
        choose_gpus(make_gpus(2), request_)
    assert "\n" not in str(caught.value)


def test_choosing_without_any_gpu() -> None:
    assert choose_gpus((), "auto") == ()
    with pytest.raises(OptionError, match="no GPU was found on this machine"):
        choose_gpus((), "0")
