"""Slots, and the processors and quotas of machines made up for the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_gpus import make_gpus
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from search.devices.slots import MAX_CPU_SLOTS, available_cpus, core_ids, make_slots, unused_gpus
from search.errors import OptionError

steady = settings(derandomize=True, deadline=None, max_examples=150)

# Processors -----------------------------------------------------------------------------------------------------------


def write_machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Write the files `proc` and `sys` of a machine under `root`, and return it."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def quota_v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


V1 = "9:name=systemd:/\n3:cpuset:/x\n2:cpu,cpuacct:/docker/abc\n0::/"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {}, 16.0),
        ("0::/", {"cpu.max": "max 100000"}, 16.0),
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "3200000 100000"}, 16.0),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000"}, 4.0),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3.0),
        ("0::/a/b", {"a/cpu.max": "max 100000", "a/b/cpu.max": "max 100000", "cpu.max": "200000 100000"}, 2.0),
        ("0::/a", {"b/cpu.max": "100000 100000"}, 16.0),
        ("0::/kubepods/pod1/c1", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/../../other", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"unified/cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "nonsense"}, 16.0),
        (V1, quota_v1("cpu,cpuacct/docker/abc", 300_000), 3.0),
        (V1, quota_v1("cpu,cpuacct/docker/abc", -1), 16.0),
        (V1, quota_v1("cpu,cpuacct/docker/abc", 300_000) | quota_v1("cpu,cpuacct/docker", 50_000), 0.5),
        (V1, quota_v1("cpu", 100_000, 50_000), 2.0),
        (V1, quota_v1("cpuset/x", 100_000), 16.0),
    ],
)
def test_the_least_quota_of_all_control_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], expected: float
) -> None:
    monkeypatch.setattr("search.devices.slots.core_ids", lambda: tuple(range(16)))
    assert available_cpus(write_machine(tmp_path, cgroup, files)) == expected


def test_without_control_groups_the_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.devices.slots.core_ids", lambda: (2, 5, 7))
    assert available_cpus(tmp_path) == 3.0


def test_the_cpus_of_this_machine() -> None:
    assert 0 < available_cpus() <= len(core_ids())
    if hasattr(os, "sched_getaffinity"):
        assert set(core_ids()) == os.sched_getaffinity(0)


# Slots ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "workers", "per_trial", "expected"),
    [
        (1, None, 1, ["0"]),
        (3, None, 1, ["0", "1", "2"]),
        (3, 2, 1, ["0", "1"]),
        (2, None, 0.5, ["0", "1", "0", "1"]),
        (2, 3, 0.5, ["0", "1", "0"]),
        (1, None, 0.3, ["0", "0", "0"]),
        (1, None, 0.1, ["0"] * 10),
        (1, None, 1 / 93, ["0"] * 93),
        (1, None, 0.7, ["0"]),
        (4, None, 2, ["01", "23"]),
        (5, None, 2, ["01", "23"]),
        (3, None, 3, ["012"]),
        (4, 1, 2.0, ["01"]),
    ],
)
def test_slots_are_spread_over_gpus_breadth_first(
    count: int, workers: int | None, per_trial: float, expected: list[str]
) -> None:
    slots = make_slots(make_gpus(count), 8.0, range(8), workers, per_trial)
    assert ["".join(uuid[-1] for uuid in slot.gpus) for slot in slots] == expected
    assert [slot.index for slot in slots] == list(range(len(expected)))
    assert len({slot.label for slot in slots}) == len(slots)


def test_labels() -> None:
    def labels(*arguments: Any) -> list[str]:
        return [slot.label for slot in make_slots(*arguments)]

    assert labels(make_gpus(2), 4.0, range(4)) == ["GPU 0", "GPU 1"]
    assert labels(make_gpus(1), 4.0, range(4), None, 0.5) == ["GPU 0 (1 of 2)", "GPU 0 (2 of 2)"]
    assert labels(make_gpus(3), 4.0, range(4), None, 2) == ["GPUs 0+1"]
    assert labels((), 8.0, (0, 1, 2, 5, 6, 7, 8, 9), 2) == ["CPU 0-2,5", "CPU 6-9"]


def test_gpus_that_fill_no_slot_are_unused() -> None:
    gpus = make_gpus(5)
    assert unused_gpus(gpus, make_slots(gpus, 8.0, range(8), None, 2)) == gpus[4:]
    assert unused_gpus(gpus, make_slots(gpus, 8.0, range(8), 2)) == gpus[2:]
    assert unused_gpus(gpus, make_slots(gpus, 8.0, range(8))) == ()


@pytest.mark.parametrize(
    ("cpus", "cores", "workers", "shares", "threads"),
    [
        (4.0, 4, None, [[0], [1], [2], [3]], 1),
        (64.0, 64, None, None, 8),
        (0.5, 2, None, [[0, 1]], 1),
        (2.5, 8, None, [[0, 1, 2, 3], [4, 5, 6, 7]], 1),
        (8.0, 8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]], 4),
        (8.0, 8, 3, [[0, 1], [2, 3, 4], [5, 6, 7]], 2),
        (8.0, 8, 1, [[0, 1, 2, 3, 4, 5, 6, 7]], 8),
        (2.0, 2, 5, [[0], [1], [0], [1], [0]], 1),
        (1.0, 1, None, [[0]], 1),
    ],
)
def test_cores_are_shared_out(
    cpus: float, cores: int, workers: int | None, shares: list[list[int]] | None, threads: int
) -> None:
    slots = make_slots((), cpus, range(cores), workers)
    if shares is None:
        assert len(slots) == MAX_CPU_SLOTS
    else:
        assert [list(slot.cores) for slot in slots] == shares
    assert {slot.threads for slot in slots} == {threads}
    assert {slot.gpus for slot in slots} == {()}


@steady
@given(
    st.integers(0, 8),
    st.integers(1, 70),
    st.floats(0.1, 1),
    st.none() | st.integers(1, 100),
    st.sampled_from([1.0, 0.5, 0.3, 0.07, 2.0, 3.0]),
)
def test_any_slots_fit_the_machine(count: int, cores: int, busy: float, workers: int | None, per_trial: float) -> None:
    try:
        slots = make_slots(make_gpus(count), cores * busy, range(cores), workers, per_trial)
    except OptionError:
        return
    assert slots
    assert workers in (None, len(slots))
    used = [core for slot in slots for core in slot.cores]
    assert set(used) == set(range(cores)) if len(slots) <= cores else set(used) <= set(range(cores))
    sizes = {len(slot.cores) for slot in slots}
    assert max(sizes) - min(sizes) <= 1
    assert len(slots) > cores or len(used) == len(set(used))
    assert all(1 <= slot.threads <= len(slot.cores) for slot in slots)
    if count:
        slots_of_gpu = [sum(gpu.uuid in slot.gpus for slot in slots) for gpu in make_gpus(count)]
        assert all(number * per_trial <= 1 + 1e-9 for number in slots_of_gpu) or per_trial > 1
        assert max(slots_of_gpu) - min(slots_of_gpu) <= 1
        assert {len(slot.gpus) for slot in slots} == {max(1, int(per_trial))}


@pytest.mark.parametrize(
    ("count", "workers", "per_trial", "message"),
    [
        (2, 0, 1, "--workers 0"),
        (0, -1, 1, "--workers -1"),
        (2, None, 0, "--gpus-per-trial 0: give a number above 0"),
        (2, None, -1, "--gpus-per-trial -1: give a number above 0"),
        (2, None, float("nan"), "--gpus-per-trial nan"),
        (2, None, float("inf"), "--gpus-per-trial inf"),
        (2, None, 1.5, "--gpus-per-trial 1.5: above 1, give a whole number"),
        (2, None, 3, "--gpus-per-trial 3: only 2 GPU"),
        (0, None, 2, "--gpus-per-trial 2: only 0 GPU"),
        (2, 3, 1, "room for 2; lower --workers, or give --gpus-per-trial 0.5"),
        (2, 5, 0.5, "room for 4; lower --workers, or give --gpus-per-trial 0.333"),
        (4, 3, 2, "room for 2; lower --workers, or give --gpus-per-trial 1"),
    ],
)
def test_numbers_that_do_not_fit_are_errors_of_one_line(
    count: int, workers: int | None, per_trial: float, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        make_slots(make_gpus(count), 8.0, range(8), workers, per_trial)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@steady
@given(st.integers(1, 8), st.integers(2, 400))
def test_the_suggested_share_makes_room(count: int, workers: int) -> None:
    with pytest.raises(OptionError) as caught:
        make_slots(make_gpus(count), 8.0, range(8), workers, count)
    suggested = re.search(r"or give --gpus-per-trial (\S+)$", str(caught.value))
    assert suggested is not None
    assert len(make_slots(make_gpus(count), 8.0, range(8), workers, float(suggested[1]))) == workers


def test_the_environment_of_a_slot() -> None:
    (gpu, *_) = make_slots(make_gpus(4), 8.0, range(8), None, 2)
    assert gpu.environment() == {
        "CUDA_VISIBLE_DEVICES": "GPU-aa-0,GPU-bb-1",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    (cpu,) = make_slots((), 1.0, (0,))
    assert cpu.environment() == {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


APPLY = """
import os
from search.devices.slots import Slot, apply_slot, core_ids
first = core_ids()[-1]
apply_slot(Slot(0, ("GPU-aa",), (first,), 1, ""))
print(os.environ["CUDA_VISIBLE_DEVICES"], core_ids() == (first,) or not hasattr(os, "sched_setaffinity"))
apply_slot(Slot(0, (), (99999,), 1, ""))  # a core that does not exist
print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"])
import sys
print(sorted({"keras", "tensorflow", "keras_tuner", "numpy"} & set(sys.modules)))
"""


def test_a_slot_is_applied_in_a_process_of_its_own() -> None:
    result = subprocess.run([sys.executable, "-c", APPLY], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines() == ["GPU-aa True", "-1 cpu", "[]"]
