"""The GPUs that a framework sees and the peak of their memory, told by frameworks made up for the test."""

from __future__ import annotations

import sys
import types
from typing import Any

import keras
import pytest

from search.messages import Segment
from search.study.records import SegmentEnded
from search.worker import device_memory
from search.worker.device_memory import count_gpus, take_peak


class FakeTensorFlow(types.ModuleType):
    """A module `tensorflow` with two GPUs, whose memory is measured anew from the bytes that are held."""

    def __init__(self, peaks: dict[str, int]) -> None:
        super().__init__("tensorflow")
        self.peaks = peaks
        self.config = types.SimpleNamespace(
            list_physical_devices=self._devices,
            get_visible_devices=self._devices,
            list_logical_devices=self._devices,
            experimental=types.SimpleNamespace(get_memory_info=self._info, reset_memory_stats=self._reset),
        )

    def _devices(self, kind: str) -> list[types.SimpleNamespace]:
        assert kind == "GPU"
        return [types.SimpleNamespace(name=f"/device:{name}") for name in self.peaks]

    def _info(self, device: str) -> dict[str, int]:
        return {"current": 10, "peak": self.peaks[device]}

    def _reset(self, device: str) -> None:
        self.peaks[device] = 10


class FakeTorch(types.ModuleType):
    """A module `torch` with one GPU, which may not be in use yet."""

    def __init__(self, *, used: bool) -> None:
        super().__init__("torch")
        self.peak = 700
        self.cuda = types.SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 1,
            is_initialized=lambda: used,
            max_memory_allocated=lambda number: self.peak,
            reset_peak_memory_stats=self._reset,
        )

    def _reset(self, number: int) -> None:
        self.peak = 0


def use(patch: pytest.MonkeyPatch, name: str, module: types.ModuleType) -> None:
    """Let Keras run on `module`."""
    patch.setattr(keras.config, "backend", lambda: name)
    patch.setitem(sys.modules, name, module)


def test_tensorflow_tells_the_peak_since_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "tensorflow", FakeTensorFlow({"GPU:0": 300, "GPU:1": 500}))
    assert count_gpus() == 2
    assert [take_peak(), take_peak()] == [500, 10]
    use(monkeypatch, "tensorflow", FakeTensorFlow({}))
    assert (count_gpus(), take_peak()) == (0, None)


def test_torch_tells_the_peak_once_its_gpu_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "torch", FakeTorch(used=True))
    assert [count_gpus(), take_peak(), take_peak()] == [1, 700, 0]
    use(monkeypatch, "torch", FakeTorch(used=False))
    assert [count_gpus(), take_peak()] == [1, None]


def test_jax_tells_the_peak_of_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(platform: str, stats: dict[str, int] | None) -> types.SimpleNamespace:
        return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)

    jax = types.ModuleType("jax")
    use(monkeypatch, "jax", jax)
    gpus = [device("gpu", {"peak_bytes_in_use": 900}), device("cpu", {"peak_bytes_in_use": 9999})]
    monkeypatch.setattr(jax, "local_devices", lambda: gpus, raising=False)
    assert [count_gpus(), take_peak(), take_peak()] == [1, 900, 900]
    monkeypatch.setattr(jax, "local_devices", lambda: [device("gpu", None)])
    assert [count_gpus(), take_peak()] == [1, None]


def test_a_gpu_that_has_failed_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[object]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(device_memory, "_peaks", fail)
    assert take_peak() is None


def test_this_process_has_no_gpu() -> None:
    assert (count_gpus(), take_peak()) == (0, None)


def test_a_segment_reports_the_peak_of_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from search.space.file import SpaceRef
    from search.study.trial import Objective
    from search.worker import segment

    sent: list[object] = []
    channel: Any = types.SimpleNamespace(send=sent.append)
    monkeypatch.setattr(device_memory, "_peaks", lambda: [3 << 30, None])
    work = Segment(0, 0, SpaceRef(path="/nowhere.py"), {}, 1, 0, 1, Objective("loss", "min"), str(tmp_path))
    segment.run_segment(work, channel)
    (ended,) = sent
    assert isinstance(ended, SegmentEnded)
    assert ended.peak_device_memory == 3 << 30
