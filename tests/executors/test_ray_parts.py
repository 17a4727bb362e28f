"""The parts of the `ray` executor that decide without a cluster: code, memory, versions, addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

from search.errors import OptionError
from search.executors.ray.cluster import choose_address
from search.executors.ray.code import Copies, find_local_files, pack_code
from search.executors.ray.links import Excuse
from search.executors.ray.memory import choose_victim, node_memory, tree_memory
from search.executors.ray.versions import describe_difference, installed
from search.messages import Lost, Notice, Segment
from search.space.file import SpaceRef
from search.study.records import SegmentEnded
from search.study.trial import Objective

GB = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a space file, modules that it imports, and modules that it does not."""
    files = {
        "space.py": "import numpy\nimport helper\nfrom parts.layers import Block\nfrom parts import data\n",
        "helper.py": "def f():\n    import late\n",
        "late.py": "",
        "unused.py": "",
        "parts/__init__.py": "from . import base\n",
        "parts/layers.py": "from .base import Base\nfrom ..other import x\n",
        "parts/base.py": "",
        "parts/data.py": "this is no Python",
        "parts/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(text)
    return tmp_path / "code"


def test_the_local_modules_that_a_space_imports_are_found(folder: Path) -> None:
    names = [name for name, _ in find_local_files(folder / "space.py")]
    assert names == [
        "helper.py",
        "late.py",
        "parts/__init__.py",
        "parts/base.py",
        "parts/data.py",
        "parts/layers.py",
        "space.py",
    ]


def test_code_is_used_in_place_if_the_content_is_the_same(folder: Path, tmp_path: Path) -> None:
    ref = SpaceRef(str(folder / "space.py"), seed=3)
    code, copies = pack_code(ref), Copies(tmp_path / "copies")
    assert copies.is_in_place(code)
    assert copies.locate(ref) == ref
    (folder / "late.py").write_text("x = 1")
    assert not copies.is_in_place(code)


def test_a_copy_has_all_files_and_messages_name_the_original(folder: Path, tmp_path: Path) -> None:
    ref = SpaceRef(str(folder / "space.py"), seed=3)
    code, copies = pack_code(ref, [("unused.py", str(folder / "unused.py"))]), Copies(tmp_path / "copies")
    copies.write(code)
    found = copies.locate(ref)
    assert found.path is not None
    assert found.seed == 3
    copy = Path(found.path).parent
    assert {str(path.relative_to(copy)) for path in copy.rglob("*.py")} == set(code.names)
    assert "unused.py" in code.names
    assert copies.with_original_paths(Notice(0, f"{found.path}:3: oops")) == Notice(0, f"{ref.path}:3: oops")


def test_a_pickle_travels_alone(tmp_path: Path) -> None:
    (tmp_path / "factory.pkl").write_bytes(b"pickled")
    ref = SpaceRef(pickle=str(tmp_path / "factory.pkl"))
    copies = Copies(tmp_path / "copies")
    copies.write(pack_code(ref))
    assert Path(str(copies.locate(ref).pickle)).read_bytes() == b"pickled"


@pytest.mark.parametrize(
    ("sizes", "used", "victim"),
    [
        ({0: 10 * GB, 1: 20 * GB}, 92 * GB, None),
        ({0: 10 * GB, 1: 20 * GB}, 93 * GB, 1),
        ({0: 20 * GB, 1: 20 * GB}, 99 * GB, 1),
        ({0: 1 * GB, 1: 2 * GB}, 99 * GB, None),
        ({}, 99 * GB, None),
    ],
)
def test_the_largest_worker_ends_before_the_memory_does(sizes: dict[int, int], used: int, victim: int | None) -> None:
    assert choose_victim(sizes, used, total=100 * GB) == victim


def test_the_memory_of_a_container_counts(tmp_path: Path) -> None:
    groups = tmp_path / "sys/fs/cgroup"
    groups.mkdir(parents=True)
    (groups / "memory.max").write_text("1000000\n")
    (groups / "memory.current").write_text("700000\n")
    (groups / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert node_memory(tmp_path) == (500_000, 1_000_000)
    (groups / "memory.max").write_text("max\n")
    assert node_memory(tmp_path)[1] > 1_000_000


def test_the_memory_of_a_process_that_has_ended_is_none() -> None:
    assert tree_memory(2**22 + 1) == 0


def test_other_versions_on_a_node_are_named() -> None:
    here = {"python": "3.11.7", "ray": "2.60.0", "search": "0.1.0", "keras": "3.12"}
    assert describe_difference(here, here) is None
    assert describe_difference(here, {**here, "keras": "3.11"}) == (
        "has keras 3.11, and this process has 3.12: install the same version"
    )
    assert describe_difference(here, {**here, "search": None}) == "has no search: install search 0.1.0 there"


def test_the_versions_of_this_process_are_found() -> None:
    found = installed(("keras", "no_such_package"))
    assert found["keras"]
    assert found["search"]
    assert found["no_such_package"] is None


@pytest.mark.parametrize(
    ("option", "environ", "running", "address", "source"),
    [
        ("10.0.0.1:6379", "1.1.1.1:1", "2.2.2.2:2", "10.0.0.1:6379", "--ray-address"),
        (None, "1.1.1.1:1", "2.2.2.2:2", "1.1.1.1:1", "RAY_ADDRESS"),
        (None, "", "2.2.2.2:2", "2.2.2.2:2", "it runs on this machine"),
        ("auto", "", "2.2.2.2:2", "2.2.2.2:2", "it runs on this machine"),
        (None, "", None, "", "none runs on this machine"),
        ("local", "1.1.1.1:1", "2.2.2.2:2", "", "--ray-address"),
    ],
)
def test_the_cluster_is_the_option_else_the_variable_else_a_running_one(
    option: str | None, environ: str, running: str | None, address: str, source: str
) -> None:
    assert choose_address(option, {"RAY_ADDRESS": environ}, running) == (address, source)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("ray://head:10001", "--ray-address ray://head:10001: .* run it on a node of the cluster"),
        ("head", "--ray-address 'head' is no address"),
        ("http://head:8265", "is no address"),
        ("auto", "no cluster of yours runs here"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(option: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        choose_address(option, {}, None)


def test_an_excuse_is_no_fault_until_it_happens_too_often() -> None:
    work = Segment(4, 1, SpaceRef("space.py"), {}, 0, 2, 9, Objective("loss", "min"), "folder")
    assert Excuse("its node died").ending(work, 5, fault=False) == Lost("its node died", fault=False)
    assert Excuse("its node died").ending(work, 5, fault=True) == Lost("its node died")
    ended = Excuse("its node ran low", out_of_memory=True).ending(work, 5, fault=False)
    assert ended == SegmentEnded(4, 1, "no_memory", 5, "out of memory: its node ran low")
