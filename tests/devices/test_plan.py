"""The plan of slots on machines, and the command `search devices`, with GPUs made up for the test."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import without_waits
from fake_gpus import GIB, fake_smi, make_gpus

from search import cli
from search.devices.nodes import Node
from search.devices.plan import NodePlan, describe_unseen_gpus, error_of, notes_of, plan_machine, plan_placed
from search.devices.slots import Slot
from search.devices.usage import GpuProcess, Use
from search.driver import devices
from search.errors import OptionError
from search.executors.local import LocalExecutor

AA, BB = (gpu.uuid for gpu in make_gpus(2))
PLACES = [("x", 0), ("x", 1), ("y", 0), ("y", 1), ("z", 0)]
BUSY = GpuProcess(AA, 4711, 60 * GIB, "python", "ada")


def node(name: str, gpus: int = 0, busy: tuple[int, ...] = (), seen: int | None = None) -> Node:
    """Return a machine of 8 processors; others use the GPUs `busy`."""
    uses = tuple(Use(gpu, (BUSY,) if gpu.index in busy else ()) for gpu in make_gpus(gpus))
    return Node(name, 8.0, tuple(range(8)), 64 * GIB, uses, "tensorflow" if seen is not None else "", seen)


def labels(plans: tuple[NodePlan, ...]) -> list[list[str]]:
    return [[slot.label for slot in plan.slots] for plan in plans]


def test_slots_lie_on_the_free_gpus_of_a_machine() -> None:
    busy = node("a", 2, busy=(0,))
    plan = plan_machine(busy)
    assert labels((plan,)) == [["GPU 1"]]
    (left_out,) = notes_of([plan])
    assert left_out.startswith("left out: GPU 0 by process 4711 (python of ada, 60.0 GiB); --gpus 0,1 takes")
    assert labels((plan_machine(busy, "0", gpus_per_trial=0.5),)) == [["GPU 0 (1 of 2)", "GPU 0 (2 of 2)"]]
    assert len(plan_machine(busy, "none").slots) == 8
    assert notes_of([plan_machine(node("a", 2), workers=1)]) == ["unused: GPU 1 (H200, GPU-bb-1)"]
    with pytest.raises(OptionError, match="room for 2; lower --workers"):
        plan_machine(node("a", 2), workers=5)


def test_slots_of_a_cluster_lie_on_the_free_gpus_of_all_nodes() -> None:
    slots = [Slot(i, (f"{name}:{gpu}",), (i,), 1, f"GPU {gpu}", node=name) for i, (name, gpu) in enumerate(PLACES)]
    nodes = {"x": node("a", 2, busy=(0,)), "y": node("b", 2), "z": node("c", 1, busy=(0,)), "w": node("d")}
    plans = plan_placed(nodes, slots, "auto")
    assert labels(plans) == [["GPU 1"], ["GPU 0", "GPU 1"], [], []]
    assert plans[1].slots[0].gpus == (AA,)
    assert error_of(plans) == ""
    first, none_free, no_gpu = notes_of(plans)
    assert first == "a: others use GPU 0 by process 4711 (python of ada, 60.0 GiB): its slot opens once it is free"
    assert none_free.startswith("c: others use GPU 0 by process 4711")
    assert no_gpu.startswith("d: it has no GPU, and other nodes have")
    assert error_of(plan_placed({"z": nodes["z"]}, slots[-1:], "auto")).startswith("others use GPU 0 by process 4711")
    on_cores = [replace(slot, gpus=()) for slot in slots]
    plans = plan_placed(nodes, on_cores, "none")
    assert ([len(found) for found in labels(plans)], notes_of(plans)) == ([2, 2, 1, 0], [])


def test_a_search_that_would_not_begin_has_an_error() -> None:
    assert error_of([plan_machine(node("a", 1, busy=(0,)))]).startswith("no GPU is free")
    assert error_of([]) == "there is no machine to search on"
    assert error_of([plan_machine(node("a", 2, seen=2))]) == ""
    assert "sees no GPU: pip install 'tensorflow[and-cuda]'" in error_of([plan_machine(node("a", 2, seen=0))])


@pytest.mark.parametrize(
    ("backend", "fix"), [("tensorflow", "'tensorflow[and-cuda]'"), ("jax", "'jax[cuda12]'"), ("torch", "pytorch.org")]
)
def test_gpus_that_keras_does_not_see_have_a_line_with_the_fix(backend: str, fix: str) -> None:
    line = describe_unseen_gpus(backend, make_gpus(2), 0)
    assert line is not None
    assert line.startswith("the NVIDIA driver shows GPU 0 (H200, GPU-aa-0), 1 (H200, GPU-bb-1), and Keras on ")
    assert fix in line
    assert "--gpus none" in line
    assert "\n" not in line
    assert describe_unseen_gpus(backend, make_gpus(2), 1) is None
    assert describe_unseen_gpus(backend, (), 0) is None


# The command ----------------------------------------------------------------------------------------------------------

TWO = f"0, {AA}, 143771, 61700, NVIDIA H200\n1, {BB}, 143771, 4, NVIDIA H200\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that this machine has two GPUs, one in use by this process's parent, and that Keras sees both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(devices, "COUNT", "print('noise'); print('tensorflow', 2)")
    fake_smi(tmp_path, monkeypatch, TWO, f"{AA}, {os.getppid()}, 61640, [Not Found]\n")
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_devices_are_shown_with_their_use_and_slots(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    shown = capsys.readouterr()
    assert not shown.err
    text = " ".join(shown.out.split())
    assert "0 NVIDIA H200 140.4 GiB 60.3 GiB no" in text
    assert "1 NVIDIA H200 140.4 GiB 4 MiB yes" in text
    assert f"left out: GPU 0 by process {os.getppid()} (" in text
    assert "60.2 GiB); --gpus 0,1 takes it all the same" in text
    assert cli.main(["devices", "--gpus", "0,1", "--json", "--gpus-per-trial", "0.5", "--workers", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document["nodes"]
    assert [gpu["chosen"] for gpu in found["gpus"]] == [True, True]
    assert [[other["pid"] for other in gpu["others"]] for gpu in found["gpus"]] == [[os.getppid()], []]
    assert [slot["gpus"] for slot in found["slots"]] == [[AA], [BB], [AA]]
    assert (found["gpus_seen_by_keras"], document["notes"]) == (2, [])


@pytest.mark.usefixtures("machine")
def test_a_machine_without_a_free_gpu_is_shown_and_then_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for command in (["devices"], ["run", "space.py"]):
        Path("space.py").write_text("def build_model(hp): ...\n\n\ndef load_data(): ...\n")
        assert cli.main(command) == 2
        shown = capsys.readouterr()
        assert ("NVIDIA H200" in shown.out) == (command == ["devices"])
        (line,) = without_waits(shown.err).splitlines()
        assert line.startswith(f"search: no GPU is free: others use GPU 0 by process {os.getppid()} (")
        assert "share GPUs by --gpus 0, or train on the processor by --gpus none" in line
    assert not Path("runs").exists()


def test_keras_is_asked_in_a_process_of_its_own(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = devices.ask_keras(node("a", 2), None)
    assert (found.keras_backend, found.seen) == ("tensorflow", 2)
    monkeypatch.setattr(devices, "COUNT", "raise SystemExit('no Keras')")
    assert devices.ask_keras(node("a", 2), None) == node("a", 2)
    monkeypatch.setattr(devices, "COUNT", "import os; print(os.environ['KERAS_BACKEND'], 0)")
    assert devices.ask_keras(node("a", 2), "jax") == replace(node("a", 2), keras_backend="jax", seen=0)


class Cluster(LocalExecutor):
    """An executor of several machines, as far as `search devices` asks it."""

    @staticmethod
    def find_nodes(options: object) -> dict[str, Node]:
        return {"x": node("a", 2), "y": node("b", 1)}

    @staticmethod
    def find_slots(options: object) -> tuple[Slot, ...]:
        return tuple(
            Slot(i, (f"{at}:{gpu}",), (i,), 1, f"GPU {gpu}", node=at) for i, (at, gpu) in enumerate(PLACES[:3])
        )


def test_the_nodes_of_a_cluster_are_those_that_its_executor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    plans = devices.plan_devices({"executor": "test_plan:Cluster"})
    assert labels(plans) == [["GPU 0", "GPU 1"], ["GPU 0"]]
