"""The use of GPUs by others: found through NVML or nvidia-smi, decided from recorded and invented processes."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpus import GIB, fake_smi, make_gpus

from search.devices.gpus import Gpu
from search.devices.nodes import ORPHAN_SECONDS, find_node, find_node_again
from search.devices.usage import (
    Choice,
    GpuProcess,
    NoFreeGpu,
    Use,
    find_processes,
    own_pids,
    parse_compute_apps,
    pick_gpus,
    use_of,
)
from search.errors import OptionError

OWN = {100, 101}
AA, BB = (gpu.uuid for gpu in make_gpus(2))

# As in NVIDIA/nvidia-docker issue 1483: the number is the host's, and in the container the process is 19.
CONTAINER = "GPU-aa-0, 40170, 185, /opt/rh/rh-python38/root/usr/bin/python3\n"
ANSWER = (
    "GPU-aa-0, 4712, 524, VLLM::EngineCore\nGPU-bb-1, 4713, [N/A], [Insufficient Permissions]\n"
    "No running processes found\n\n"
)


def gpu(used: float | None = 0, index: int = 0) -> Gpu:
    """Return a GPU of which `used` GiB are in use; None for a driver that does not tell."""
    return replace(make_gpus(2)[index], used=None if used is None else int(used * GIB))


def process(pid: int, memory: float | None, *, visible: bool = True, uuid: str = AA) -> GpuProcess:
    """Return a process that holds `memory` GiB."""
    return GpuProcess(uuid, pid, None if memory is None else int(memory * GIB), "python", visible=visible)


# Decisions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "processes", "others", "hidden"),
    [
        # Nobody, or little.
        (0, [], [], False),
        (0.6, [], [], False),
        (0.9, [process(7, 0.9)], [], False),
        (1.0, [process(7, 1.0)], [], False),
        (3.0, [process(7, 0.8), process(8, 0.8), process(9, 0.8)], [], False),
        # Others, and our own.
        (1.1, [process(7, 1.01)], [7], False),
        (60.5, [process(7, 60)], [7], False),
        (60, [process(100, 30), process(101, 30)], [], False),
        (60, [process(100, 30), process(7, 10), process(8, 20)], [8, 7], False),
        (60, [process(7, 60, uuid=BB)], [], True),
        # Processes that cannot be seen.
        (60, [], [], True),
        (60, None, [], True),
        (0.6, None, [], False),
        (10.66, [], [], True),  # peci1/nvidia-htop issue 9, a container: 10916 of 11175 MiB, and no process
        (0.15, [], [], False),  # its other GPU: 149 MiB
        (60, [process(7, 60, visible=False)], [], True),
        (0.6, [process(7, 0.5, visible=False)], [], False),
        (60, [process(7, 20), process(8, 40, visible=False)], [7], True),
        (60, [process(100, 20), process(101, 1, visible=False)], [], True),
        # Processes of unknown size.
        (60, [process(7, None)], [7], False),
        (60, [process(7, None), process(8, None)], [7, 8], False),
        (0.6, [process(7, None)], [], False),
        (60, [process(100, 59.5), process(7, None)], [], False),
        (60, [process(100, None)], [], False),
        (60, [process(100, None), process(7, None)], [], True),
        (60, [process(7, None), process(8, None, visible=False)], [], True),
        # A driver that does not tell how much is in use.
        (None, [], [], False),
        (None, None, [], True),
        (None, [process(7, 60)], [7], False),
        (None, [process(7, None)], [], True),
        (None, [process(100, None)], [], False),
        (None, [process(7, None, visible=False)], [], True),
    ],
)
def test_a_gpu_is_used_by_others_that_hold_more_than_a_gib_of_it(
    used: float | None, processes: list[GpuProcess] | None, others: list[int], hidden: bool
) -> None:
    use = use_of(gpu(used), processes, OWN)
    assert ([other.pid for other in use.others], use.hidden) == (others, hidden)


def test_the_only_process_of_unknown_size_holds_the_memory_that_no_other_holds() -> None:
    use = use_of(gpu(60), [process(100, 20), process(7, None)], OWN)
    assert [other.memory for other in use.others] == [40 * GIB]


USED = Use(gpu(61, 0), (GpuProcess(AA, 4711, 60 * GIB, "python", "ada"), GpuProcess(AA, 4712, 2 * GIB)))
FREE = Use(gpu(0, 1))


def test_a_gpu_that_others_use_is_left_out_and_a_line_names_process_and_option() -> None:
    choice = pick_gpus([USED, FREE], "auto")
    assert choice == Choice((FREE.gpu,), (USED,))
    assert choice.lines() == [
        "left out: GPU 0 by process 4711 (python of ada, 60.0 GiB), process 4712 (unknown, 2.0 GiB); --gpus 0,1 takes "
        "it all the same"
    ]


@pytest.mark.parametrize(("request_", "indices"), [("0", [0]), ("1,0", [1, 0]), (AA, [0]), ("none", [])])
def test_a_named_gpu_is_taken_whoever_uses_it(request_: str, indices: list[int]) -> None:
    choice = pick_gpus([USED, FREE], request_)
    assert ([each.index for each in choice.gpus], choice.lines()) == (indices, [])


def test_a_search_without_a_free_gpu_is_refused_in_one_line() -> None:
    other = Use(gpu(9, 1), (GpuProcess(BB, 12, 9 * GIB, "train"),))
    with pytest.raises(NoFreeGpu) as caught:
        pick_gpus([USED, other], " AUTO")
    assert str(caught.value) == (
        "no GPU is free: others use GPU 0 by process 4711 (python of ada, 60.0 GiB), process 4712 (unknown, 2.0 GiB); "
        "GPU 1 by process 12 (train, 9.0 GiB): wait for them to end, share GPUs by --gpus 0,1, or train on the "
        "processor by --gpus none"
    )
    assert pick_gpus([USED, other], "none") == Choice(())
    assert pick_gpus([], "auto") == Choice(())
    with pytest.raises(OptionError, match="there is no GPU '7'"):
        pick_gpus([USED], "7")


def test_nothing_is_left_out_for_processes_that_cannot_be_seen_and_a_line_says_so() -> None:
    hidden = [Use(gpu(60, 0), hidden=True), Use(gpu(60, 1), hidden=True)]
    choice = pick_gpus(hidden, "auto")
    assert choice.gpus == tuple(use.gpu for use in hidden)
    assert choice.lines() == [
        "the processes on GPUs 0, 1 cannot be seen, as from within a container: no GPU is left out for them; --gpus "
        "names those to take"
    ]
    assert pick_gpus(hidden, "0").lines() == []


# The driver's answers -------------------------------------------------------------------------------------------------


def test_answers_of_nvidia_smi_are_read() -> None:
    found = list(parse_compute_apps(CONTAINER + ANSWER))
    assert [(each.gpu, each.pid, each.name) for each in found] == [
        (AA, 40170, "/opt/rh/rh-python38/root/usr/bin/python3"),
        (AA, 4712, "VLLM::EngineCore"),
        (BB, 4713, ""),
    ]
    assert [each.memory for each in found] == [185 * 2**20, 524 * 2**20, None]


def test_processes_of_this_machine_have_names_and_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    us, parent = os.getpid(), os.getppid()
    apps = f"{AA}, {us}, 2048, {sys.executable}\n{AA}, {parent}, 61640, [Not Found]\n{BB}, {gone.pid}, 10, python\n"
    # In a container, the driver's number may be that of another program here.
    apps += f"{BB}, {us}, 10, /opt/nowhere/blender\n"
    fake_smi(tmp_path, monkeypatch, "", apps)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = find_processes()
    assert found is not None
    assert [each.visible for each in found] == [True, True, False, False]
    assert found[0].name
    assert found[0].user == getpass.getuser()
    fake_smi(tmp_path, monkeypatch, "", None)
    assert find_processes() is None


def test_processes_are_found_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = types.ModuleType("pynvml")
    running = [types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]
    functions = {
        "NVMLError": OSError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: b"GPU-aa-0",
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: running,
    }
    for name, function in functions.items():
        monkeypatch.setattr(nvml, name, function, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = find_processes()
    assert found is not None
    assert [(each.gpu, each.pid, each.memory, each.visible) for each in found] == [(AA, os.getpid(), None, True)]


def test_our_own_tree_has_the_processes_that_we_started() -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            assert {os.getpid(), child.pid} <= own_pids()
            assert own_pids(child.pid) == {child.pid}
        finally:
            child.kill()
    assert own_pids(child.pid) == frozenset()


def test_a_node_has_its_gpus_with_their_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = f"0, {AA}, 143771, 61700, NVIDIA H200\n1, {BB}, 143771, 4, NVIDIA H200\n"
    fake_smi(tmp_path, monkeypatch, gpus, f"{AA}, {os.getppid()}, 61640, [Not Found]\n")
    node = find_node()
    assert [len(use.others) for use in node.uses] == [1, 0]
    assert [each.index for each in pick_gpus(node.uses, "auto").gpus] == [1]
    assert find_node(root=os.getppid()).uses[0].others == ()  # our own tree
    assert [use.gpu.index for use in find_node({"CUDA_VISIBLE_DEVICES": "1"}).uses] == [1]
    assert node.memory > GIB
    assert node.cpus > 0
    fake_smi(tmp_path, monkeypatch, gpus, "")  # a container
    assert [use.hidden for use in find_node().uses] == [True, False]


def test_a_search_that_goes_on_waits_for_the_workers_of_a_killed_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            (tmp_path / "apps.csv").write_text("")
            (tmp_path / "gpus.csv").write_text(f"0, {AA}, 143771, 4, NVIDIA H200\n")

    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("search.devices.nodes.time", types.SimpleNamespace(sleep=sleep))
    apps = f"{AA}, {os.getppid()}, 61640, [Not Found]\n"
    fake_smi(tmp_path, monkeypatch, f"0, {AA}, 143771, 61700, NVIDIA H200\n", apps)
    assert find_node_again().uses[0].others == ()
    assert slept == [1, 1]
    (tmp_path / "apps.csv").write_text(apps)
    assert find_node_again().uses[0].others != ()
    assert len(slept) == 2 + ORPHAN_SECONDS
